"""Schedules of the KL weight."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import ConfigError
from vadd.objectives import ConstantKL, CosineKL, CyclicalKL, LinearKL

steps = st.integers(0, 10_000)
lengths = st.integers(1, 1_000)


@given(st.floats(0, 10), steps)
def test_constant(weight, step):
    assert ConstantKL(weight)(step) == weight


@given(st.sampled_from([LinearKL, CosineKL]), lengths, steps)
def test_warm_ups_rise_from_zero_to_one_and_stay(kind, length, step):
    schedule = kind(length)
    assert schedule(0) == 0
    assert schedule(length) == schedule(length + step) == 1
    assert 0 <= schedule(step) <= schedule(step + 1) <= 1


@given(lengths, steps)
def test_linear_rises_in_equal_increments(length, step):
    assert LinearKL(length)(step) == pytest.approx(min(1, step / length))


@given(lengths)
def test_cosine_is_half_way_in_the_middle_and_symmetric(length):
    schedule = CosineKL(2 * length)
    assert schedule(length) == pytest.approx(0.5)
    assert schedule(length // 2) == pytest.approx(1 - schedule(2 * length - length // 2))


@given(lengths, st.floats(0.05, 1.0), steps)
def test_cyclical_repeats_its_period(period, ramp, step):
    schedule = CyclicalKL(period, ramp)
    assert schedule(step) == schedule(step + period) == schedule(step + 3 * period)
    assert schedule(period * 2) == 0
    within = step % period
    assert schedule(step) == pytest.approx(min(1.0, within / (ramp * period)))
    if within + 1 < period:
        assert schedule(step) <= schedule(step + 1)
    assert 0 <= schedule(step) <= 1


def test_cyclical_stays_at_one_after_the_ramp():
    schedule = CyclicalKL(100, 0.5)
    assert [schedule(k) for k in (0, 25, 50, 75, 99, 100, 125)] == [0, 0.5, 1, 1, 1, 0, 0.5]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, "a"])
def test_bad_constants_are_refused(weight):
    with pytest.raises(ConfigError, match="weight"):
        ConstantKL(weight)


@pytest.mark.parametrize("length", [0, -1, True])
def test_bad_lengths_are_refused(length):
    for kind in (LinearKL, CosineKL):
        with pytest.raises(ConfigError, match="num_steps"):
            kind(length)
    with pytest.raises(ConfigError, match="period"):
        CyclicalKL(length)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("ramp", [0.0, -0.5, 1.01, math.nan, None])
def test_bad_ramps_are_refused(ramp):
    with pytest.raises(ConfigError, match="ramp"):
        CyclicalKL(10, ramp)
