"""First-hitting sampling: the times at which positions are revealed are drawn first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.run import SamplerRun

__all__ = ["FirstHittingSampler"]


@dataclass(frozen=True)
class FirstHittingSampler(Sampler):
    """Visits only the times at which something is revealed. It has the model's law.

    A position is revealed when the mask probability falls below a uniform of its own; so the times of all reveals
    are drawn at once, and in order they are the order statistics of the uniforms. Every row then goes from one of
    its times to the next, at most ``N`` network calls for ``N`` masked positions, whatever ``num_steps``.

    With ``num_steps=T`` the times are those of the grid: the law is that of ancestral sampling in ``T`` steps. With
    ``num_steps=None`` they are continuous, one position at a time: its limit of infinitely many steps; a latent
    that is kept for ``k`` steps is then kept for ``k`` tokens. Rows that are finished leave the network's batch.

    References:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling", arXiv 2409.02908.
    """

    has_model_law: ClassVar[bool] = True
    takes_num_steps: ClassVar[Literal["always", "optional", "never"]] = "optional"

    def jumps(self, run: SamplerRun) -> Iterable[Jump]:
        return self._continuous(run) if run.grid is None else self._on_grid(run)

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        assert jump.target is not None
        return run.reveal(state, jump, jump.target, rows=jump.active)

    def _continuous(self, run: SamplerRun) -> Iterator[Jump]:
        """One position of each row at a time, in the order of decreasing uniforms."""
        # Positions that are never masked come after all others.
        uniform = run.uniform().masked_fill(~run.is_free, -1.0)
        ordered, order = uniform.sort(-1, descending=True)
        times, is_left = run.time_of(ordered.clamp(min=0)), ordered >= 0
        for k in range(max(run.num_free)):
            target = torch.zeros_like(is_left).scatter(-1, order[:, k : k + 1], is_left[:, k : k + 1])
            active = None if k < min(run.num_free) else is_left[:, k].nonzero()[:, 0]
            yield Jump(k, times[:, k], target=target, active=active)

    def _on_grid(self, run: SamplerRun) -> Iterator[Jump]:
        """Those jumps of each row that reveal something, the first of every row side by side, then the second."""
        jumps = run.jumps()
        index = run.reveal_index(jumps)
        last = len(jumps)
        times = torch.stack([jump.t[0] for jump in jumps])
        ordered, order = index.sort(-1)
        is_new = torch.ones_like(ordered, dtype=torch.bool)
        is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        rank = torch.empty_like(order).scatter(-1, order, is_new.cumsum(-1) - 1)
        rank = rank.masked_fill(index == last, rank.shape[-1])
        visits = index.new_full((len(index), rank.shape[-1] + 1), -1).scatter(-1, rank, index)[:, :-1].T
        for k, rows in enumerate(visits.tolist()):
            if max(rows) < 0:
                return
            active = None if min(rows) >= 0 else (visits[k] >= 0).nonzero()[:, 0]
            t = times[visits[k].clamp(min=0)]  # of finished rows: any
            yield Jump(k, t, target=rank == k, rows=tuple(rows), active=active)
