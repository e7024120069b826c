"""Samplers that choose each jump's latent: fresh, shared by the trajectory, or null."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vadd.evaluation.estimators import draw_uniform
from vadd.evaluation.importance import LatentIntegral, log_mean
from vadd.objectives.corruption import share_latent
from vadd.types import CorruptedBatch

__all__ = ["PlanScores", "planned", "score_modes"]


class PlanScores(NamedTuple):
    """Log-probabilities of what the jumps of one trajectory reveal, nats, float64.

    Attributes:
        fresh: of each jump with a latent of its own, shape ``(jumps, batch)``.
        null: of each jump with the null latent, shape ``(jumps, batch)``.
        shared_prefix: of the first ``j`` jumps together with one latent, shape ``(jumps + 1, batch)``.
    """

    fresh: Tensor
    null: Tensor
    shared_prefix: Tensor


class _Trajectory:
    """The jumps of one draw of the masking process, made anew whenever they are visited."""

    def __init__(
        self, integral: LatentIntegral, x_0: Tensor, grid: Tensor, masks: torch.Generator, options: dict[str, Any]
    ) -> None:
        self.process, self.x_0, self.options = integral.model.process, x_0, options
        self.uniform = draw_uniform(x_0, masks)
        self.times = grid.to(x_0.device, torch.get_default_dtype())

    def jump(self, index: int) -> CorruptedBatch:
        t, s = (self.times[index + k].expand(self.x_0.shape[0]) for k in (0, 1))
        return self.process.corrupt(self.x_0, t, s, uniform=self.uniform, **self.options)

    @property
    def start(self) -> CorruptedBatch:
        """Everything free masked: what the shared latent is drawn for."""
        ones = torch.ones(self.x_0.shape[0], device=self.x_0.device)
        batch = self.process.corrupt(self.x_0, ones, uniform=self.uniform, **self.options)
        return share_latent(batch, self.process.mask_id)


def planned(
    integral: LatentIntegral,
    x_0: Tensor,
    grid: Tensor,
    plan: Sequence[str],
    masks: torch.Generator,
    options: dict[str, Any],
) -> Tensor:
    r"""Log-probability of one trajectory under a plan, one estimate a row.

    .. math:: \log \int p(z) \prod_{shared} \mu(x_S \mid x_t, z)\, dz
        + \sum_{fresh} \log \int p(z \mid x_t) \mu(x_S \mid x_t, z)\, dz + \sum_{null} \log \mu(x_S \mid x_t).

    The trajectory stays outside the logarithms, as in the bound of a fresh latent at each step: with one seed the
    plans of a grid are compared on the same masks.
    """
    trajectory = _Trajectory(integral, x_0, grid, masks, options)
    null = replace(integral, latents="null")
    total = torch.zeros(x_0.shape[0], dtype=torch.float64, device=x_0.device)
    for index, mode in enumerate(plan):
        if mode != "shared":
            total = total + (integral if mode == "fresh" else null).evidence(trajectory.jump(index))
    shared = [index for index, mode in enumerate(plan) if mode == "shared"]
    if shared:
        total = total + _shared_prefixes(integral, trajectory, shared)[-1]
    return total


def score_modes(
    integral: LatentIntegral, x_0: Tensor, grid: Tensor, masks: torch.Generator, options: dict[str, Any]
) -> PlanScores:
    """What each mode of each jump of one trajectory is worth."""
    trajectory = _Trajectory(integral, x_0, grid, masks, options)
    null = replace(integral, latents="null")
    jumps = range(len(grid) - 1)
    return PlanScores(
        fresh=torch.stack([integral.evidence(trajectory.jump(j)) for j in jumps]),
        null=torch.stack([null.evidence(trajectory.jump(j)) for j in jumps]),
        shared_prefix=torch.stack(_shared_prefixes(integral, trajectory, list(jumps))),
    )


def _shared_prefixes(integral: LatentIntegral, trajectory: _Trajectory, indices: Sequence[int]) -> list[Tensor]:
    """Log-probability of the first ``0, 1, ...`` of the jumps with one latent for them; zero where they reveal nothing.

    With one guide draw the KL divergence is subtracted, once a row.
    """
    start = trajectory.start
    if integral.is_guide_draw:
        z, kl = integral.guide_draw(start)
        parts = [(z[None], -kl[None])]
    else:
        parts = list(integral.propose(start))
    running = [_running_scores(integral, trajectory, indices, z, weights) for z, weights in parts]
    prefixes = [log_mean(chunks) for chunks in zip(*running, strict=True)]
    reveals = torch.zeros(trajectory.x_0.shape[0], dtype=torch.bool, device=trajectory.x_0.device)
    result = [torch.zeros_like(prefixes[0])]
    for index, value in zip(indices, prefixes, strict=True):
        reveals = reveals | trajectory.jump(index).target.any(-1)
        result.append(torch.where(reveals, value, 0.0))
    return result


def _running_scores(
    integral: LatentIntegral, trajectory: _Trajectory, indices: Sequence[int], z: Tensor, weights: Tensor
) -> Iterator[Tensor]:
    """Scores of the jumps so far plus the weights of the latents, shape ``(k, batch)``, after each jump."""
    total = weights
    for index in indices:
        total = total + integral.token_scores(trajectory.jump(index), z).sum(-1)
        yield total
