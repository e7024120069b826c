"""Low-discrepancy times and counts: one a stratum, each with the law of an independent draw."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vadd.objectives.steps import JumpTable, StepLaw
from vadd.objectives.times import count_free, counts_at, stratified_uniform
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
    counts = counts_at(stratified_uniform(len(free), generator=generator), free)
    assert (counts <= free).all()
    assert torch.equal(counts == 0, free == 0)


def test_the_count_of_each_row_is_uniform():
    """Chi-square of each of 4 rows with different numbers of free positions, false-alarm rate 1e-6 in all.

    A count of probability 1/5 that is off by a fifth is caught with probability above 0.999.
    """
    generator = torch.Generator().manual_seed(1)
    free = torch.tensor([5, 2, 0, 4])
    draws = [counts_at(stratified_uniform(len(free), generator=generator), free) for _ in range(DRAWS)]
    counts = torch.stack(draws)
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
    jumps = JumpTable(num_steps).draw(stratified_uniform(batch * num_steps, generator=generator))
    for a, b in zip(grid[:-1], grid[1:], strict=True):
        is_jump = torch.isclose(jumps.t, torch.tensor(a)) & torch.isclose(jumps.s, torch.tensor(b))
        assert abs(int(is_jump.sum()) - batch) <= 1
    assert (jumps.num_steps == num_steps).all()


LAWS = st.builds(
    lambda pairs: StepLaw.weighted(list(pairs), list(pairs.values())),
    st.dictionaries(st.none() | st.integers(1, 9), st.floats(0.05, 1.0), min_size=1, max_size=5),
)


@given(LAWS, st.integers(1, 60), generators())
def test_numbers_of_steps_and_their_jumps_have_their_shares_of_the_rows(law, batch, generator):
    """Within one row, for every number of steps, and within two for every jump of it."""
    jumps = JumpTable(law).draw(stratified_uniform(batch, generator=generator))
    for num_steps, probability in zip(law.steps, law.probabilities, strict=True):
        rows = jumps.num_steps == (torch.inf if num_steps is None else num_steps)
        assert abs(int(rows.sum()) - batch * probability) < 1 + 1e-6
        t, s = jumps.t[rows], jumps.s[rows]
        for k in range(num_steps or 1):
            is_jump = torch.isclose(t, torch.tensor(1 - k / (num_steps or 1)))
            assert abs(int(is_jump.sum()) - batch * probability / (num_steps or 1)) < 1 + 1e-6
        assert torch.allclose(t - s, torch.tensor(1 / (num_steps or 1)))
        assert not is_far_from_uniform(jumps.rest[rows], batch * probability)


def is_far_from_uniform(values, expected):
    """Whether the share of values below any point differs by more than rounding can make it."""
    values = values.sort().values
    below = torch.arange(1, len(values) + 1)
    return bool(((below - values * expected).abs() > 2 + 1e-6).any())


@pytest.mark.parametrize("law", [StepLaw.log_uniform(16), StepLaw.uniform(range(1, 8)), StepLaw.uniform([3, None])])
def test_no_rounding_leaves_the_table(law):
    """Numbers on the borders, of probabilities whose sums are not exact."""
    borders = torch.tensor([0.0, *law.probabilities, sum(law.probabilities[:-1]), 1 - 2**-53], dtype=torch.float64)
    jumps = JumpTable(law).draw(torch.cat([borders, borders.nextafter(torch.zeros_like(borders))]))
    assert ((jumps.t > jumps.s) & (jumps.s >= 0) & (jumps.t <= 1)).all()
    assert ((jumps.rest >= 0) & (jumps.rest < 1)).all()


def test_an_interval_holds_its_lower_border():
    jumps = JumpTable(StepLaw.uniform([1, 2, 5, None])).draw(torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64))
    assert jumps.num_steps.tolist() == [1, 2, 5, torch.inf]
    assert jumps.rest.tolist() == [0.0] * 4
    assert (jumps.t == 1).all()


def test_each_row_has_the_law_of_the_steps_and_of_their_jumps():
    """Chi-square of two rows of a batch of three over all pairs of ``T`` and jump, false-alarm rate 1e-6 in all.

    A pair of probability 1/16 that is off by a fifth is caught with probability above 0.999.
    """
    law = StepLaw((1, 4, None), (0.25, 0.5, 0.25))
    generator = torch.Generator().manual_seed(5)
    table = JumpTable(law)
    draws = [table.draw(stratified_uniform(3, generator=generator)) for _ in range(DRAWS)]
    for row in (0, 2):
        pairs = [(float(d.num_steps[row]), float(d.t[row])) for d in draws]
        expected = {(1.0, 1.0): 0.25, (torch.inf, 1.0): 0.25, **{(4.0, k / 4): 0.125 for k in range(1, 5)}}
        observed = [pairs.count(pair) for pair in expected]
        assert sum(observed) == DRAWS
        assert stats.chisquare(observed, [p * DRAWS for p in expected.values()]).pvalue > FALSE_ALARM / 2
