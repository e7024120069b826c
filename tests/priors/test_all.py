"""Laws of every prior of the library."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser
from vadd.errors import ConfigError
from vadd.priors import CategoricalPrior, MixturePrior, StandardNormalPrior, VampPrior
from vadd.registry import build, describe
from vadd.schedules import LinearSchedule
from vadd.testing import all_sequences, check_prior, distribution_nodes

from .parts import (
    CONTINUOUS,
    DISCRETE,
    LENGTH,
    NETWORK,
    READS_TOKENS,
    REAL,
    TINY,
    VOCAB,
    _OneHot,
    perturb,
    real_priors,
    recognition_of,
    tiny_prior,
)

STANDARD = ["normal", "conditional", "trunk", "flow", "affine flow", "zuko", "zuko, affine"]


def inputs(batch=4):
    x_t = torch.randint(VOCAB + 1, (batch, LENGTH))
    x_t[0], x_t[1] = VOCAB, x_t[1] % VOCAB  # all masked, and nothing
    return x_t, torch.rand(batch)


@pytest.mark.parametrize(("name", "shape"), real_priors())
def test_the_contract_is_kept(name, shape):
    check_prior(REAL[name](shape), VOCAB, LENGTH)


@pytest.mark.parametrize("name", TINY)
def test_the_contract_is_kept_by_tiny_priors(name):
    check_prior(tiny_prior(name), 2, 2)


@pytest.mark.parametrize(("name", "shape"), real_priors(names=STANDARD))
def test_training_starts_at_the_standard_normal(name, shape):
    """Exactly where the prior is normal; a flow's density up to rounding."""
    prior, (x_t, t) = REAL[name](shape), inputs()
    is_padding = torch.zeros_like(x_t, dtype=torch.bool)
    is_padding[2, 3:] = True
    for options in ({}, {"is_padding": is_padding}):
        distribution = prior(x_t, t, **options)
        z = 3 * torch.randn(4, *shape)
        expected = dist.Normal(torch.zeros_like(z), 1.0).to_event(len(shape))
        if "flow" in name or "zuko" in name:
            torch.testing.assert_close(distribution.log_prob(z), expected.log_prob(z), rtol=1e-6, atol=1e-5)
        else:
            assert torch.equal(distribution.mean, torch.zeros_like(z))
            assert torch.equal(distribution.variance, torch.ones_like(z))


@pytest.mark.parametrize(("name", "shape"), real_priors(names=["categorical", "uniform", "conditional categorical"]))
def test_discrete_priors_start_uniform(name, shape):
    distribution = REAL[name](shape)(*inputs())
    probability = distribution.base_dist.probs if len(shape) == 2 else distribution.probs
    torch.testing.assert_close(probability, torch.full((4, *shape), 1 / shape[-1]))


