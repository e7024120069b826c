"""A distribution in another shape is the same distribution."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from vadd.distributions import Reshaped
from vadd.errors import ShapeError

BATCH, SHAPE, SIZE = 3, (2, 2), 4


def full(batch=(BATCH,), size=SIZE):
    lower = torch.randn(*batch, size, size, dtype=torch.float64).tril(-1)
    tril = torch.diag_embed(torch.rand(*batch, size, dtype=torch.float64) + 0.5) + 0.5 * lower
    return dist.MultivariateNormal(torch.randn(*batch, size, dtype=torch.float64), scale_tril=tril)


def low_rank():
    factor = torch.randn(BATCH, SIZE, 2, dtype=torch.float64)
    return dist.LowRankMultivariateNormal(
        torch.randn(BATCH, SIZE, dtype=torch.float64), factor, torch.rand(BATCH, SIZE, dtype=torch.float64) + 0.5
    )


BASES = {"full": full, "low rank": low_rank, "one a row": lambda: full((BATCH, 2), 2).to_event(1)}


def prior(shape=SHAPE):
    loc, scale = torch.randn(BATCH, *shape, dtype=torch.float64), torch.rand(BATCH, *shape, dtype=torch.float64) + 0.5
    return dist.Normal(loc, scale).to_event(len(shape))


@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
def test_draws_density_and_moments_are_those_of_the_base(make):
    base = make()
    r = Reshaped(base, SHAPE)
    assert (r.batch_shape, r.event_shape) == ((BATCH,), SHAPE)
    for kind in ("sample", "rsample"):
        torch.manual_seed(1)
        z = getattr(r, kind)((5,))
        torch.manual_seed(1)
        assert torch.equal(z, getattr(base, kind)((5,)).reshape(5, BATCH, *SHAPE))
    assert torch.equal(r.log_prob(z), base.log_prob(z.reshape(5, BATCH, *base.event_shape)))
    for name in ("mean", "variance"):
        assert torch.equal(getattr(r, name), getattr(base, name).reshape(BATCH, *SHAPE))
    assert r.has_rsample


@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
def test_the_divergence_from_independent_normals_is_the_one_by_covariances(make):
    base, p = make(), prior()
    covariance = torch.stack([torch.cov(base.sample((200_000,))[:, b].flatten(1).T) for b in range(BATCH)])
    if not isinstance(base, dist.Independent):
        covariance = base.covariance_matrix
    general = dist.MultivariateNormal(base.mean.flatten(1), covariance)
    expected = kl_divergence(
        general, dist.MultivariateNormal(p.base_dist.loc.flatten(1), torch.diag_embed(p.variance.flatten(1)))
    )
    exact = isinstance(base, dist.Independent) is False
    torch.testing.assert_close(kl_divergence(Reshaped(base, SHAPE), p), expected, rtol=1e-9 if exact else 0.05, atol=0)


def test_the_divergence_of_independent_rows_is_their_sum():
    rows, p = full((BATCH, 2), 2), prior()
    apart = kl_divergence(
        rows, dist.MultivariateNormal(p.base_dist.loc, torch.diag_embed(p.variance.reshape(BATCH, 2, 2)))
    )
    torch.testing.assert_close(kl_divergence(Reshaped(rows.to_event(1), SHAPE), p), apart.sum(-1))


def test_the_divergence_from_itself_is_zero_and_its_gradient_that_of_the_base():
    loc, tril = torch.zeros(BATCH, SIZE, dtype=torch.float64), torch.eye(SIZE, dtype=torch.float64).repeat(BATCH, 1, 1)
    p = dist.Normal(torch.zeros(BATCH, *SHAPE, dtype=torch.float64), 1.0).to_event(2)
    r = Reshaped(dist.MultivariateNormal(loc, scale_tril=tril), SHAPE)
    torch.testing.assert_close(kl_divergence(r, p), torch.zeros(BATCH, dtype=torch.float64), rtol=0, atol=1e-12)
    moved = loc.clone().requires_grad_()
    kl_divergence(Reshaped(dist.MultivariateNormal(moved + 1, scale_tril=tril), SHAPE), p).sum().backward()
    torch.testing.assert_close(moved.grad, torch.ones_like(loc))


def test_the_divergence_from_a_distribution_of_the_base_is_that_of_the_base():
    base, other = full(), full()
    torch.testing.assert_close(kl_divergence(Reshaped(base, (SIZE,)), other), kl_divergence(base, other))


@pytest.mark.parametrize(
    "p",
    [
        dist.Laplace(torch.zeros(BATCH, *SHAPE), 1.0).to_event(2),
        dist.Normal(torch.zeros(BATCH, 4, 1), 1.0).to_event(2),
        dist.MultivariateNormal(torch.zeros(BATCH, 2, 2), torch.eye(2)).to_event(1),
    ],
    ids=["laplace", "shape", "rows"],
)
def test_other_divergences_have_no_formula(p):
    with pytest.raises(NotImplementedError):
        kl_divergence(Reshaped(full(), SHAPE), p)


@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
def test_in_a_plate_of_particles_it_stays_what_it_is(make):
    base, p = make(), prior()
    wider = Reshaped(base, SHAPE).expand((5, BATCH))
    assert isinstance(wider, Reshaped)
    assert wider.rsample().shape == (5, BATCH, *SHAPE)
    expected = kl_divergence(Reshaped(base, SHAPE), p)
    torch.testing.assert_close(kl_divergence(wider, p.expand((5, BATCH))), expected.expand(5, -1))


def test_another_number_of_components_is_refused():
    with pytest.raises(ShapeError, match="as many components"):
        Reshaped(full(), (3, 2))


def test_values_of_another_shape_are_refused_where_arguments_are_checked():
    r = Reshaped(full(), SHAPE, validate_args=True)
    with pytest.raises(ValueError, match="event"):
        r.log_prob(torch.zeros(BATCH, 4, 1, dtype=torch.float64))
