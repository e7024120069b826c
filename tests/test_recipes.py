"""The recipes: what they are made of, that they train, and that the default one ends with a gate."""

import pytest
import torch
from torch import nn

from vadd import MaskingProcess
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import DELBO, LinearKL, MixedELBO, NullLatentELBO, SharedLatentELBO
from vadd.priors import CategoricalPrior, MixturePrior, StandardNormalPrior
from vadd.recipes import get_recipe
from vadd.schedules import LinearSchedule
from vadd.training import load_checkpoint, save_checkpoint

SIZE = {"hidden_size": 32, "depth": 1, "embedding_size": 8, "modulation_size": 16}


def parts(latent_size=2, vocab=4, tokens=2):
    denoiser = MLPDenoiser(vocab, tokens, latent_size, **SIZE)
    recognition = MLPRecognition(vocab, tokens, latent_size, **SIZE) if latent_size else EmptyRecognition()
    return denoiser, recognition, MaskingProcess(LinearSchedule(), vocab)


def train(recipe, model, guide, data, num_updates):
    objective = recipe.objective(model.process)
    loss = objective(model, guide)
    optimizer = torch.optim.Adam(nn.ModuleList([model, guide]).parameters(), 1e-2)
    schedule = recipe.kl_schedule(num_updates)
    for step in range(num_updates):
        objective.kl_weight = schedule(step)
        optimizer.zero_grad()
        loss(data[torch.randint(len(data), (64,))]).backward()
        optimizer.step()


def test_paper_recipe_is_the_papers():
    recipe = get_recipe("paper")
    model, guide = recipe.pair(*parts())
    assert isinstance(model.prior, StandardNormalPrior)
    assert (model.latents, model.latent_dropout, model.gate) == ("fresh", 0.0, None)
    assert type(recipe.objective(model.process)) is DELBO
    assert recipe.kl_schedule(200_000) == LinearKL(50_000)
    assert recipe.finish(model, guide, torch.zeros(2, 2, dtype=torch.int64)) is None


def test_another_prior_takes_the_place_of_the_recipes():
    prior = StandardNormalPrior(2)
    model, _ = get_recipe().pair(*parts(), prior=prior)
    assert model.prior is prior
    with pytest.raises(ConfigError, match="latent_shape"):
        get_recipe().pair(*parts(), prior=StandardNormalPrior(3))


@pytest.mark.parametrize(
    ("name", "null_share", "endless"), [("default", 0.2, 0.45), ("default-many", 0.1, 0.75)], ids=lambda x: str(x)
)
def test_default_recipes_mix_shared_latents_and_null_rows(name, null_share, endless):
    recipe = get_recipe(name)
    model, _ = recipe.pair(*parts())
    objective = recipe.objective(model.process, free_bits=0.5)
    assert isinstance(model.prior, MixturePrior)
    assert model.latents == "shared"
    assert isinstance(objective, MixedELBO)
    assert [type(part) for part in objective.parts] == [SharedLatentELBO, NullLatentELBO]
    assert objective.free_bits == 0.5
    assert objective.shares == pytest.approx([1 - null_share, null_share])
    assert objective.parts[0].num_steps.probabilities[-1] == endless


def test_mdm_recipe_has_no_latent():
    recipe = get_recipe("mdm")
    model, guide = recipe.pair(*parts(0))
    assert not model.has_latent
    assert list(guide.parameters()) == []
    assert [recipe.kl_schedule(100)(step) for step in (0, 100)] == [1.0, 1.0]


def test_default_recipe_couples_the_tokens_of_one_step_and_stores_its_gate(tmp_path):
    torch.manual_seed(0)
    recipe, data = get_recipe(), torch.arange(4)[:, None].expand(-1, 2).repeat(64, 1)
    model, guide = recipe.pair(*parts())
    train(recipe, model, guide, data, 300)
    fit = recipe.finish(model, guide, data, num_steps=(1, 2))
    assert model.gate == fit.gate
    assert fit.gate.plan(1)[0] != "null"
    options = {"bound": "finite-step", "num_steps": 1, "num_latents": 16}
    # ln 4 = 1.386 nats for one token, twice that without a latent.
    assert log_likelihood_bound(model, guide, data[:64], **options).nats < 1.7
    assert log_likelihood_bound(model, guide, data[:64], latents="null", **options).nats > 2.7
    save_checkpoint(tmp_path, model, guide)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.gate == model.gate
    assert loaded.latents == "shared"


