"""Real coordinates to tokens and back, by bins of equal width."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd._checks import require_integer
from vadd.errors import ConfigError, DomainError, DtypeError

__all__ = ["discretize", "undiscretize"]

Limits = tuple[int | float, int | float]


def discretize(
    points: Float[Tensor, "num coordinates"], num_bins: int, limits: Limits
) -> Int[Tensor, "num coordinates"]:
    """Index of the bin ``[low + k w, low + (k+1) w)`` that holds each coordinate.

    Args:
        points: coordinates, all in ``[low, high)``. A point outside is an error: whoever draws
            the points decides whether to draw again or to widen the limits.
        num_bins: number of bins of each coordinate, the vocabulary size.
        limits: ``(low, high)``, the same for all coordinates.

    Returns:
        ``int64`` tokens in ``[0, num_bins)``, shape of ``points``.

    Raises:
        ConfigError: on limits or a number of bins that define no bins.
        DtypeError: if ``points`` are not floating point.
        DomainError: if a coordinate lies outside the limits or is not a number.
    """
    low, high = _check_bins(num_bins, limits)
    if not points.is_floating_point():
        raise DtypeError(f"points must be floating point, got {points.dtype}.")
    is_inside = (points >= low) & (points < high)
    if not bool(is_inside.all()):
        outside = points[~is_inside]
        raise DomainError(
            f"points must lie in [{low}, {high}), got {outside.numel()} coordinates outside, for example "
            f"{float(outside[0]):.6g}; draw these points again or widen the limits."
        )
    # In double precision a point just below `high` can still round up to the last edge.
    index = ((points.double() - low) * (num_bins / (high - low))).floor().long()
    return index.clamp(max=num_bins - 1)


def undiscretize(
    tokens: Int[Tensor, "num coordinates"], num_bins: int, limits: Limits
) -> Float[Tensor, "num coordinates"]:
    """Centre of each token's bin, in the default dtype; :func:`discretize` maps it back.

    Args:
        tokens: bin indices in ``[0, num_bins)``.
        num_bins: number of bins of each coordinate.
        limits: ``(low, high)`` as given to :func:`discretize`.

    Raises:
        ConfigError: on limits or a number of bins that define no bins.
        DomainError: if a token is not the index of a bin.
    """
    low, high = _check_bins(num_bins, limits)
    if bool(((tokens < 0) | (tokens >= num_bins)).any()):
        raise DomainError(
            f"tokens must lie in [0, {num_bins}), got values from {int(tokens.min())} to {int(tokens.max())}."
        )
    centres = low + (tokens.double() + 0.5) * ((high - low) / num_bins)
    return centres.to(torch.get_default_dtype())


def _check_bins(num_bins: int, limits: Limits) -> tuple[float, float]:
    low, high = limits
    require_integer("num_bins", num_bins, error=ConfigError)
    if not -float("inf") < low < high < float("inf"):
        raise ConfigError(f"limits must be finite with low < high, got {limits}.")
    return low, high
