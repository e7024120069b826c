"""Checks of plain numbers: what is one, and what is said of what is not."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd._checks import is_integer, require_integer, require_integers, require_kind, require_number
from vadd.backbones.families import FlowNormal
from vadd.errors import ConfigError, DomainError, DtypeError
from vadd.evaluation.bounds import check_sizes
from vadd.priors import MixturePrior
from vadd.text.windows import sliding_windows
from vadd.training.batches import BatchOrder
from vadd.training.schedules import warmup_constant


@given(st.integers(), st.integers())
def test_integers_are_compared_with_the_minimum(value, minimum):
    assert is_integer(value, minimum) == (value >= minimum)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.int64(1), torch.tensor(1)], ids=repr)
def test_nothing_else_is_an_integer(value):
    assert not is_integer(value)
    with pytest.raises(DomainError, match="steps must be an integer of at least 1, got "):
        require_integer("steps", value)


@pytest.mark.parametrize("value", [0, None])
def test_several_are_checked_by_name(value):
    require_integers(size=2, depth=0, minimum=0)
    with pytest.raises(ConfigError, match=f"depth must be an integer of at least 1, got {value}"):
        require_integers(size=2, depth=value, error=ConfigError)


@given(st.floats() | st.integers(), st.floats(0, 1), st.floats(1, 2), st.booleans(), st.booleans())
def test_numbers_are_finite_and_within_the_ends(value, low, high, above, below):
    is_inside = low < value if above else low <= value
    is_inside = is_inside and (value < high if below else value <= high)
    wanted = re.escape(f"gamma must be a finite number in {'(' if above else '['}{low:g}, {high:g}")
    with nullcontext() if is_inside else pytest.raises(ConfigError, match=f"^{wanted}[{')' if below else ']'}], got"):
        require_number("gamma", value, low, high, above=above, below=below, error=ConfigError)


@pytest.mark.parametrize("value", [True, "1", None, np.float32(1), torch.tensor(1.0)], ids=repr)
def test_nothing_else_is_a_number(value):
    with pytest.raises(DomainError, match=r"gamma must be a finite number in \[0, inf\), got "):
        require_number("gamma", value)


def test_of_another_class_both_are_named_with_what_to_give():
    require_kind("part", 3, (str, int))
    with pytest.raises(ConfigError, match=r"^part must be a str or int, got float\.$"):
        require_kind("part", 3.0, (str, int))
    with pytest.raises(DtypeError, match=r"^part must be a str, got the class str; give text\.$"):
        require_kind("part", str, str, "give text", error=DtypeError)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: MixturePrior(2, None), ConfigError, "num_components"),
        (lambda: FlowNormal(None), ConfigError, "num_transforms"),
        (lambda: BatchOrder(3, None, 0), DomainError, "batch_size"),
        (lambda: sliding_windows(torch.arange(9), None, 2), DomainError, "length"),
        (lambda: warmup_constant(None), DomainError, "warmup"),
        (lambda: check_sizes(None, 2, 0), DomainError, "num_draws"),
    ],
    ids=["mixture", "flow", "batches", "windows", "warm-up", "draws"],
)
def test_none_is_refused_where_a_number_is_needed(make, error, name):
    with pytest.raises(error, match=f"{name} must be an integer of at least [01], got None"):
        make()
