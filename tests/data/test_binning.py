"""Discretization: laws of the round trip, and what lies outside the limits."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.data import discretize, undiscretize
from vadd.errors import ConfigError, DomainError, DtypeError

limits_strategy = st.tuples(st.integers(-50, 50), st.integers(1, 100)).map(
    lambda pair: (pair[0] / 4, (pair[0] + pair[1]) / 4)
)


@given(num_bins=st.integers(1, 300), limits=limits_strategy, seed=st.integers(0, 2**31))
def test_centres_map_back_to_their_tokens(num_bins, limits, seed):
    tokens = torch.randint(num_bins, (20, 2), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(discretize(undiscretize(tokens, num_bins, limits), num_bins, limits), tokens)


@given(num_bins=st.integers(1, 300), limits=limits_strategy, seed=st.integers(0, 2**31))
def test_points_lie_within_half_a_bin_of_their_centre(num_bins, limits, seed):
    low, high = limits
    uniform = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    points = low + uniform * (high - low)
    points = points[(points < high).all(-1)]
    tokens = discretize(points, num_bins, limits)
    assert bool(((tokens >= 0) & (tokens < num_bins)).all())
    distance = (undiscretize(tokens, num_bins, limits) - points).abs()
    assert bool((distance <= (high - low) / (2 * num_bins) + 1e-5).all())


def test_bins_are_closed_below_and_open_above():
    points = torch.tensor([[-4.0, -2.0], [0.0, 2.0]])
    assert discretize(points, 4, (-4.0, 4.0)).tolist() == [[0, 1], [2, 3]]


def test_largest_float_below_the_upper_limit_is_in_the_last_bin():
    high = torch.tensor(1.0, dtype=torch.float64)
    point = torch.nextafter(high, torch.zeros_like(high)).reshape(1, 1)
    for num_bins in (3, 7, 49, 90):
        assert int(discretize(point, num_bins, (-3.0, 1.0))) == num_bins - 1


@pytest.mark.parametrize("value", [-4.001, 4.0, float("inf"), float("nan")])
def test_points_outside_are_an_error(value):
    points = torch.tensor([[0.0, value]])
    with pytest.raises(DomainError, match=r"1 coordinates outside.*draw these points again"):
        discretize(points, 8, (-4.0, 4.0))


@pytest.mark.parametrize("token", [-1, 8])
def test_tokens_outside_are_an_error(token):
    with pytest.raises(DomainError, match=r"\[0, 8\)"):
        undiscretize(torch.tensor([[0, token]]), 8, (-4.0, 4.0))


@pytest.mark.parametrize(
    ("num_bins", "limits"), [(0, (0.0, 1.0)), (True, (0.0, 1.0)), (4, (1.0, 1.0)), (4, (0.0, float("inf")))]
)
def test_meaningless_bins_are_an_error(num_bins, limits):
    with pytest.raises(ConfigError):
        discretize(torch.zeros(1, 2), num_bins, limits)


def test_integer_points_are_an_error(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the library's own check, not the types'
    with pytest.raises(DtypeError, match="floating point"):
        discretize(torch.zeros(1, 2, dtype=torch.int64), 4, (0.0, 1.0))
