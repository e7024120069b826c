"""Two-dimensional densities whose coordinates depend on each other: the smallest test of a joint law.

All live on the square :data:`TOY_LIMITS` squared. Densities with noise are truncated to it: points
outside are drawn again.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_integer
from vadd.data.binning import discretize
from vadd.errors import ConfigError

__all__ = ["TOY_LIMITS", "TOY_NAMES", "checkerboard_probabilities", "sample_toy", "toy_probabilities"]

#: Both coordinates of every toy lie in ``[low, high)``.
TOY_LIMITS = (-4.0, 4.0)

_CELLS = 4  # the checkerboard has 4x4 cells
_CHUNK = 1 << 20


def sample_toy(name: str, num: int, generator: torch.Generator | None = None) -> Float[Tensor, "num 2"]:
    """Draw points from a toy density.

    Args:
        name: one of :data:`TOY_NAMES`.
        num: number of points, at least 1.
        generator: source of randomness.

    Returns:
        float32 points in :data:`TOY_LIMITS`, independent and identically distributed.

    Raises:
        ConfigError: if the name is unknown or ``num`` is below 1.
    """
    if name not in _TOYS:
        raise ConfigError(f"unknown toy {name!r}; choose one of {', '.join(TOY_NAMES)}.")
    require_integer("num", num, error=ConfigError)
    low, high = TOY_LIMITS
    points = _TOYS[name](num, generator)
    while True:
        is_outside = ((points < low) | (points >= high)).any(-1)
        if not bool(is_outside.any()):
            return points
        points[is_outside] = _TOYS[name](int(is_outside.sum()), generator)


def toy_probabilities(
    name: str, num_bins: int, *, num_samples: int = 4_000_000, seed: int = 0
) -> Float[Tensor, "num_bins num_bins"]:
    """Probability of each pair of tokens after discretization on :data:`TOY_LIMITS`.

    Exact for the checkerboard, otherwise the histogram of ``num_samples`` seeded draws: its
    Jensen-Shannon divergence from the truth is about ``occupied cells / (8 num_samples)`` nats.

    Args:
        name: one of :data:`TOY_NAMES`.
        num_bins: bins of each coordinate.
        num_samples: size of the draw, at least 1; the checkerboard needs none.
        seed: seed of the draw.

    Returns:
        float64, first token along the rows; sums to one.

    Raises:
        ConfigError: if the name is unknown or a size is below 1.
    """
    if name == "checkerboard":
        return checkerboard_probabilities(num_bins)
    require_integer("num_samples", num_samples, error=ConfigError)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(num_bins * num_bins, dtype=torch.int64)
    for start in range(0, num_samples, _CHUNK):
        points = sample_toy(name, min(_CHUNK, num_samples - start), generator)
        tokens = discretize(points, num_bins, TOY_LIMITS)
        counts += torch.bincount(tokens[:, 0] * num_bins + tokens[:, 1], minlength=num_bins * num_bins)
    return (counts.double() / num_samples).reshape(num_bins, num_bins)


def checkerboard_probabilities(num_bins: int) -> Float[Tensor, "num_bins num_bins"]:
    """Exact probabilities of the discretized checkerboard, float64, for any number of bins.

    If ``num_bins`` is a multiple of 4 they are uniform on half of the pairs, so the entropy is
    ``log(num_bins**2 / 2)`` nats: 7.6246 for 64 bins.

    Raises:
        ConfigError: if ``num_bins`` is below 1.
    """
    require_integer("num_bins", num_bins, error=ConfigError)
    # share[k, c]: the part of cell column c that lies in bin k; all edges are integers in a unit that
    # divides both widths. The part is relative to the column.
    bins, cells = torch.arange(num_bins)[:, None], torch.arange(_CELLS)
    overlap = torch.minimum((bins + 1) * _CELLS, (cells + 1) * num_bins) - torch.maximum(
        bins * _CELLS, cells * num_bins
    )
    share = overlap.clamp(min=0).double() / num_bins
    is_dark = ((cells[:, None] + cells) % 2 == 0).double()
    return share @ (is_dark / is_dark.sum()) @ share.T


def _checkerboard(num: int, generator: torch.Generator | None) -> Tensor:
    """Uniform on the cells (i, j) with i + j even."""
    low, high = TOY_LIMITS
    column = torch.randint(_CELLS, (num,), generator=generator)
    row = 2 * torch.randint(_CELLS // 2, (num,), generator=generator) + column % 2
    # Midpoints of a fine grid are exact in float32; a continuous draw could round into a wrong cell.
    fine = 1 << 19
    offset = (torch.randint(fine, (num, 2), generator=generator) + 0.5) / fine
    return low + (torch.stack([column, row], -1) + offset) * ((high - low) / _CELLS)


def _swiss_roll(num: int, generator: torch.Generator | None) -> Tensor:
    """A spiral from angle 1.5 pi to 4.5 pi, its radius growing with the angle up to 3.5."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(num, generator=generator))
    curve = angle[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    return curve * (3.5 / (4.5 * math.pi)) + 0.1 * torch.randn(num, 2, generator=generator)


def _circles(num: int, generator: torch.Generator | None) -> Tensor:
    """Two concentric circles of radii 1.5 and 3, equally likely."""
    radius = 1.5 * (1 + torch.randint(2, (num,), generator=generator))
    return _polar(radius, 2 * math.pi * torch.rand(num, generator=generator)) + 0.12 * torch.randn(
        num, 2, generator=generator
    )


def _eight_modes(num: int, generator: torch.Generator | None) -> Tensor:
    """Eight equal normal components on a circle of radius 3."""
    angle = math.pi / 4 * torch.randint(8, (num,), generator=generator)
    return _polar(torch.tensor(3.0), angle) + 0.25 * torch.randn(num, 2, generator=generator)


def _pinwheel(num: int, generator: torch.Generator | None) -> Tensor:
    """Five arms, normal along and across, turned by an angle that grows with the radius."""
    noise = torch.randn(num, 2, generator=generator)
    along, across = 2.0 + 0.6 * noise[:, 0], 0.2 * noise[:, 1]
    angle = 2 * math.pi / 5 * torch.randint(5, (num,), generator=generator) + 0.6 * along
    return _polar(along, angle) + _polar(across, angle + math.pi / 2)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


_TOYS: dict[str, Callable[[int, torch.Generator | None], Tensor]] = {
    "checkerboard": _checkerboard,
    "swiss_roll": _swiss_roll,
    "circles": _circles,
    "eight_modes": _eight_modes,
    "pinwheel": _pinwheel,
}

#: Names that :func:`sample_toy` knows.
TOY_NAMES = tuple(_TOYS)
