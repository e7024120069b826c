"""Monotone rational-quadratic splines, the elementwise part of the flow prior.

Reference: Durkan, Bekasov, Murray and Papamakarios, "Neural Spline Flows", arXiv 1906.04032.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Spline"]

_MIN_SIZE = 1e-2  # of a bin, as a share of the whole: the inverse keeps its digits in float32
_MIN_SLOPE = 1e-2


class Spline(NamedTuple):
    """Monotone map of ``[-bound, bound]`` onto itself, in bins; the identity outside.

    Attributes:
        left, bottom: lower ends of the bins, shape ``(..., bins)``.
        width, height: their sizes, likewise.
        slope: derivatives at the ends of the bins, shape ``(..., bins + 1)``; one at both outer ends.
        bound: where the identity takes over.
    """

    left: Tensor
    bottom: Tensor
    width: Tensor
    height: Tensor
    slope: Tensor
    bound: float

    @classmethod
    def from_parameters(cls, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> "Spline":
        """The spline of unconstrained parameters; zeros give the identity.

        Args:
            widths, heights: shape ``(..., bins)``.
            slopes: at the inner ends of the bins, shape ``(..., bins - 1)``.
            bound: where the identity takes over.
        """
        width, height = (_sizes(value, bound) for value in (widths, heights))
        left, bottom = (size.cumsum(-1) - size - bound for size in (width, height))
        at_zero = math.log(math.expm1(1 - _MIN_SLOPE))
        inner = _MIN_SLOPE + F.softplus(slopes + at_zero)
        return cls(left, bottom, width, height, F.pad(inner, (1, 1), value=1.0), bound)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-derivatives at ``x``, shape ``(...)``."""
        left, bottom, width, height, low, high = self._bins(x, self.left)
        share = ((x - left) / width).clamp(0, 1)  # outside too, so that gradients are finite there
        y = bottom + height * _rise(share, height / width, low, high)
        return self._select(x, y, _log_slope(share, height / width, low, high))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The ``x`` that are mapped to ``y``, and the log-derivatives of the inverse there."""
        left, bottom, width, height, low, high = self._bins(y, self.bottom)
        steep = height / width
        rise = ((y - bottom) / height).clamp(0, 1)
        bend = rise * (low + high - 2 * steep)
        # The root in [0, 1] of a quadratic, in the form that does not cancel.
        a, b, c = steep - low + bend, low - bend, -steep * rise
        share = (-2 * c / (b + (b * b - 4 * a * c).sqrt())).clamp(0, 1)
        return self._select(y, left + width * share, -_log_slope(share, steep, low, high))

    def _bins(self, value: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
        """The bin of each value: its lower ends, sizes, and slopes at both ends."""
        index = ((value[..., None] >= ends).sum(-1) - 1).clamp(min=0)[..., None]
        columns = (self.left, self.bottom, self.width, self.height, self.slope[..., :-1], self.slope[..., 1:])
        return tuple(torch.gather(column.expand(*index.shape[:-1], -1), -1, index)[..., 0] for column in columns)

    def _select(self, value: Tensor, mapped: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        is_inside = value.abs() < self.bound
        return torch.where(is_inside, mapped, value), torch.where(is_inside, log_slope, 0.0)


def _sizes(value: Tensor, bound: float) -> Tensor:
    share = value.softmax(-1)
    return 2 * bound * (_MIN_SIZE + (1 - _MIN_SIZE * value.shape[-1]) * share)


def _rise(share: Tensor, steep: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Share of the bin's height that is reached at a share of its width."""
    mixed = share * (1 - share)
    return (steep * share**2 + low * mixed) / (steep + (low + high - 2 * steep) * mixed)


def _log_slope(share: Tensor, steep: Tensor, low: Tensor, high: Tensor) -> Tensor:
    mixed = share * (1 - share)
    top = high * share**2 + 2 * steep * mixed + low * (1 - share) ** 2
    return 2 * steep.log() + top.log() - 2 * (steep + (low + high - 2 * steep) * mixed).log()