@pytest.mark.parametrize("name", ["conditional", "trunk", "flow", "zuko", "conditional categorical"])
def test_the_start_is_left_at_the_first_steps(name):
    """A gate on a zero, or two zeros in a row, would hold a prior at its start for ever."""
    shape = (3,)
    prior, (x_t, t) = REAL[name](shape), inputs()
    goal = torch.eye(4, 3)[torch.tensor([0, 1, 2, 0])] if "categorical" in name else torch.randn(4, 3) + 1
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.5)
    reached = set()
    for _ in range(3):
        optimizer.zero_grad()
        (-prior(x_t, t).log_prob(goal)).mean().backward()
        reached |= {key for key, p in prior.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert reached == {key for key, _ in prior.named_parameters()}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_integrate_to_one_and_draws_follow_them(name):
    """Means of four functions over 20,000 draws against integrals of the density on a grid.

    A comparison fails at six standard errors: 1e-8 together for eleven priors. Power: a mean off by a tenth of the
    function's standard deviation, as when draws ignore a scale of 1.1, is caught with probability above 0.999.
    """
    prior = tiny_prior(name)
    x_t, t = torch.tensor([[2, 0]]), torch.full((1,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        distribution = prior(x_t, t)
        size = prior.latent_shape.numel()
        axis = torch.linspace(-9, 9, 301, dtype=torch.float64)
        grid = torch.cartesian_prod(*[axis] * size).reshape(-1, 1, *prior.latent_shape)
        density = distribution.log_prob(grid).exp()[:, 0] * (axis[1] - axis[0]) ** size
        # Splines have kinks, and a flow may reach beyond the grid.
        assert float(density.sum()) == pytest.approx(1, abs=1e-3 if "flow" in name or name == "zuko" else 1e-6)
        drawn = distribution.sample(torch.Size([20_000]))
    functions = [lambda z: z.sin(), lambda z: z.cos(), lambda z: (2 * z).sin(), lambda z: (z > 0.7).double()]
    for function in functions:
        values = function(drawn.flatten(1)).prod(-1)
        expected = float((density * function(grid.flatten(1)).prod(-1)).sum())
        error = float(values.std()) / 20_000**0.5
        assert abs(float(values.mean()) - expected) < 6 * error + 2e-3 * (function is functions[-1])


@pytest.mark.parametrize("name", CONTINUOUS)
def test_importance_weights_average_to_one(name):
    """20,000 draws of a wide normal; a density wrong by a tenth is ten standard errors off, and five are allowed."""
    prior = tiny_prior(name)
    x_t, t = torch.tensor([[2, 0]]), torch.full((1,), 0.5, dtype=torch.float64)
    wide = dist.Normal(torch.zeros(1, *prior.latent_shape).double(), 1.8).to_event(len(prior.latent_shape))
    z = wide.sample(torch.Size([20_000]))
    with torch.no_grad():
        weights = (prior(x_t, t).log_prob(z) - wide.log_prob(z)).exp()
    error = float(weights.std()) / 20_000**0.5
    assert error < 0.02
    assert abs(float(weights.mean()) - 1) < 5 * error


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one_and_draws_follow_them(name):
    """Chi-square over all values at false-alarm rate 1e-7, 20,000 draws."""
    from scipy import stats

    prior = tiny_prior(name)
    with torch.no_grad():
        distribution = prior(torch.tensor([[2, 0]]), torch.full((1,), 0.5, dtype=torch.float64))
        z, _ = distribution_nodes(CategoricalPrior(tuple(prior.latent_shape))(torch.zeros(1, 2).long(), torch.ones(1)))
        assert len(z) == (9 if prior.latent_shape == (2, 3) else 4)
        probability = distribution.log_prob(z)[:, 0].exp()
        assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
        drawn = distribution.sample(torch.Size([20_000]))
    assert drawn.is_floating_point()
    counts = (drawn.flatten(1)[:, None] == z.flatten(1)[None]).all(-1).sum(0)
    assert counts.sum() == 20_000
    assert stats.chisquare(counts, 20_000 * probability).pvalue > 1e-7


@pytest.mark.parametrize("name", TINY)
def test_only_conditional_priors_read_the_tokens(name):
    prior, t = tiny_prior(name), torch.ones(9, dtype=torch.float64)
    x_t = all_sequences(3, 2)
    with torch.no_grad():
        z = prior(x_t, t).sample()
        score = prior(x_t, t).log_prob(z[:1].expand_as(z))
    assert torch.allclose(score, score[:1], rtol=0, atol=1e-12) == (name not in READS_TOKENS)


@pytest.mark.parametrize("name", ["conditional", "trunk"])
def test_conditions_reach_the_network(name):
    options = {**NETWORK, "num_classes": 3}
    prior = {
        "conditional": lambda: REAL["conditional"]((2,)),
        "trunk": lambda: REAL["trunk"]((2,)),
    }[name]()
    from vadd.backbones import MLPRecognition
    from vadd.priors import ConditionalPrior, TrunkPrior

    if name == "conditional":
        prior = ConditionalPrior(MLPRecognition(VOCAB, LENGTH, 2, **options), VOCAB)
    else:
        prior = TrunkPrior(2, 16).attach(perturb(MLPDenoiser(VOCAB, LENGTH, 2, **options), 0.3))
    perturb(prior, 0.3)
    x_t, t = inputs()
    means = [prior(x_t, t, condition=torch.full((4,), label)).mean for label in (0, 1)]
    assert (means[0] - means[1]).abs().max() > 1e-4
    check_prior(prior, VOCAB, LENGTH, condition=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("name", ["mixture", "mixture of equal weights", "conditional", "trunk", "categorical"])
def test_latents_of_padding_are_standard(name):
    """One vector a position: what the recognition networks put at padding costs nothing there."""
    prior = perturb(REAL[name]((LENGTH, 2)), 0.5).double()
    if name == "trunk":
        prior.denoiser.double()
    x_t, t = inputs()
    t = t.double()
    is_padding = torch.zeros_like(x_t, dtype=torch.bool)
    is_padding[:, 4:] = True
    distribution = prior(x_t, t, is_padding=is_padding)
    if name == "categorical":
        torch.testing.assert_close(distribution.base_dist.probs[:, 4:], torch.full((4, 2, 2), 0.5).double())
        assert (distribution.base_dist.probs[:, :4] - 0.5).abs().min() > 1e-3
        return
    z = torch.randn(4, LENGTH, 2).double()
    other = z.clone()
    other[:, 4:] = torch.randn(4, 2, 2).double()
    standard = dist.Normal(0.0, 1.0).expand([4, 2, 2]).to_event(2)
    got = distribution.log_prob(z) - distribution.log_prob(other)
    expected = standard.log_prob(z[:, 4:]) - standard.log_prob(other[:, 4:])
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "shape"), real_priors())
def test_a_prior_is_rebuilt_from_its_description(name, shape):
    prior = perturb(REAL[name](shape), 0.2)
    if name == "conditional categorical":
        with pytest.raises(ConfigError, match="_OneHot cannot be described"):
            describe(prior)
        return
    twin = build(describe(prior))
    twin.load_state_dict(prior.state_dict())
    if name == "trunk":
        twin.attach(prior.denoiser)
    if name == "vamp":
        twin.attach_recognition(prior.recognition)
    x_t, t = inputs()
    z = prior(x_t, t).sample()
    assert torch.equal(prior(x_t, t).log_prob(z), twin(x_t, t).log_prob(z))


@pytest.mark.parametrize(("name", "shape"), real_priors())
def test_half_precision_weights_give_densities_in_float32(name, shape):
    prior, (x_t, t) = REAL[name](shape), inputs()
    if name == "vamp":
        prior.recognition.bfloat16()
    if name == "trunk":
        prior.denoiser.bfloat16()
    prior.bfloat16()
    if name.startswith("zuko"):
        with pytest.raises(ConfigError, match=r"float32 or wider, got torch.bfloat16: call prior.float"):
            prior(x_t, t)
        return
    distribution = prior(x_t, t)
    z = distribution.sample()
    assert z.dtype == torch.float32
    assert distribution.log_prob(z).dtype == torch.float32


@pytest.mark.parametrize("engine", ["svi", "module", "vectorized"])
@pytest.mark.parametrize(("name", "shape"), real_priors())
def test_every_parameter_of_a_prior_is_trained(name, shape, engine):
    """Both engines, and particles in one pass: after three steps each tensor of the prior has moved."""
    is_discrete = "categorical" in name or name == "uniform"
    prior = REAL[name](shape)
    if name == "trunk":
        denoiser, recognition = prior.denoiser, recognition_of(shape)
    else:
        denoiser = MLPDenoiser(VOCAB, LENGTH, shape, **NETWORK)
        recognition = _OneHot(shape) if is_discrete else recognition_of(shape)
    process = MaskingProcess(LinearSchedule(), VOCAB)
    model, guide = VADDModel(denoiser, prior, process), RecognitionGuide(recognition)
    if name == "vamp":
        prior.attach_recognition(recognition)
    before = {key: p.clone() for key, p in prior.named_parameters()}
    particles = {"num_particles": 2, "vectorize_particles": True} if engine == "vectorized" else {}
    x_0, elbo = torch.randint(VOCAB, (16, LENGTH)), DELBO(process, **particles)
    if engine == "svi":
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=elbo)
        for _ in range(3):
            svi.step(x_0)
    else:
        loss_fn = elbo(model, guide)
        optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(x_0).backward()
            optimizer.step()
    assert [key for key, p in prior.named_parameters() if torch.equal(p, before[key])] == []
    analytic = is_discrete or name in ("normal", "conditional", "trunk")
    assert elbo.kl_mode == ("analytic" if analytic else "monte-carlo")


@pytest.mark.parametrize(("name", "shape"), real_priors())
def test_copies_are_independent_and_equal(name, shape):
    prior, (x_t, t) = perturb(REAL[name](shape), 0.2), inputs()
    z = prior(x_t, t).sample()
    before = prior(x_t, t).log_prob(z)
    twin = copy.deepcopy(prior)
    perturb(prior, 0.2)
    assert torch.equal(twin(x_t, t).log_prob(z), before)


@pytest.mark.parametrize("build_prior", [lambda s: MixturePrior(s), lambda s: VampPrior(s, 2, 3), REAL["flow"]])
def test_an_empty_latent_is_refused(build_prior):
    with pytest.raises(ConfigError, match=r"latent_shape must have components, got \(0,\).*StandardNormalPrior\(0\)"):
        build_prior((0,))
    assert StandardNormalPrior(0).latent_shape == (0,)


def test_a_vocabulary_of_another_size_is_refused():
    prior = REAL["conditional"]((3,))
    denoiser = MLPDenoiser(VOCAB + 1, LENGTH, 3, **NETWORK)
    with pytest.raises(ConfigError, match="prior and process disagree on vocab_size: 4 and 5"):
        VADDModel(denoiser, prior, MaskingProcess(LinearSchedule(), VOCAB + 1))
