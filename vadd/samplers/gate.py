"""Where the latent of each jump comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from vadd._checks import is_integer, require_integer
from vadd.errors import ConfigError

__all__ = ["LatentGate", "Mode", "resolve_plan"]

#: Source of a jump's latent. ``"fresh"``: a draw from ``p(z | x_t, t)``; ``"shared"``: the trajectory's own, drawn at
#: its start; ``"null"``: the null latent.
Mode = Literal["fresh", "shared", "null"]
_MODES = get_args(Mode)


@dataclass(frozen=True)
class LatentGate:
    """The mode of each jump, by number of steps.

    Args:
        plans: for each number of steps ``T`` that was decided on, ``T`` modes, the first for the jump at time 1.

    Raises:
        ConfigError: on an empty table, a plan of another length than its number of steps, or an unknown mode.
    """

    plans: Mapping[int, Sequence[Mode]]

    def __post_init__(self) -> None:
        if not isinstance(self.plans, Mapping) or not self.plans:
            raise ConfigError(f"plans must map numbers of steps to modes, one or more, got {self.plans!r}.")
        checked = {}
        for steps, plan in self.plans.items():
            if not is_integer(steps):
                raise ConfigError(f"plans must be for positive numbers of steps, got {steps!r}.")
            checked[steps] = resolve_plan(plan, steps)
        object.__setattr__(self, "plans", dict(sorted(checked.items())))

    def plan(self, num_steps: int) -> tuple[Mode, ...]:
        """The modes of ``num_steps`` jumps.

        For a number of steps that is not in the table: those of the nearest one (by ratio, the larger of two equally
        near), each jump taking the mode of the jump there that starts at, or last before, the same share of the steps.

        Raises:
            DomainError: if ``num_steps`` is no positive integer.
        """
        require_integer("num_steps", num_steps)
        # Fractions, so that rounding decides no tie.
        nearest = min(self.plans, key=lambda n: (Fraction(max(n, num_steps), min(n, num_steps)), -n))
        plan = self.plans[nearest]
        return tuple(plan[index * nearest // num_steps] for index in range(num_steps))

    def to_json(self) -> dict[str, list[str]]:
        """The plans as JSON holds them."""
        return {str(steps): list(plan) for steps, plan in self.plans.items()}

    @classmethod
    def from_json(cls, plans: Any) -> "LatentGate":
        """The gate that :meth:`to_json` described.

        Raises:
            ConfigError: if it is no such description.
        """
        try:
            return cls({int(steps): tuple(plan) for steps, plan in plans.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"not the description of a gate: {plans!r}: {error}") from error


def resolve_plan(latents: Mode | Sequence[Mode] | LatentGate, num_steps: int) -> tuple[Mode, ...]:
    """The mode of each of ``num_steps`` jumps, from one for all, one for each, or a gate.

    Raises:
        ConfigError: on an unknown mode, or modes for another number of jumps.
    """
    if isinstance(latents, LatentGate):
        return latents.plan(num_steps)
    plan = (latents,) * num_steps if isinstance(latents, str) else latents
    if not isinstance(plan, Sequence) or not all(isinstance(mode, str) and mode in _MODES for mode in plan):
        raise ConfigError(f"latents must be one of {', '.join(_MODES)}, or these for each jump, got {latents!r}.")
    if len(plan) != num_steps:
        raise ConfigError(f"latents must hold one mode for each of the {num_steps} jumps, got {len(plan)}.")
    return tuple(plan)
