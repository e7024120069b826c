"""Ways to draw a corrupted batch, shared by the objectives."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vadd.objectives.times import count_free, stratified_counts, stratified_uniform
from vadd.process import MaskingProcess
from vadd.types import CorruptedBatch, PerSequence, Times, Tokens

__all__ = ["corrupt_by_count", "count_weight", "explain_all_masked", "share_latent", "stratified_jumps"]


def corrupt_by_count(
    process: MaskingProcess, x_0: Tokens, generator: torch.Generator | None, options: dict[str, Any]
) -> CorruptedBatch:
    """Mask a number of tokens that is uniform on ``1..N`` in each row, stratified over the batch."""
    flags = {name: options.get(name) for name in ("is_frozen", "is_padding")}
    process.check_tokens(x_0, **flags)
    counts = stratified_counts(count_free(x_0, **flags), generator=generator)
    return process.corrupt_count(x_0, counts, generator=generator, **options)


def count_weight(batch: CorruptedBatch) -> PerSequence:
    """``N/n``: weight of a row with ``n`` of its ``N`` free tokens masked, for uniform ``n``; ``N`` for ``n = 0``."""
    num_free = count_free(batch.x_0, batch.is_frozen, batch.is_padding)
    return num_free / batch.is_masked.sum(-1).clamp(min=1)


def stratified_jumps(grid: Sequence[float], x_0: Tokens, generator: torch.Generator | None) -> tuple[Times, Times]:
    """One of the grid's jumps ``(t, s)`` for each row, uniform, stratified over the batch."""
    times = torch.tensor(grid, device=x_0.device, dtype=torch.get_default_dtype())
    uniform = stratified_uniform(x_0.shape[0], device=x_0.device, generator=generator)
    jump = (uniform * (len(grid) - 1)).long().clamp(max=len(grid) - 2)
    return times[jump], times[jump + 1]


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
    return replace(batch, x_1=x_1)
