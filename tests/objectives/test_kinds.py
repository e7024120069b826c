"""Discrete and continuous latents do not mix; free bits of estimated divergences; guides and what they explain."""

import pytest
import torch

from vadd import DELBO, FiniteStepELBO, MaskingProcess, MixedELBO, RecognitionGuide, SharedLatentELBO, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.errors import ConfigError
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import NullLatentELBO
from vadd.priors import CategoricalPrior, MixturePrior, StandardNormalPrior, VampPrior
from vadd.schedules import LinearSchedule

SIZE = {"hidden_size": 8, "depth": 1, "embedding_size": 4, "modulation_size": 8}
X_0 = torch.randint(3, (16, 2), generator=torch.Generator().manual_seed(0))


def make_pair(prior, latent_shape=(2, 3), family="diagonal", explains="masked"):
    recognition = MLPRecognition(3, 2, latent_shape, family=family, **SIZE)
    prior = prior(recognition) if callable(prior) and not isinstance(prior, torch.nn.Module) else prior
    model = VADDModel(MLPDenoiser(3, 2, latent_shape, **SIZE), prior, MaskingProcess(LinearSchedule(), 3))
    return model, RecognitionGuide(recognition, explains=explains)


@pytest.mark.parametrize(
    ("prior", "family"),
    [(MixturePrior((2, 3), 4), "relaxed"), (StandardNormalPrior((2, 3)), "straight-through")],
)
def test_a_discrete_guide_needs_a_discrete_prior(prior, family):
    model, guide = make_pair(prior, family=family)
    with pytest.raises(ConfigError, match="the guide's latent is discrete and the prior's continuous"):
        DELBO(model.process)(model, guide)(X_0)
    for num_latents in (1, 4):
        with pytest.raises(ConfigError, match="the guide's latent is discrete"):
            log_likelihood_bound(model, guide, X_0, bound="finite-step", num_steps=1, num_latents=num_latents)


def test_a_continuous_guide_needs_a_continuous_prior():
    model, guide = make_pair(CategoricalPrior((2, 3)))
    with pytest.raises(ConfigError, match="the guide's latent is continuous and the prior's discrete"):
        log_likelihood_bound(model, guide, X_0, bound="finite-step", num_steps=1)


def test_a_discrete_latent_is_not_trained_on_an_estimate_without_gradient():
    model, guide = make_pair(lambda r: VampPrior.from_data(r, X_0, 3), family="straight-through")
    with pytest.raises(ConfigError, match="its estimate no gradient"):
        DELBO(model.process)(model, guide)(X_0)
    log_likelihood_bound(model, guide, X_0, bound="finite-step", num_steps=1, num_latents=4)  # evaluation needs none


def test_free_bits_cover_the_batch_where_the_divergence_is_estimated():
    torch.manual_seed(0)
    for prior in (StandardNormalPrior(2), MixturePrior(2, 3)):
        model, guide = make_pair(prior, latent_shape=2)
        # More than the guide pays at its start, and by far: nothing is left to lower.
        objective = SharedLatentELBO(model.process, 1, free_bits=50.0)
        objective(model, guide)(X_0).backward()
        reconstruction = float(objective.last_terms.reconstruction)
        loss = objective.differentiable_loss(model, guide, X_0).item()
        assert loss == pytest.approx(reconstruction + 50, rel=0.2)
        prior_gradients = [p.grad for p in model.prior.parameters()]
        assert all(g is None or not g.any() for g in prior_gradients)


@pytest.mark.parametrize("objective", [DELBO, SharedLatentELBO])
def test_objectives_that_hide_nothing_refuse_a_guide_of_revealed_tokens(objective):
    model, guide = make_pair(StandardNormalPrior(2), latent_shape=2, explains="revealed")
    with pytest.raises(ConfigError, match="build them alike"):
        objective(model.process)(model, guide)(X_0)


def test_mixtures_with_revealed_steps_take_a_guide_of_revealed_tokens():
    model, guide = make_pair(StandardNormalPrior(2), latent_shape=2, explains="revealed")
    process = model.process
    steps = FiniteStepELBO(process, 2, target="revealed")
    for other in (DELBO(process), NullLatentELBO(process)):
        assert MixedELBO([(steps, 0.5), (other, 0.5)])(model, guide)(X_0).isfinite()
    with pytest.raises(ConfigError, match="build them alike"):
        MixedELBO([(DELBO(process), 0.5), (NullLatentELBO(process), 0.5)])(model, guide)(X_0)
