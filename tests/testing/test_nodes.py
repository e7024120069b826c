"""Points and weights of the enumeration oracle: their sums are expectations, exactly or to the stated accuracy."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transforms

from vadd.backbones.base import diagonal_normal
from vadd.distributions import GumbelOneHot, Reshaped
from vadd.errors import ConfigError
from vadd.priors import FlowPrior, MixturePrior
from vadd.testing import AtomPrior, distribution_nodes, tiny_model

BATCH = 3


def tensor(*shape):
    return torch.randn(BATCH, *shape, dtype=torch.float64)


def expectation(distribution, function, num_nodes=None):
    z, log_weights = distribution_nodes(distribution, num_nodes)
    assert z.shape == (*log_weights.shape, *distribution.event_shape)
    assert log_weights.shape[1:] == distribution.batch_shape
    torch.testing.assert_close(
        log_weights.logsumexp(0), torch.zeros(distribution.batch_shape).double(), atol=1e-12, rtol=0
    )
    return (log_weights.exp() * function(z)).sum(0)


def characteristic(distribution, direction):
    """``E cos(a z)`` for a vector ``a``."""
    return expectation(distribution, lambda z: (z.flatten(2) @ direction).cos())


def expected_cosine(mean, covariance, direction):
    """The same for a normal distribution, in closed form."""
    spread = torch.einsum("i,bij,j->b", direction, covariance, direction)
    return (mean @ direction).cos() * (-0.5 * spread).exp()


def test_one_normal_component_is_integrated_with_known_functions():
    loc, scale = torch.tensor([[0.3], [-1.0]]), torch.tensor([[2.0], [0.1]])
    z, log_weights = distribution_nodes(dist.Normal(loc.double(), scale.double()).to_event(1))
    w, z, m, v = log_weights.exp(), z[..., 0], loc[:, 0].double(), scale[:, 0].double() ** 2
    exact = {
        torch.ones_like: torch.ones(2).double(),
        torch.square: m**2 + v,
        torch.exp: torch.exp(m + v / 2),
        torch.sin: torch.sin(m) * torch.exp(-v / 2),
        lambda z: z**4: m**4 + 6 * m**2 * v + 3 * v**2,
    }
    for function, value in exact.items():
        torch.testing.assert_close((w * function(z)).sum(0), value, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (2, 1), (1, 3)])
def test_independent_normals_of_any_shape(shape):
    r = diagonal_normal(tensor(*shape), 0.5 * tensor(*shape))
    direction = torch.tensor([1.3, -0.7, 0.9]).double()[: r.event_shape.numel()]
    expected = expected_cosine(r.mean.flatten(1), torch.diag_embed(r.variance.flatten(1)), direction)
    accuracy = {1: 1e-12, 2: 1e-11, 3: 1e-8}[r.event_shape.numel()]
    torch.testing.assert_close(characteristic(r, direction), expected, rtol=0, atol=accuracy)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_correlated_normals(kind, d):
    if kind == "full":
        root = 0.4 * tensor(d, d).tril(-1) + torch.diag_embed((0.4 * tensor(d)).exp())
        r = dist.MultivariateNormal(tensor(d), scale_tril=root)
    else:
        r = dist.LowRankMultivariateNormal(tensor(d), 0.6 * tensor(d, 1), (0.4 * tensor(d)).exp())
    direction = torch.tensor([0.8, -0.7, 0.6]).double()[:d]
    expected = expected_cosine(r.mean, r.covariance_matrix, direction)
    torch.testing.assert_close(characteristic(r, direction), expected, rtol=0, atol=1e-8)
    reshaped = Reshaped(r, (1, d))
    torch.testing.assert_close(characteristic(reshaped, direction), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(1,), (2,), (2, 1)])
def test_mixtures_of_normals(shape):
    prior = MixturePrior(shape, 4).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(torch.randn_like(p))
        p = prior(torch.zeros(BATCH, 1).long(), torch.ones(BATCH))
    direction = torch.tensor([1.0, -0.6]).double()[: p.event_shape.numel()]
    expected = sum(
        weight * expected_cosine(loc.flatten()[None], torch.diag_embed(log_variance.exp().flatten())[None], direction)
        for weight, loc, log_variance in zip(prior.logits.softmax(0), prior.loc, prior.log_variance, strict=True)
    )
    torch.testing.assert_close(characteristic(p, direction), expected.expand(BATCH).detach(), rtol=0, atol=1e-9)


def test_flows_push_the_points_of_their_base():
    base = dist.Normal(tensor(2), tensor(2).exp()).to_event(1)
    matrix = torch.tensor([1.5, -2.0]).double()
    flow = dist.TransformedDistribution(
        base, [transforms.AffineTransform(0.3, matrix, event_dim=1), transforms.ReshapeTransform((2,), (2, 1))]
    )
    direction = torch.tensor([0.4, 0.3]).double()
    expected = expected_cosine(0.3 + matrix * base.mean, torch.diag_embed(matrix**2 * base.variance), direction)
    torch.testing.assert_close(characteristic(flow, direction), expected, rtol=0, atol=1e-9)


def test_flow_priors_are_integrated_to_the_stated_accuracy():
    """Against draws: 400,000, five standard errors; and against more points."""
    prior = FlowPrior(2, num_layers=2, hidden_size=8, num_bins=4).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.15 * torch.randn_like(p))
        p = prior(torch.zeros(1, 1).long(), torch.ones(1))
        function = lambda z: (1.2 * z[..., 0] - z[..., 1]).sin()  # noqa: E731
        few, many = (expectation(p, function, n) for n in (None, 200))
        values = function(p.sample(torch.Size([400_000])))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-4)
    assert abs(values.mean() - few) < 5 * values.std() / 400_000**0.5


@pytest.mark.parametrize(
    ("distribution", "size"),
    [
        (dist.OneHotCategorical(logits=tensor(3)), 3),
        (dist.OneHotCategorical(logits=tensor(2, 3)).to_event(1), 9),
        (dist.OneHotCategorical(logits=tensor(2, 1, 3)).to_event(2), 9),
        (dist.OneHotCategoricalStraightThrough(logits=tensor(3, 2)).to_event(1), 8),
        (GumbelOneHot(tensor(2, 3), 0.5).to_event(1), 9),
        (dist.Bernoulli(logits=tensor(4)).to_event(1), 16),
    ],
    ids=str,
)
def test_discrete_distributions_are_summed_over(distribution, size):
    z, log_weights = distribution_nodes(distribution)
    assert z.shape == (size, BATCH, *distribution.event_shape)
    assert len(torch.unique(z[:, 0].flatten(1), dim=0)) == size
    torch.testing.assert_close(log_weights.exp().sum(0), torch.ones(BATCH).double())
    mean = expectation(distribution, lambda z: z.flatten(2)[..., 0])
    torch.testing.assert_close(mean, distribution.mean.flatten(1)[:, 0])
    pair = expectation(distribution, lambda z: z.flatten(2)[..., 0] * z.flatten(2)[..., -1])
    if distribution.event_shape[0] > 1 and len(distribution.event_shape) == 2:  # groups are independent
        expected = distribution.mean.flatten(1)[:, 0] * distribution.mean.flatten(1)[:, -1]
        torch.testing.assert_close(pair, expected)


def test_combinations_of_groups_are_all():
    z, _ = distribution_nodes(dist.OneHotCategorical(logits=torch.zeros(1, 2, 3)).to_event(1))
    got = {tuple(row.argmax(-1).tolist()) for row in z[:, 0]}
    assert got == set(itertools.product(range(3), repeat=2))


def test_mixtures_of_discrete_distributions():
    components = dist.OneHotCategorical(logits=tensor(4, 3))
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=tensor(4)), components)
    z, log_weights = distribution_nodes(mixture)
    assert len(z) == 12
    expected = mixture.log_prob(torch.eye(3).double()[:, None].expand(3, BATCH, 3)).exp()
    got = torch.stack([torch.where(z[..., k] == 1, log_weights.exp(), 0.0).sum(0) for k in range(3)])
    torch.testing.assert_close(got, expected)


def test_atoms_and_empty_latents():
    prior = AtomPrior([-1.0, 2.0], 2, 2)
    z, log_weights = distribution_nodes(prior(torch.zeros(BATCH, 2).long(), torch.ones(BATCH)))
    assert z[:, 0, 0].tolist() == [-1.0, 2.0]
    torch.testing.assert_close(log_weights[:, 0].exp(), prior.table[0].softmax(0))
    model = tiny_model(2, 2, latent_dim=0)
    z, log_weights = distribution_nodes(model.prior(torch.zeros(BATCH, 2).long(), torch.ones(BATCH)))
    assert z.shape == (1, BATCH, 0)
    assert log_weights.tolist() == [[0.0] * BATCH]


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (dist.Normal(torch.zeros(1, 4), 1.0).to_event(1), "at most 3 components to be integrated, got 4"),
        (dist.Laplace(torch.zeros(1, 1), 1.0).to_event(1), "must be discrete, empty, or made of normals"),
        (dist.OneHotCategorical(logits=torch.zeros(1, 12, 3)).to_event(1), "would need 531441 points"),
    ],
    ids=str,
)
def test_what_cannot_be_enumerated_is_refused(distribution, message):
    with pytest.raises(ConfigError, match=message):
        distribution_nodes(distribution)
