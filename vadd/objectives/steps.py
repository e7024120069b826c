"""Laws of the number of steps that an objective trains for, and draws of single jumps under them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import is_integer, require_integer
from vadd.errors import ConfigError, DomainError
from vadd.samplers.time_grid import TimeGrid, has_times, resolve_grid
from vadd.types import PerSequence, Times

__all__ = ["JumpTable", "Jumps", "StepLaw"]


@dataclass(frozen=True)
class StepLaw:
    """The law of the number of steps ``T`` of the sampler that is trained for.

    An objective with a law has the expected value ``E_T[objective of T steps]``. ``dataclasses.asdict`` gives
    its JSON form, and ``StepLaw(**values)`` the law again.

    Args:
        steps: the numbers of steps, all different; None stands for infinitely many, where the objective allows it.
        probabilities: theirs, positive, with sum one.

    Raises:
        ConfigError: if the two are empty or of different lengths, a number of steps is there twice, or the
            probabilities do not sum to one.
        DomainError: on a number of steps that is no positive integer, or a probability that is not positive.
    """

    steps: Sequence[int | None]
    probabilities: Sequence[int | float]

    def __post_init__(self) -> None:
        # Tuples, so that laws can be hashed and compared whatever they were given as.
        steps, probabilities = _as_tuple("steps", self.steps), _as_tuple("probabilities", self.probabilities)
        if not steps or len(steps) != len(probabilities):
            raise ConfigError(
                "steps and probabilities must be of the same length, at least 1, got lengths "
                f"{len(steps)} and {len(probabilities)}."
            )
        for num_steps in steps:
            if num_steps is not None and not is_integer(num_steps):
                raise DomainError(f"steps must be positive integers, or None for infinitely many, got {num_steps!r}.")
        if len(set(steps)) < len(steps):
            raise ConfigError(f"steps must differ from each other, got {list(steps)}; add up their probabilities.")
        _check_positive("probabilities", probabilities)
        if abs(math.fsum(probabilities) - 1) > 1e-9:
            raise ConfigError(
                f"probabilities must sum to one, got {math.fsum(probabilities)}; StepLaw.weighted takes any weights."
            )
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "probabilities", probabilities)

    @classmethod
    def log_uniform(cls, max_steps: int) -> "StepLaw":
        r""":math:`P(T) = \log\frac{T+1}{T} / \log(T_{max} + 1)` on ``1..max_steps``: the same share to each doubling.

        It is the law of the integer part of a log-uniform number between 1 and ``max_steps + 1``.

        Raises:
            DomainError: unless ``max_steps`` is a positive integer.
        """
        require_integer("max_steps", max_steps)
        steps = range(1, max_steps + 1)
        return cls.weighted(steps, [math.log1p(1 / num_steps) for num_steps in steps])

    @classmethod
    def uniform(cls, steps: Sequence[int | None]) -> "StepLaw":
        """The same probability for each of the numbers of steps; for example ``StepLaw.uniform([1, 2, 4, 8])``."""
        return cls.weighted(steps, [1.0] * len(_as_tuple("steps", steps)))

    @classmethod
    def weighted(cls, steps: Sequence[int | None], weights: Sequence[int | float]) -> "StepLaw":
        """Probabilities proportional to positive weights."""
        _check_positive("weights", _as_tuple("weights", weights))
        total = math.fsum(weights)
        return cls(steps, tuple(weight / total for weight in weights))

    def __str__(self) -> str:
        names = ["infinitely many" if num_steps is None else str(num_steps) for num_steps in self.steps]
        if len(names) > 6:
            names = [*names[:3], "...", names[-1]]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


class Jumps(NamedTuple):
    """One jump for each row of a batch.

    Attributes:
        t, s: times that the jump leaves and reaches; 1 and 0 in rows of infinitely many steps, which have no grid.
        num_steps: the number of steps of the sampler that it belongs to, infinity for infinitely many.
        rest: what is left of the uniform that chose the number of steps: uniform in ``[0, 1)`` once more, float64.
    """

    t: Times
    s: Times
    num_steps: PerSequence
    rest: Float[Tensor, " batch"]


class JumpTable:
    """The jumps of the samplers that an objective trains for.

    Args:
        num_steps: their number of steps, None for infinitely many, or a law of it.
        time_grid: as in :func:`vadd.samplers.sample`; a law needs a name, or a function from the number of steps.

    Raises:
        DomainError, ConfigError: on a bad number of steps or grid, or one grid for all numbers of a law.
    """

    def __init__(self, num_steps: int | StepLaw | None, time_grid: TimeGrid | None = None) -> None:
        if isinstance(num_steps, StepLaw) and has_times(time_grid):
            raise ConfigError(
                "time_grid must be a name, or a function from the number of steps, where num_steps is a StepLaw."
            )
        counts = num_steps.steps if isinstance(num_steps, StepLaw) else (num_steps,)
        if time_grid is not None and tuple(counts) == (None,):
            raise ConfigError("time_grid needs num_steps: infinitely many steps have no grid.")
        cpu, float64 = torch.device("cpu"), torch.float64
        one_jump = torch.tensor([1.0, 0.0], dtype=float64, device=cpu)
        grids = [one_jump if count is None else resolve_grid(count, time_grid).to(cpu) for count in counts]
        #: The law of the number of steps.
        self.law = num_steps if isinstance(num_steps, StepLaw) else StepLaw((num_steps,), (1.0,))
        probabilities = self.law.probabilities
        columns = (
            torch.tensor([0.0, *itertools.accumulate(probabilities[:-1])], dtype=float64, device=cpu),
            torch.tensor(probabilities, dtype=float64, device=cpu),
            torch.tensor([math.inf if count is None else count for count in counts], dtype=float64, device=cpu),
            torch.tensor([0, *itertools.accumulate(len(grid) for grid in grids[:-1])], device=cpu),
            torch.cat(grids),
        )
        # Kept once for each device: a copy to an accelerator in every step would make the host wait for it.
        self._columns: dict[torch.device, tuple[Tensor, ...]] = {cpu: columns}

    def draw(self, uniform: Float[Tensor, " batch"]) -> Jumps:
        """The jump that each row's number in ``[0, 1)`` stands for, all jumps of one ``T`` alike.

        Both ``T`` and the jump follow from one number: a low-discrepancy batch of these has each ``T`` in its share
        of the rows, and each jump in its share of those.
        """
        start, width, counts, offset, times = self._on(uniform.device)
        choice = torch.searchsorted(start, uniform, right=True) - 1
        rest = ((uniform - start[choice]) / width[choice]).clamp(0, 1 - 2**-53)  # rounding must not leave [0, 1)
        num_steps = counts[choice]
        jump = (rest * num_steps.masked_fill(num_steps.isinf(), 1.0)).long() + offset[choice]
        dtype = torch.get_default_dtype()
        return Jumps(times[jump].to(dtype), times[jump + 1].to(dtype), num_steps.to(dtype), rest)

    def is_same(self, other: "JumpTable") -> bool:
        """Whether the two draw from the same law of jumps."""
        cpu = torch.device("cpu")
        return self.law == other.law and torch.equal(self._on(cpu)[-1], other._on(cpu)[-1])

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Start and width of each number's interval of ``[0, 1)``, the numbers, their grids' offsets, and all grids."""
        if device not in self._columns:
            self._columns[device] = tuple(column.to(device) for column in self._columns[torch.device("cpu")])
        return self._columns[device]


def _as_tuple(name: str, values: object) -> tuple:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"{name} must be a sequence of numbers, got {values!r}.")
    return tuple(values)


def _check_positive(name: str, values: Sequence[int | float]) -> None:
    if not all(not isinstance(v, bool) and isinstance(v, int | float) and 0 < v < math.inf for v in values):
        raise DomainError(f"{name} must be positive finite numbers, got {list(values)}; leave out what never occurs.")
