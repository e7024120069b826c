"""Learning rates by update."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vadd._checks import require_integer, require_integers, require_number

__all__ = ["warmup_constant", "warmup_cosine"]


def warmup_constant(warmup: int) -> Callable[[Optimizer], LambdaLR]:
    """A linear rise over ``warmup`` updates, then the optimizer's learning rate.

    Raises:
        DomainError: if ``warmup`` is negative.
    """
    require_integers(minimum=0, warmup=warmup)
    return lambda optimizer: LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))


def warmup_cosine(num_updates: int, warmup: int = 0, *, floor: float = 0.0) -> Callable[[Optimizer], LambdaLR]:
    """A linear rise over ``warmup`` updates, then half a cosine down to ``floor`` times the learning rate.

    Args:
        num_updates: updates of the whole run, at least 1; the rate stays at its floor after them.
        warmup: updates of the rise; a run that ends before is all of it.
        floor: share of the optimizer's learning rate at the end, in ``[0, 1]``.

    Raises:
        DomainError: if a number is not as described.
    """
    require_integer("num_updates", num_updates)
    require_integer("warmup", warmup, minimum=0)
    require_number("floor", floor, 0.0, 1.0)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, num_updates - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return lambda optimizer: LambdaLR(optimizer, factor)
