"""Ancestral sampling in steps of equal shapes, which wait for no value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.run import SamplerRun

__all__ = ["StaticSampler"]


@dataclass(frozen=True)
class StaticSampler(Sampler):
    """Draws at the start which jump reveals each position. It has the model's law.

    When positions are revealed does not depend on their tokens, so that it may be drawn beforehand. All steps then
    make the same operations on the same shapes: each projects as many positions as the fullest jump reveals, and what
    it does not reveal of them is thrown away. That costs little where jumps reveal about as many, as with even time
    grids and many rows, and much where one reveals most.

    On a GPU the host waits at the start of each batch of rows, and in the first step, whose values are checked; then it
    runs ahead. A CUDA graph can hold one of the later steps and serve them all, as long as the latent stays
    (``"shared"``, ``"null"``): a draw takes its seed from the host.
    """

    has_model_law: ClassVar[bool] = True

    def jumps(self, run: SamplerRun) -> Sequence[Jump]:
        jumps = run.jumps()
        index = run.reveal_index(jumps).flatten()
        order = index.argsort(stable=True)
        numbers = torch.arange(len(jumps), device=index.device)
        ends = torch.searchsorted(index[order], numbers, right=True)
        starts = [0, *ends.tolist()]
        counts = ends.diff(prepend=ends.new_zeros(1))
        size = max(after - before for before, after in zip(starts[:-1], starts[1:], strict=True))
        is_due = torch.arange(size, device=index.device) < counts[:, None]
        around = torch.cat([order, order])  # no position twice in a jump, as there are at most as many slots
        return [
            Jump(jump.index, jump.t, jump.masked, slots=(around[first : first + size], due))
            for jump, first, due in zip(jumps, starts[:-1], is_due, strict=True)
        ]

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        assert jump.slots is not None
        slots, is_due = jump.slots
        target = torch.zeros_like(run.is_free).flatten().index_copy(0, slots, is_due).reshape(state.x.shape)
        return run.reveal(state, jump, target)