def test_the_prior_is_fitted_anew_where_that_gains():
    torch.manual_seed(0)
    recipe, data = get_recipe(), torch.arange(4)[:, None].expand(-1, 2).repeat(64, 1)
    model, guide = recipe.pair(*parts())
    train(recipe, model, guide, data, 100)
    with torch.no_grad():
        model.prior.loc.add_(5.0)  # far from every posterior
    old = model.prior
    before = log_likelihood_bound(model, guide, data[:64], bound="finite-step", num_steps=1, num_latents=16).nats
    recipe.finish(model, guide, data, num_steps=(1,))
    assert model.prior is old
    recipe.finish(model, guide, data, training=data, num_steps=(1,))
    assert model.prior is not old
    model.gate = None
    assert log_likelihood_bound(model, guide, data[:64], bound="finite-step", num_steps=1, num_latents=16).nats < before
    fitted = model.prior
    recipe.finish(model, guide, data, training=data, num_steps=(1,))
    assert model.prior is fitted  # nothing left to gain


def test_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe must be one of default, default-many, paper, mdm"):
        get_recipe("published")


def test_recipes_and_networks_must_agree_on_the_latent():
    with pytest.raises(ConfigError, match="latent_shape=0"):
        get_recipe("mdm").pair(*parts())
    denoiser, _, process = parts()
    with pytest.raises(ConfigError, match="needs a recognition network"):
        get_recipe("paper").pair(denoiser, EmptyRecognition(), process)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda recipe: recipe.pair(3, *parts()[1:]),
            ConfigError,
            "denoiser must be a Denoiser, got int; for example MLP",
        ),
        (
            lambda recipe: recipe.pair(parts()[0], 4, parts()[2]),
            ConfigError,
            "recognition must be a Recognition, got int",
        ),
        (lambda recipe: recipe.pair(*parts()[:2], None), ConfigError, "process must be a MaskingProcess, got NoneType"),
        (lambda recipe: recipe.kl_schedule("a"), DomainError, "num_updates must be an integer of at least 1, got 'a'"),
        (lambda recipe: recipe.kl_schedule(-5), DomainError, "num_updates must be an integer of at least 1, got -5"),
        (
            lambda recipe: recipe.finish(*recipe.pair(*parts()), torch.zeros(2, 2, dtype=torch.int64), training=[1, 2]),
            ConfigError,
            "training must be a Tensor or Mapping, got list; give x_0, or a mapping",
        ),
    ],
    ids=["denoiser", "recognition", "process", "word", "negative", "training"],
)
def test_arguments_of_another_type_are_named(run, error, message):
    with pytest.raises(error, match=message):
        run(get_recipe())


def test_one_hot_families_get_a_categorical_prior():
    denoiser = MLPDenoiser(4, 2, (2, 3), **SIZE)
    recognition = MLPRecognition(4, 2, (2, 3), family="straight-through", **SIZE)
    model, guide = get_recipe().pair(denoiser, recognition, MaskingProcess(LinearSchedule(), 4))
    assert isinstance(model.prior, CategoricalPrior)
    assert get_recipe().objective(model.process)(model, guide)(torch.zeros(4, 2, dtype=torch.int64)).isfinite()


def test_networks_with_other_latents_are_refused():
    denoiser, _, process = parts(2)
    with pytest.raises(ConfigError, match="denoiser and recognition disagree on latent_shape"):
        get_recipe().pair(denoiser, MLPRecognition(4, 2, 3, **SIZE), process)


def test_the_prior_is_fitted_under_conditions():
    denoiser = MLPDenoiser(4, 2, 2, num_classes=2, **SIZE)
    recognition = MLPRecognition(4, 2, 2, num_classes=2, **SIZE)
    recipe, seen = get_recipe(), []
    model, guide = recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), 4))
    encode = guide.encode
    guide.encode = lambda x_0, **options: seen.append(options.get("condition")) or encode(x_0, **options)
    with torch.no_grad():
        model.prior.loc.add_(5.0)  # far from every posterior
    old, x_0 = model.prior, torch.randint(4, (60, 2))
    recipe.refit_prior(model, guide, {"x_0": x_0, "condition": torch.arange(60) % 2})
    assert model.prior is not old
    assert all(condition is not None for condition in seen)
