"""Checks of numbers."""

import math
from typing import Any

from vadd.errors import DomainError

__all__ = ["require_integer", "require_number"]


def require_integer(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise a DomainError unless the value is an integer of at least the minimum."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise DomainError(f"{name} must be an integer of at least {minimum}, got {value!r}.")


def require_number(name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> None:
    """Raise a DomainError unless the value is a finite number from ``low`` (or above it) to ``high``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (above and value == low):
        wanted = f"{'(' if above else '['}{low:g}, {f'{high:g}]' if math.isfinite(high) else 'inf)'}"
        raise DomainError(f"{name} must be a finite number in {wanted}, got {value!r}.")
