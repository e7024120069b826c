"""Schedules of the KL weight: callables from the step to a weight.

Set the weight before each step: ``elbo.kl_weight = schedule(step)``.
"""

import math
from dataclasses import dataclass

from vadd._checks import require_integer, require_number
from vadd.errors import ConfigError

__all__ = ["ConstantKL", "CosineKL", "CyclicalKL", "LinearKL"]


@dataclass(frozen=True)
class ConstantKL:
    """The same weight at every step.

    Raises:
        ConfigError: if ``weight`` is negative or no finite number.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        require_number("weight", self.weight, error=ConfigError)

    def __call__(self, step: int) -> float:
        return self.weight


@dataclass(frozen=True)
class LinearKL:
    """From 0 to 1 in equal increments over ``num_steps`` steps, then 1: the paper's warm-up.

    Raises:
        ConfigError: if ``num_steps`` is no positive integer.
    """

    num_steps: int

    def __post_init__(self) -> None:
        require_integer("num_steps", self.num_steps, error=ConfigError)

    def __call__(self, step: int) -> float:
        return min(1.0, step / self.num_steps)


@dataclass(frozen=True)
class CosineKL:
    """From 0 to 1 along half a cosine over ``num_steps`` steps, then 1.

    Raises:
        ConfigError: if ``num_steps`` is no positive integer.
    """

    num_steps: int

    def __post_init__(self) -> None:
        require_integer("num_steps", self.num_steps, error=ConfigError)

    def __call__(self, step: int) -> float:
        return 0.5 * (1 - math.cos(math.pi * min(1.0, step / self.num_steps)))


@dataclass(frozen=True)
class CyclicalKL:
    """Repeated warm-ups: in each period of ``period`` steps, linear to 1 over the first ``ramp`` of it.

    Raises:
        ConfigError: if ``period`` is no positive integer, or ``ramp`` does not lie in ``(0, 1]``.

    References:
        Fu et al., "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing",
        NAACL 2019, arXiv 1903.10145.
    """

    period: int
    ramp: float = 0.5

    def __post_init__(self) -> None:
        require_integer("period", self.period, error=ConfigError)
        require_number("ramp", self.ramp, 0.0, 1.0, above=True, error=ConfigError)

    def __call__(self, step: int) -> float:
        return min(1.0, (step % self.period) / (self.ramp * self.period))
