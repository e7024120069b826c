"""Time grids: the decreasing times through which a sampler jumps."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_integer
from vadd.errors import ConfigError, DomainError

__all__ = ["TimeGrid", "checked_times", "cosine_grid", "has_times", "resolve_grid", "uniform_grid"]

#: A name, a function from the number of steps to times, or the times themselves: ``num_steps + 1`` values from 1 to 0.
TimeGrid = Literal["uniform", "cosine"] | Callable[[int], Tensor] | Tensor | Sequence[int | float]


def uniform_grid(num_steps: int) -> Float[Tensor, " times"]:
    """Equal steps from 1 to 0, ``num_steps + 1`` times in float64."""
    return torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps


def cosine_grid(num_steps: int) -> Float[Tensor, " times"]:
    r""":math:`\sin(\frac{\pi}{2} \tau)` on a uniform grid of :math:`\tau`: small steps where most is masked.

    With the linear schedule it masks as the cosine schedule does on the uniform grid.
    """
    grid = torch.sin(math.pi / 2 * uniform_grid(num_steps))
    grid[0], grid[-1] = 1.0, 0.0
    return grid


_NAMED: dict[str, Callable[[int], Tensor]] = {"uniform": uniform_grid, "cosine": cosine_grid}


def has_times(time_grid: TimeGrid | None) -> bool:
    """Whether a grid is the times themselves, which fit one number of steps alone."""
    return isinstance(time_grid, Tensor | list | tuple)


def resolve_grid(num_steps: int, time_grid: TimeGrid | None) -> Float[Tensor, " times"]:
    """The times of a sampler with ``num_steps`` steps, checked; uniform where none are given.

    Raises:
        DomainError: if ``num_steps < 1``, or the grid does not decrease strictly from 1 to 0.
        ConfigError: on an unknown name, what holds no times, or not ``num_steps + 1`` of them.
    """
    require_integer("num_steps", num_steps)
    if time_grid is None:
        return uniform_grid(num_steps)
    if isinstance(time_grid, str):
        if time_grid not in _NAMED:
            raise ConfigError(
                f"time_grid must be one of {', '.join(_NAMED)}; or num_steps + 1 times from 1 to 0, a tensor or list; "
                f"or a function from num_steps to them; got {time_grid!r}."
            )
        return _NAMED[time_grid](num_steps)
    grid = time_grid(num_steps) if callable(time_grid) else time_grid
    if isinstance(grid, list | tuple) and all(isinstance(time, int | float) for time in grid):
        grid = torch.tensor(grid, dtype=torch.float64)
    if not isinstance(grid, Tensor) or grid.shape != (num_steps + 1,):
        got = f"the shape {tuple(grid.shape)}" if isinstance(grid, Tensor) else repr(grid)
        raise ConfigError(f"time_grid must give num_steps + 1 = {num_steps + 1} times, a tensor or a list, got {got}.")
    return checked_times("time_grid", grid)


def checked_times(name: str, times: Float[Tensor, " times"]) -> Float[Tensor, " times"]:
    """The times in float64.

    Raises:
        DomainError: unless they decrease strictly from 1 to 0.
    """
    times = times.double()
    if not (times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())):
        raise DomainError(
            f"{name} must decrease strictly from exactly 1 to exactly 0, got {times.tolist()[:8]}"
            f"{' ...' if len(times) > 8 else ''}."
        )
    return times
