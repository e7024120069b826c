"""Checks of classes and of plain numbers.

Booleans are no numbers here, and neither are those of NumPy or tensors of one entry.
"""

import math
from typing import Any

from vadd.errors import ConfigError, DomainError, VADDError

__all__ = ["is_integer", "kind_of", "require_integer", "require_integers", "require_kind", "require_number"]


def kind_of(value: Any) -> str:
    """What a value is, for messages: its class, or the class that it is."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def require_kind(
    name: str, value: Any, kind: type | tuple[type, ...], advice: str = "", *, error: type[VADDError] = ConfigError
) -> None:
    """Raise an error unless the value is of the class, or of one of them; ``advice`` says what to give."""
    if not isinstance(value, kind):
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise error(f"{name} must be a {expected}, got {kind_of(value)}{'; ' if advice else ''}{advice}.")


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
