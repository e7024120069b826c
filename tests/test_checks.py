"""Checks of plain numbers: what is one, and what is said of what is not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd._checks import is_integer, require_integer, require_integers
from vadd.errors import ConfigError, DomainError


@given(st.integers(), st.integers())
def test_integers_are_compared_with_the_minimum(value, minimum):
    assert is_integer(value, minimum) == (value >= minimum)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.int64(1), torch.tensor(1)], ids=repr)
def test_nothing_else_is_an_integer(value):
    assert not is_integer(value)
    with pytest.raises(DomainError, match="steps must be an integer of at least 1, got "):
        require_integer("steps", value)


def test_several_are_checked_by_name_and_none_is_left_out():
    require_integers(size=None, depth=0, minimum=0)
    with pytest.raises(ConfigError, match="depth must be an integer of at least 1, got 0"):
        require_integers(size=2, width=None, depth=0, error=ConfigError)
