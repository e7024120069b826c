"""Checks of plain numbers. Booleans are no numbers here, and neither are those of NumPy or tensors of one entry."""

import math
from typing import Any

from vadd.errors import DomainError, VADDError

__all__ = ["is_integer", "require_integer", "require_integers", "require_number"]


def is_integer(value: Any, minimum: int = 1) -> bool:
    """Whether the value is an integer of at least the minimum."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def require_integer(name: str, value: Any, *, minimum: int = 1, error: type[VADDError] = DomainError) -> None:
    """Raise an error unless the value is an integer of at least the minimum."""
    if not is_integer(value, minimum):
        raise error(f"{name} must be an integer of at least {minimum}, got {value!r}.")


def require_integers(*, minimum: int = 1, error: type[VADDError] = DomainError, **values: Any) -> None:
    """The same for several values by their names."""
    for name, value in values.items():
        require_integer(name, value, minimum=minimum, error=error)


def require_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    error: type[VADDError] = DomainError,
) -> None:
    """Raise an error unless the value is a finite number from ``low`` (or above it) to ``high`` (or below it)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (above and value == low) or (below and value == high):
        ends = "(" if above else "[", ")" if below or math.isinf(high) else "]"
        raise error(f"{name} must be a finite number in {ends[0]}{low:g}, {high:g}{ends[1]}, got {value!r}.")
