"""Checks that the metrics share."""

import torch
from torch import Tensor

from vadd._checks import require_kind
from vadd.errors import DomainError, DtypeError, NonFiniteError, ShapeError


def check_rows(name: str, values: Tensor, min_rows: int, why: str) -> None:
    """Raise unless ``values`` is a finite matrix with enough rows; ``why`` says what they are needed for."""
    require_kind(name, values, Tensor, "torch.as_tensor makes one of an array", error=DtypeError)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ShapeError(f"{name} must have shape (rows, columns), got {tuple(values.shape)}.")
    if values.shape[0] < min_rows:
        raise DomainError(f"{name} must have at least {min_rows} rows {why}, got {values.shape[0]}.")
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(f"{name} contain NaN or infinite values; check the network that made them.")


def check_features(name: str, features: Tensor, min_rows: int, why: str) -> None:
    """The same for features, which must be floating point."""
    require_kind(name, features, Tensor, "torch.as_tensor makes one of an array", error=DtypeError)
    if not features.is_floating_point():
        raise DtypeError(f"{name} must be floating point features, got {features.dtype}; apply a feature network.")
    check_rows(name, features, min_rows, why)


def check_same_columns(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless both have the same columns."""
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"{name_a} and {name_b} must have the same number of columns, got {a.shape[1]} and {b.shape[1]}."
        )
