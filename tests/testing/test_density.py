"""The check of draws against their density passes on right distributions and finds wrong ones."""

import math

import pyro.distributions as dist
import pytest
import torch

from vadd.distributions import GumbelOneHot
from vadd.testing.density import check_density

BATCH = 3


class Pair(dist.TorchDistribution):
    """Draws from one distribution, the density of another plus a constant."""

    has_rsample = False

    def __init__(self, draws, density, constant=0.0):
        self.draws, self.density, self.constant = draws, density, constant
        super().__init__(draws.batch_shape, draws.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.draws.sample(sample_shape)

    def log_prob(self, value):
        return self.density.log_prob(value) + self.constant


def normal(size, move=0.0, scale=1.0):
    loc = torch.linspace(-1, 1, BATCH)[:, None] * torch.ones(size)
    return dist.Normal(loc + move / math.sqrt(size), 0.3 * scale).expand((BATCH, size)).to_event(1)


def correlated(size):
    factor = torch.randn(BATCH, size, size)
    return dist.MultivariateNormal(torch.zeros(BATCH, size), factor @ factor.mT + 1e-3 * torch.eye(size))


RIGHT = {
    "normal": lambda: normal(3),
    "in one dimension": lambda: normal(1),
    "in many dimensions": lambda: normal(300),
    "correlated": lambda: correlated(8),
    "heavy tails": lambda: dist.StudentT(3.0).expand((BATCH, 2)).to_event(1),
    "skewed": lambda: dist.Gumbel(torch.zeros(BATCH, 2), 1.0).to_event(1),
    "two axes": lambda: dist.Laplace(torch.zeros(BATCH, 2, 3), 0.1).to_event(2),
    "one-hot": lambda: dist.OneHotCategorical(logits=torch.randn(BATCH, 4, 5)).to_event(1),
    "many rows": lambda: dist.OneHotCategoricalStraightThrough(logits=3 * torch.randn(BATCH, 100, 3)).to_event(1),
    "relaxed": lambda: GumbelOneHot(torch.randn(BATCH, 4, 5), 0.5).to_event(1),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_distributions_whose_draws_follow_their_density_pass(make):
    check_density("it", make())


def test_a_distribution_of_several_modes_passes():
    modes = dist.Normal(torch.tensor([[-3.0], [3.0]]).expand(BATCH, 2, 1), 0.2).to_event(1)
    check_density("it", dist.MixtureSameFamily(dist.Categorical(torch.ones(BATCH, 2)), modes))


@pytest.mark.parametrize("size", [1, 2, 4, 16, 64])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: Pair(normal(size), normal(size), math.log(1.1)),
        lambda size: Pair(normal(size), normal(size), -math.log(1.1)),
        lambda size: Pair(normal(size, scale=1.2), normal(size)),
        lambda size: Pair(normal(size, scale=1 / 1.2), normal(size)),
        lambda size: Pair(normal(size, move=0.4 * 0.3 * math.sqrt(size)), normal(size)),
        lambda size: Pair(normal(size, scale=0.3), normal(size)),  # a variance taken for a scale
    ],
    ids=["times 1.1", "over 1.1", "scale x1.2", "scale /1.2", "moved", "variance"],
)
def test_what_the_check_says_that_it_finds_is_found(make, size):
    with pytest.raises(AssertionError, match="log_prob of it must be the density that sample draws from"):
        check_density("it", make(size))


def test_wrong_rows_are_found():
    logits = torch.randn(BATCH, 4, 5)
    right = dist.OneHotCategorical(logits=logits).to_event(1)
    for wrong in (Pair(right, dist.OneHotCategorical(logits=1.3 * logits).to_event(1)), Pair(right, right, 0.1)):
        with pytest.raises(AssertionError, match="must be the density"):
            check_density("it", wrong)


def test_reparameterized_draws_are_checked_too():
    class Wrong(dist.Normal):
        def rsample(self, sample_shape=()):
            return self.loc + self.scale**2 * torch.randn(self._extended_shape(sample_shape))

    check_density("it", dist.Normal(torch.zeros(BATCH, 1), 0.5).to_event(1))
    with pytest.raises(AssertionError, match="rsample"):
        check_density("it", Wrong(torch.zeros(BATCH, 1), 0.5).to_event(1))


def test_not_a_number_is_no_density():
    with pytest.raises(AssertionError, match="nan"):
        check_density("it", Pair(normal(2), normal(2), math.nan))


def test_the_random_state_stays():
    before = torch.get_rng_state()
    check_density("it", normal(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_constant_component_has_no_density():
    with pytest.raises(AssertionError, match="vary in every component"):
        check_density("it", dist.Delta(torch.zeros(BATCH, 2), event_dim=1))
