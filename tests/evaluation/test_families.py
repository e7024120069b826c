"""Bounds with every recognition family and layout of the latent, on tiny networks, by enumeration.

See ``laws.py`` for the false-alarm rate and the power of each comparison. Expected values of one draw; of two where
the latent is discrete, as pairs of quadrature nodes in two dimensions are too many.
"""

import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition, MLPDenoiser, MLPRecognition, SharedRecognition
from vadd.backbones.families import FlowNormal, LowRankNormal, RelaxedOneHot
from vadd.priors import CategoricalPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing import exact_log_likelihood, exact_marginal_bound
from vadd.testing.nodes import distribution_nodes

from .enumerated import NODES, sequences_of, value_of
from .laws import check_mean, check_never_above, estimates

VOCAB = 2
SIZE = {"hidden_size": 8, "depth": 1, "modulation_size": 4}
PATCHES = (0, 0, 1)


def mlp(latent, family):
    denoiser = MLPDenoiser(VOCAB, 2, latent, embedding_size=4, feature_size=4, **SIZE)
    return denoiser, MLPRecognition(VOCAB, 2, latent, family=family, embedding_size=4, **SIZE)


def dit(latent, family, num_tokens=2, **options):
    size = {**SIZE, "num_heads": 2}
    denoiser = DiTDenoiser(VOCAB, num_tokens, latent, patches=options.get("patches"), **size)
    return denoiser, DiTRecognition(VOCAB, num_tokens, latent, family=family, **options, **size)


def shared(latent, family):
    denoiser, _ = mlp(latent, "diagonal")
    options = {"hidden_size": 8, "num_heads": 2, "positions": "learned", "family": family}
    return denoiser, SharedRecognition.for_denoiser(denoiser, **options)


CASES = {
    "diagonal": lambda: mlp(2, "diagonal"),
    "low-rank": lambda: mlp(2, LowRankNormal(rank=1)),
    "full": lambda: mlp((2, 1), "full"),
    "flow": lambda: mlp(2, FlowNormal(num_transforms=2, hidden_size=4)),
    "flow in two axes": lambda: mlp((1, 2), FlowNormal(num_transforms=3, hidden_size=8)),
    "a position": lambda: dit((2, 1), "diagonal"),
    "a position, revealed ones too": lambda: dit((2, 1), "diagonal", only_target=False),
    "a position, correlated": lambda: dit((2, 1), LowRankNormal(rank=1)),
    "a patch": lambda: dit((2, 1), "diagonal", num_tokens=3, patches=PATCHES),
    "a patch of a flow": lambda: dit(
        (1, 2), FlowNormal(num_transforms=2, hidden_size=8), num_tokens=3, patches=(0, 0, 0)
    ),
    "shared": lambda: shared(2, "full"),
    "one-hot": lambda: mlp((2, 2), "straight-through"),
    "one-hot, relaxed": lambda: mlp((2, 2), RelaxedOneHot(0.5, is_hard=False)),
    "one-hot a position": lambda: dit((2, 2), "straight-through"),
}
IS_DISCRETE = {name: name.startswith("one-hot") for name in CASES}
EXPLAINS = {name: ("masked", "revealed")[i % 2] for i, name in enumerate(CASES)}


def make_pair(name, explains="masked"):
    torch.manual_seed(0)
    denoiser, recognition = CASES[name]()
    with torch.no_grad():  # networks that have come far from their start
        for part, scale in ((denoiser, 0.35), (recognition, 0.12)):
            for parameter in part.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
        denoiser.trunk.conditioning.latent.modulation.weight.mul_(3)
    latent = tuple(denoiser.latent_shape)
    prior = CategoricalPrior(latent) if IS_DISCRETE[name] else StandardNormalPrior(latent)
    model = VADDModel(denoiser, prior, MaskingProcess(LinearSchedule(), VOCAB)).double()
    return model, RecognitionGuide(recognition, explains=explains).double()


@pytest.mark.parametrize("name", CASES)
def test_the_latent_matters_to_the_model_and_the_tokens_to_the_guide(name):
    """Otherwise the comparisons below would see nothing."""
    model, guide = make_pair(name)
    x_0 = sequences_of(model)
    with torch.no_grad():
        posterior = guide.encode(x_0)
        z = posterior.sample()
        x_t, t, other = torch.full_like(x_0, VOCAB), torch.ones(len(x_0)), z.flip(-1) if IS_DISCRETE[name] else -z
        first, second = (model.denoise(x_t, t, latent).logits for latent in (z, other))
        log_prob = posterior.log_prob(z[:1].expand_as(z))
    assert (first.log_softmax(-1) - second.log_softmax(-1)).abs().max() > 0.1
    assert log_prob.std() > 0.01


@pytest.mark.parametrize("name", CASES)
def test_few_steps(name):
    model, guide = make_pair(name, EXPLAINS[name])
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "finite-step", num_steps=2)
    draws = estimates(model, guide, x_0, bound="finite-step", num_steps=2, num_draws=2, copies=4000)
    check_mean(draws, expected, effect=0.08)
    check_never_above(draws, exact_log_likelihood(model, x_0, num_steps=2, num_nodes=NODES))


@pytest.mark.parametrize("proposal", ["guide", "mixture"])
@pytest.mark.parametrize("name", CASES)
def test_several_latents_tighten_the_bound_and_never_break_it(name, proposal):
    model, guide = make_pair(name, "revealed")
    x_0 = sequences_of(model)
    exact = exact_log_likelihood(model, x_0, num_steps=1, num_nodes=NODES)
    options = {"bound": "finite-step", "num_steps": 1, "proposal": proposal}
    draws = estimates(model, guide, x_0, num_latents=2, copies=2500, **options)
    check_never_above(draws, exact)
    if IS_DISCRETE[name]:
        check_mean(draws, value_of(model, guide, x_0, num_latents=2, **options), effect=0.08)
    # With one step the bound is tight in the limit: not only below, but close to it.
    many = estimates(model, guide, x_0, num_latents=512, copies=40, **options)
    assert (many.mean(0) - exact).abs().max() < 0.1


@pytest.mark.parametrize("name", CASES)
def test_infinitely_many_steps(name):
    model, guide = make_pair(name)
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "marginal", proposal="guide")
    draws = estimates(model, guide, x_0, bound="marginal", proposal="guide", num_draws=2, copies=4000)
    check_mean(draws, expected, effect=0.08)
    limit = exact_marginal_bound(model, x_0, num_nodes=NODES, num_times=2)  # these networks do not read the time
    assert (expected <= limit + 1e-6).all()


@pytest.mark.parametrize("name", CASES)
def test_prior_and_posterior_weigh_each_other_to_one(name):
    """``E_r p / r = 1``, by the nodes of the posterior: density, draws and nodes belong together."""
    model, guide = make_pair(name)
    x_0 = sequences_of(model)
    with torch.no_grad():
        posterior, prior = guide.encode(x_0), model.prior(torch.full_like(x_0, VOCAB), torch.ones(len(x_0)))
        z, log_weights = distribution_nodes(prior)
        total = (log_weights + posterior.log_prob(z) - prior.log_prob(z)).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(len(x_0)), rtol=0, atol=1e-4)
