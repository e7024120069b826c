"""The KL divergence of arbitrary pairs: formulas against quadrature and draws, and how it was found."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Independent

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.backbones.base import diagonal_normal
from vadd.distributions import GumbelOneHot
from vadd.evaluation.importance import LatentIntegral
from vadd.objectives.divergence import analytic_divergence, latent_divergence
from vadd.priors import CategoricalPrior, FlowPrior, LatentPrior, MixturePrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing import distribution_nodes, kl_mode

BATCH = 4


def tensor(*shape):
    return torch.randn(BATCH, *shape, dtype=torch.float64)


def diagonal(*shape):
    return diagonal_normal(tensor(*shape), tensor(*shape))


def full(d):
    root = tensor(d, d).tril(-1) + torch.diag_embed(tensor(d).exp())
    return dist.MultivariateNormal(tensor(d), scale_tril=root)


def low_rank(d):
    return dist.LowRankMultivariateNormal(tensor(d), tensor(d, 1), tensor(d).exp())


def one_hot(groups, categories, *, kind=dist.OneHotCategorical):
    return kind(logits=tensor(groups, categories)).to_event(1)


def straight_through(groups, categories):
    return one_hot(groups, categories, kind=dist.OneHotCategoricalStraightThrough)


def relaxed(groups, categories):
    return GumbelOneHot(tensor(groups, categories), 0.5).to_event(1)


FORMULAS = {
    "diagonal, diagonal": lambda: (diagonal(2), diagonal(2)),
    "diagonal, full": lambda: (diagonal(2), full(2)),
    "full, diagonal": lambda: (full(2), diagonal(2)),
    "diagonal, low rank": lambda: (diagonal(3), low_rank(3)),
    "low rank, diagonal": lambda: (low_rank(3), diagonal(3)),
    "low rank, full": lambda: (low_rank(2), full(2)),
    "full, low rank": lambda: (full(2), low_rank(2)),
    "straight-through, one-hot": lambda: (straight_through(2, 3), one_hot(2, 3)),
    "Gumbel, one-hot": lambda: (relaxed(2, 3), one_hot(2, 3)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_the_expected_log_ratio(name):
    """By quadrature, or summation, under the first distribution; the log-ratio of normals is quadratic, so exact."""
    r, p = FORMULAS[name]()
    z, log_weights = distribution_nodes(r)
    expected = (log_weights.exp() * (r.log_prob(z) - p.log_prob(z))).sum(0)
    got = analytic_divergence(r, p)
    assert got.shape == (BATCH,)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)
    assert torch.equal(latent_divergence(r, p, z[0]), got)  # the draw does not matter
    assert kl_mode(r, p) == "analytic"


@pytest.mark.parametrize("name", FORMULAS)
def test_divergences_of_independent_parts_add_up(name):
    """Latents of one axis more: the batch becomes part of the event."""
    r, p = FORMULAS[name]()
    got = analytic_divergence(r.to_event(1), p.to_event(1))
    assert got.shape == ()
    torch.testing.assert_close(got, analytic_divergence(r, p).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_distributions_have_none(dtype):
    for r, p in (
        (dist.Normal(torch.ones(2, 3, dtype=dtype), 0.7).to_event(1), None),
        (
            dist.LowRankMultivariateNormal(torch.ones(2, 3), torch.zeros(2, 3, 1), 0.49 * torch.ones(2, 3)),
            dist.Normal(torch.ones(2, 3), 0.7).to_event(1),
        ),
        (
            dist.Normal(torch.ones(2, 3), 0.7).to_event(1),
            dist.MultivariateNormal(torch.ones(2, 3), 0.49 * torch.eye(3)),
        ),
    ):
        got = analytic_divergence(r, r if p is None else p)
        torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=5e-6)


def test_pairs_without_a_formula_take_the_log_ratio_at_the_draw():
    r = diagonal(2)
    z, x_t = r.rsample(), torch.zeros(BATCH, 2).long()
    for prior in (MixturePrior(2, 3).double(), FlowPrior(2, num_layers=2, hidden_size=4).double()):
        p = prior(x_t, torch.ones(BATCH))
        assert analytic_divergence(r, p) is None
        assert kl_mode(r, p) == "monte-carlo"
        assert torch.equal(latent_divergence(r, p, z), r.log_prob(z) - p.log_prob(z))


def test_the_estimate_is_unbiased_with_the_right_gradient():
    """Mean of 20,000 draws, and of their gradients, against quadrature: within five standard errors."""
    loc = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    p = MixturePrior(1, 3).double()(torch.zeros(1, 2).long(), torch.ones(1))
    p = p.expand([20_000])
    r = dist.Normal(loc.expand(20_000, 1), scale.expand(20_000, 1)).to_event(1)
    nodes, log_weights = distribution_nodes(dist.Normal(loc[None], scale[None]).to_event(1))
    # Nodes move with location and scale: quadrature of the reparameterized integral.
    exact_r = dist.Normal(loc, scale).to_event(1)
    exact = (
        log_weights[:, 0].exp() * (exact_r.log_prob(nodes[:, 0]) - p.log_prob(nodes.expand(-1, 20_000, 1))[:, 0])
    ).sum()
    estimates = latent_divergence(r, p, r.rsample())
    error = estimates.std() / 20_000**0.5
    assert abs(estimates.mean() - exact) < 5 * error
    expected = torch.autograd.grad(exact, [loc, scale], retain_graph=True)
    rows = [torch.autograd.grad(part.mean(), [loc, scale], retain_graph=True) for part in estimates.split(500)]
    for k in range(2):
        values = torch.stack([row[k] for row in rows])
        assert abs(values.mean() - expected[k]) < 5 * values.std() / len(values) ** 0.5


# Objectives and evaluation use it


class _Unexpandable(dist.TorchDistribution):
    """A normal whose class defines no ``expand``: in a plate Pyro wraps it, and its formula is lost."""

    arg_constraints = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, normal):
        self.normal = normal
        super().__init__(normal.batch_shape, normal.event_shape)

    def rsample(self, sample_shape=()):
        return self.normal.rsample(sample_shape)

    def log_prob(self, value):
        return self.normal.log_prob(value)


@torch.distributions.register_kl(Independent, _Unexpandable)
def _kl_unexpandable(r, p):
    return torch.distributions.kl_divergence(r, p.normal)


class _UnexpandablePrior(LatentPrior):
    latent_shape = torch.Size([2])

    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return _Unexpandable(dist.Normal(torch.zeros(len(t), 2), 1.0).to_event(1))


def pair(prior):
    size = {"hidden_size": 8, "depth": 1, "modulation_size": 8}
    process = MaskingProcess(LinearSchedule(), 3)
    return VADDModel(MLPDenoiser(3, 4, 2, **size), prior, process), RecognitionGuide(MLPRecognition(3, 4, 2, **size))


@pytest.mark.parametrize("particles", [{}, {"num_particles": 2}, {"num_particles": 2, "vectorize_particles": True}])
@pytest.mark.parametrize(("prior", "mode"), [(StandardNormalPrior(2), "analytic"), (MixturePrior(2, 3), "monte-carlo")])
def test_an_objective_knows_how_it_found_the_divergence(prior, mode, particles):
    model, guide = pair(prior)
    elbo, x_0 = DELBO(model.process, **particles), torch.randint(3, (5, 4))
    assert elbo.kl_mode is None
    elbo.differentiable_loss(model, guide, x_0)
    assert elbo.kl_mode == mode
    other = DELBO(model.process, **particles)
    other.terms(model, guide, x_0)
    assert other.kl_mode == mode


def test_a_formula_lost_in_the_plate_is_noticed():
    """Pyro wraps a class without ``expand`` in every plate: outside of it the pair has a formula."""
    model, guide = pair(_UnexpandablePrior())
    x_0, elbo = torch.randint(3, (5, 4)), DELBO(model.process)
    assert kl_mode(guide.encode(x_0), model.prior(x_0, torch.ones(5))) == "analytic"
    elbo.differentiable_loss(model, guide, x_0)
    assert elbo.kl_mode == "monte-carlo"


def test_evaluation_takes_the_formula_where_objectives_do():
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(3, (6, 4))
    for prior, is_exact in ((StandardNormalPrior(2), True), (MixturePrior(2, 3), False)):
        model, guide = pair(prior)
        batch = model.process.corrupt(x_0, torch.full((6,), 0.7), generator=generator)
        integral = LatentIntegral(model, guide, 1, "guide", "fresh", generator, 64)
        with torch.no_grad():
            first, second = (integral.pairwise(batch)[1] for _ in range(2))
            exact = analytic_divergence(integral.posterior(batch), integral.prior(batch))
        assert torch.equal(first, second) == is_exact
        assert (exact is not None) == is_exact
        if is_exact:
            assert torch.equal(first, exact.double())


def test_more_rows_than_fit_in_a_call_are_integrated_draw_by_draw():
    model, guide = pair(StandardNormalPrior(2))
    batch = model.process.corrupt(torch.randint(3, (6, 4)), torch.full((6,), 0.7))
    for latents in ("fresh", "null"):
        integral = LatentIntegral(model, guide, 3, "guide", latents, torch.Generator().manual_seed(0), rows_per_call=2)
        assert [z.shape[:2] for z, _ in integral.propose(batch)] == [(1, 6)] * 3


def test_discrete_pairs_train_with_a_formula():
    prior = CategoricalPrior((2, 3))
    r = straight_through(2, 3)
    p = prior(torch.zeros(BATCH, 2).long(), torch.ones(BATCH))
    with pyro.plate("batch", BATCH):
        z = pyro.sample("z", r)
    assert z.shape == (BATCH, 2, 3)
    assert kl_mode(r, p) == "analytic"
