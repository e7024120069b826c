"""Ways to draw a corrupted batch, shared by the objectives."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import ConfigError
from vadd.objectives.steps import JumpTable
from vadd.objectives.times import count_free, counts_at, stratified_uniform
from vadd.process import MaskingProcess
from vadd.types import CorruptedBatch, PerSequence, Tokens

__all__ = [
    "corrupt_by_count",
    "corrupt_by_jump",
    "count_weight",
    "explain_all_masked",
    "merge_rows",
    "share_latent",
]

#: Values of the optional fields of a batch that has none, where another batch has some.
_NEUTRAL: dict[str, Callable[[CorruptedBatch], Tensor]] = {
    "is_frozen": lambda batch: torch.zeros_like(batch.is_masked),
    "is_padding": lambda batch: torch.zeros_like(batch.is_masked),
    "is_null": lambda batch: torch.zeros_like(batch.t, dtype=torch.bool),
    "x_1": lambda batch: batch.x_t,  # never read: these rows do not share their latent
    "shares_latent": lambda batch: torch.full_like(batch.t, batch.x_1 is not None, dtype=torch.bool),
    "num_steps": lambda batch: torch.full_like(batch.t, torch.nan),
}


def corrupt_by_count(
    process: MaskingProcess,
    x_0: Tokens,
    generator: torch.Generator | None,
    options: dict[str, Any],
    *,
    uniform: Float[Tensor, " batch"] | None = None,
) -> CorruptedBatch:
    """Mask a number of tokens that is uniform on ``1..N`` in each row, stratified over the batch.

    The counts follow from ``uniform``, one number in ``[0, 1)`` a row; by default a low-discrepancy draw.
    """
    flags = {name: options.get(name) for name in ("is_frozen", "is_padding")}
    process.check_tokens(x_0, **flags)
    if uniform is None:
        uniform = stratified_uniform(x_0.shape[0], device=x_0.device, generator=generator)
    counts = counts_at(uniform, count_free(x_0, **flags))
    return process.corrupt_count(x_0, counts, generator=generator, **options)


def corrupt_by_jump(
    process: MaskingProcess,
    jumps: JumpTable,
    x_0: Tokens,
    generator: torch.Generator | None,
    options: dict[str, Any],
) -> CorruptedBatch:
    """Draw a number of steps and one of its jumps for each row, stratified over the batch together.

    Rows of infinitely many steps are masked as by :func:`corrupt_by_count`. The field ``num_steps`` of the batch
    says which row has which number of steps.
    """
    drawn = jumps.draw(stratified_uniform(x_0.shape[0], device=x_0.device, generator=generator))
    batches = []
    if any(count is not None for count in jumps.law.steps):
        batches.append(process.corrupt(x_0, drawn.t, drawn.s, generator=generator, **options))
    if None in jumps.law.steps:
        batches.append(corrupt_by_count(process, x_0, generator, options, uniform=drawn.rest))
    batch = batches[0]
    if len(batches) == 2:
        rows = torch.arange(x_0.shape[0], device=x_0.device)
        batch = merge_rows(batches, rows + x_0.shape[0] * drawn.num_steps.isinf())
    return replace(batch, num_steps=drawn.num_steps)


def count_weight(batch: CorruptedBatch) -> PerSequence:
    """``N/n``: weight of a row with ``n`` of its ``N`` free tokens masked, for uniform ``n``; ``N`` for ``n = 0``."""
    num_free = count_free(batch.x_0, batch.is_frozen, batch.is_padding)
    return num_free / batch.is_masked.sum(-1).clamp(min=1)


def explain_all_masked(batch: CorruptedBatch) -> CorruptedBatch:
    """The same jump with all masked tokens as the target, whatever it reveals."""
    return replace(batch, target=batch.is_masked)


def share_latent(batch: CorruptedBatch, mask_id: int) -> CorruptedBatch:
    """Let prior and recognition network see the start of the trajectory, where all free tokens are masked."""
    is_fixed = torch.zeros_like(batch.is_masked)
    for fixed in (batch.is_frozen, batch.is_padding):
        if fixed is not None:
            is_fixed = is_fixed | fixed
    x_1: Tensor = torch.where(is_fixed, batch.x_0, mask_id)
    return replace(batch, x_1=x_1, shares_latent=None)


def merge_rows(batches: Sequence[CorruptedBatch], rows: Int[Tensor, " batch"]) -> CorruptedBatch:
    """One batch of rows of several.

    Args:
        batches: the batches, of sequences of the same length.
        rows: the numbers of the rows to take, counted through all batches, in the order of the result.

    Raises:
        ConfigError: if some of the batches have a condition and others have none.
    """
    if len({batch.x_1 is None for batch in batches}) == 2:
        # Where only some share their latent, which rows do must be said.
        batches = [
            replace(batch, x_1=_field(batch, "x_1"), shares_latent=_field(batch, "shares_latent")) for batch in batches
        ]
    values: dict[str, Tensor | None] = {}
    for name in (item.name for item in fields(CorruptedBatch)):
        is_missing = [getattr(batch, name) is None for batch in batches]
        values[name] = None if all(is_missing) else torch.cat([_field(batch, name) for batch in batches])[rows]
    return CorruptedBatch(**values)  # pyright: ignore[reportArgumentType]


def _field(batch: CorruptedBatch, name: str) -> Tensor:
    """A field of a batch, or the value that says nothing where it has none."""
    value = getattr(batch, name)
    if value is None and name not in _NEUTRAL:
        raise ConfigError(f"{name} must be given in all of the batches to be merged, or in none.")
    return _NEUTRAL[name](batch) if value is None else value
