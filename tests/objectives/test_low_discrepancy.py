"""Low-discrepancy times and counts: one a stratum, each with the law of an independent draw."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vadd.objectives.corruption import stratified_jumps
from vadd.objectives.times import count_free, stratified_counts, stratified_uniform
from vadd.testing.strategies import generators

DRAWS = 5_000
FALSE_ALARM = 1e-6


@given(st.integers(1, 200), generators())
def test_one_value_in_each_stratum(num, generator):
    values = stratified_uniform(num, generator=generator)
    assert values.shape == (num,)
    assert values.dtype == torch.float64
    assert 0 <= values.min()
    assert values.max() < 1
    # Rounding may move a value across a border of its stratum, by an ulp.
    sorted_values = values.sort().values
    lower = torch.arange(num) / num
    assert (sorted_values >= lower.double() - 1e-7).all()
    assert (sorted_values < lower.double() + 1 / num + 1e-7).all()


@pytest.mark.parametrize("row", [0, 3, 6])
def test_each_row_is_uniform(row):
    """Kolmogorov-Smirnov, false-alarm rate 3e-7 a row: a shift of the law by 0.04 is caught almost surely."""
    generator = torch.Generator().manual_seed(row)
    values = [float(stratified_uniform(7, generator=generator)[row]) for _ in range(DRAWS)]
    result = stats.kstest(values, "uniform")
    assert result.pvalue > FALSE_ALARM / 3
    assert stats.kstest([0.96 * v for v in values], "uniform").pvalue < FALSE_ALARM / 3


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), generators())
def test_counts_lie_between_one_and_the_free_positions(free, generator):
    free = torch.tensor(free)
    counts = stratified_counts(free, generator=generator)
    assert (counts <= free).all()
    assert torch.equal(counts == 0, free == 0)


def test_the_count_of_each_row_is_uniform():
    """Chi-square of each of 4 rows with different numbers of free positions, false-alarm rate 1e-6 in all.

    A count of probability 1/5 that is off by a fifth is caught with probability above 0.999.
    """
    generator = torch.Generator().manual_seed(1)
    free = torch.tensor([5, 2, 0, 4])
    counts = torch.stack([stratified_counts(free, generator=generator) for _ in range(DRAWS)])
    for row, n in enumerate(free.tolist()):
        if n == 0:
            assert not counts[:, row].any()
            continue
        observed = counts[:, row].bincount(minlength=n + 1)
        assert observed[0] == 0
        assert stats.chisquare(observed[1:].numpy()).pvalue > FALSE_ALARM / 4


def test_free_positions_are_those_neither_frozen_nor_padding():
    x_0 = torch.zeros(2, 4, dtype=torch.long)
    is_frozen = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    is_padding = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert count_free(x_0, None, None).tolist() == [4, 4]
    assert count_free(x_0, is_frozen, None).tolist() == [3, 4]
    assert count_free(x_0, is_frozen, is_padding).tolist() == [2, 0]


def test_they_estimate_a_mean_with_lower_variance():
    """Of exp(t) over 16 rows: the variance falls by a factor of about 16, here at least 8."""
    generator = torch.Generator().manual_seed(2)
    low = torch.stack([stratified_uniform(16, generator=generator).exp().mean() for _ in range(500)])
    independent = torch.rand(500, 16, generator=generator).exp().mean(-1)
    assert low.var() < independent.var() / 8
    assert abs(low.mean() - (torch.e - 1)) < 4.9 * low.std() / 500**0.5


@given(st.integers(1, 8), st.integers(1, 20), generators())
def test_jumps_are_those_of_the_grid_in_equal_shares(num_steps, batch, generator):
    grid = [1 - k / num_steps for k in range(num_steps)] + [0.0]
    t, s = stratified_jumps(grid, torch.zeros(batch * num_steps, 3, dtype=torch.long), generator)
    for a, b in zip(grid[:-1], grid[1:], strict=True):
        is_jump = torch.isclose(t, torch.tensor(a)) & torch.isclose(s, torch.tensor(b))
        assert abs(int(is_jump.sum()) - batch) <= 1
