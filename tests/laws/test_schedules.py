"""Laws of the noise schedules, against references in 60-digit decimal arithmetic."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vadd.errors import ConfigError
from vadd.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    NoiseSchedule,
    PolynomialSchedule,
)
from vadd.testing.strategies import dtypes, schedules, times

getcontext().prec = 60
getcontext().Emin = -(10**9)  # tails of exp(-sigma) and powers of small times underflow otherwise
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def decimal_sin(x: Decimal) -> Decimal:
    total, term, order = Decimal(0), x, 1
    while abs(term) > abs(x) * Decimal(10) ** -60:
        total += term
        term *= -x * x / ((order + 1) * (order + 2))
        order += 2
    return total


def decimal_alpha(schedule: NoiseSchedule, t: float) -> tuple[Decimal, Decimal]:
    """``alpha_t`` and ``1 - alpha_t`` from their definitions."""
    time = Decimal(t)
    if isinstance(schedule, LinearSchedule):
        masked = time
    elif isinstance(schedule, PolynomialSchedule):
        masked = time ** Decimal(schedule.power) if time else Decimal(0)
    elif isinstance(schedule, CosineSchedule):
        masked = decimal_sin(PI * time / 2)
    else:
        assert isinstance(schedule, GeometricSchedule)
        low, high = Decimal(schedule.sigma_min), Decimal(schedule.sigma_max)
        sigma = ((1 - time) * low.ln() + time * high.ln()).exp()
        span = (-low).exp() - (-high).exp()
        return ((-sigma).exp() - (-high).exp()) / span, ((-low).exp() - (-sigma).exp()) / span
    return 1 - masked, masked


def relative_error(value: torch.Tensor, exact: Decimal) -> float:
    return float(abs(Decimal(value.item()) - exact) / exact)


ANY = given(schedules(), dtypes(), st.data())


@given(schedules(), dtypes())
def test_ends_are_exact(schedule, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert schedule.alpha(ends).tolist() == [1.0, 0.0]
    assert schedule.mask_probability(ends).tolist() == [0.0, 1.0]
    assert schedule.inverse(ends).tolist() == [1.0, 0.0]
    assert schedule.time_of(ends).tolist() == [0.0, 1.0]


@ANY
def test_values_lie_in_the_unit_interval_and_keep_shape_and_dtype(schedule, dtype, data):
    t = data.draw(times(6, dtype)).reshape(2, 3)
    for method in (schedule.alpha, schedule.mask_probability, schedule.inverse, schedule.time_of):
        value = method(t)
        assert value.shape == t.shape
        assert value.dtype == dtype
        assert ((value >= 0) & (value <= 1)).all()
        eps = torch.finfo(dtype).eps  # scalar and vector code may round differently
        torch.testing.assert_close(method(t[0, 0]), value[0, 0], rtol=64 * eps, atol=4 * eps)


@ANY
def test_mask_probability_keeps_its_digits_down_to_small_times(schedule, dtype, data):
    (t,) = data.draw(times(1, dtype, low=1e-6))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    _, exact = decimal_alpha(schedule, t.item())
    assert relative_error(schedule.mask_probability(t), exact) < tolerance


@pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(),
        CosineSchedule(),
        *map(PolynomialSchedule, (0.3, 1.7, 4.1, 5.3, 5.9)),
        GeometricSchedule(),
        GeometricSchedule(1e-4, 100.0),
    ],
    ids=repr,
)
def test_mask_probability_keeps_its_digits_on_a_grid(schedule):
    t = torch.logspace(-6, 0, 200, dtype=torch.float64).float().clamp(min=1e-6, max=1)
    exact = [decimal_alpha(schedule, value)[1] for value in t.tolist()]
    values = schedule.mask_probability(t)
    assert max(relative_error(value, e) for value, e in zip(values, exact, strict=True)) < 1e-6


@ANY
def test_alpha_follows_its_definition(schedule, dtype, data):
    (t,) = data.draw(times(1, dtype))
    exact, _ = decimal_alpha(schedule, t.item())
    # Rounding in the exponent of the geometric schedule: up to max(x exp(-x)) log_ratio times eps.
    tolerance = 10 * torch.finfo(dtype).eps
    assert abs(Decimal(schedule.alpha(t).item()) - exact) < tolerance


@ANY
def test_alpha_decreases(schedule, dtype, data):
    t = data.draw(times(8, dtype)).sort().values
    tolerance = 10 * torch.finfo(dtype).eps
    assert (schedule.alpha(t).diff() <= tolerance).all()
    assert (schedule.mask_probability(t).diff() >= -tolerance * schedule.mask_probability(t)[1:]).all()


@given(schedules(), st.data())
def test_alpha_dot_is_the_derivative(schedule, data):
    t = data.draw(times(5, torch.float64, low=1e-6, high=1.0 - 1e-9))
    leaf = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(leaf).sum(), leaf)
    # Differentiating expm1 rounds 1 - alpha to the precision of 1.
    tolerance = 1e-9 * slope.abs() + 1e-14 * (1 + schedule.weight(t))
    assert ((schedule.alpha_dot(t) - slope).abs() <= tolerance).all()
    assert (schedule.alpha_dot(t) <= 0).all()


@given(schedules(), st.data())
def test_weight_is_the_logarithmic_derivative_of_the_mask_probability(schedule, data):
    t = data.draw(times(5, torch.float64, low=1e-6, high=0.95))
    leaf = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.mask_probability(leaf).log().sum(), leaf)
    torch.testing.assert_close(schedule.weight(t), slope, rtol=1e-9, atol=1e-10)


@ANY
def test_weight_is_non_negative_and_finite_away_from_zero(schedule, dtype, data):
    weight = schedule.weight(data.draw(times(5, dtype, low=1e-6)))
    assert (weight >= 0).all()
    assert weight.isfinite().all()


def round_trip_tolerance(schedule, t):
    """What one rounding of the time does to the probability, and one of the probability itself."""
    slope = (t.double() * schedule.alpha_dot(t.double())).abs().nan_to_num(0.0)
    return 8 * torch.finfo(t.dtype).eps * (1 + slope)


@ANY
def test_inverse_undoes_alpha(schedule, dtype, data):
    alpha = data.draw(times(5, dtype))
    t = schedule.inverse(alpha)
    error = (schedule.alpha(t.double()) - alpha.double()).abs()
    assert (error <= round_trip_tolerance(schedule, t)).all()


@ANY
def test_time_of_undoes_mask_probability(schedule, dtype, data):
    masked = data.draw(times(5, dtype))
    t = schedule.time_of(masked)
    error = (schedule.mask_probability(t.double()) - masked.double()).abs()
    assert (error <= round_trip_tolerance(schedule, t)).all()


@given(schedules(), st.data())
def test_time_of_keeps_the_digits_of_small_probabilities(schedule, data):
    t = data.draw(times(5, torch.float64, low=1e-6, high=0.5))
    torch.testing.assert_close(schedule.time_of(schedule.mask_probability(t)), t, rtol=1e-6, atol=0)


def test_rounding_leads_past_no_end():
    """Without the clamp these two levels of noise would give times of 1 + 9e-16."""
    schedule = GeometricSchedule(0.29453397839490975, 0.30186605282244133)
    just_below = 1 - torch.arange(1, 60, dtype=torch.float64) * 2**-53
    assert (schedule.time_of(just_below) <= 1).all()


@settings(max_examples=20)
@given(schedules(), dtypes())
def test_default_formulas_of_the_base_class_agree(schedule, dtype):
    """A schedule that defines only the three abstract methods gets accurate values from them."""

    class Bare(NoiseSchedule):
        def alpha(self, t):
            return schedule.alpha(t)

        def alpha_dot(self, t):
            return schedule.alpha_dot(t)

        def inverse(self, alpha):
            return schedule.inverse(alpha)

    t = torch.linspace(0.01, 0.99, 50, dtype=dtype)
    torch.testing.assert_close(Bare().mask_probability(t), schedule.mask_probability(t), rtol=1e-6, atol=1e-14)
    torch.testing.assert_close(Bare().weight(t), schedule.weight(t), rtol=1e-4, atol=1e-12)
    masked = schedule.mask_probability(t.double())
    torch.testing.assert_close(Bare().time_of(masked), schedule.time_of(masked), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan, "a", None])
def test_polynomial_refuses_a_bad_power(power):
    with pytest.raises(ConfigError, match=r"power must be a finite number in \(0, inf\), got"):
        PolynomialSchedule(power)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (0.0, 1.0, "sigma_min"),
        (-1.0, 1.0, "sigma_min"),
        (2.0, 1.0, "sigma_min"),
        (1.0, 1.0, "sigma_min"),
        (1.0, 800.0, "sigma_max"),
        (1.0, 700.0, "sigma_max"),
        (1.0, "b", "sigma_max"),
    ],
)
def test_geometric_refuses_bad_noise_levels(low, high, name):
    with pytest.raises(ConfigError, match=f"^{name} must"):
        GeometricSchedule(low, high)


def test_geometric_inverts_in_float32_at_large_noise():
    schedule = GeometricSchedule(1e-3, 200.0)
    alpha = torch.tensor([0.0, 1e-6, 0.5, 1.0])
    assert schedule.inverse(alpha).isfinite().all()


def test_the_geometric_schedule_does_not_round_above_one():
    t = torch.tensor([0.0, 5.6945e-187], dtype=torch.float64)
    assert bool((GeometricSchedule(0.3804896050175366, 2.0).alpha(t) == 1).all())
