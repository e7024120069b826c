"""Whole sampled trajectories inside the logarithm, for one latent a trajectory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vadd.evaluation.importance import LatentIntegral, log_mean
from vadd.schedules import NoiseSchedule
from vadd.types import CorruptedBatch, PerSequence

__all__ = ["shared_trajectories"]


def shared_trajectories(
    integral: LatentIntegral, start: CorruptedBatch, grid: Tensor | None, masks: torch.Generator
) -> PerSequence:
    r"""Log of the mean over ``K`` latents of the probability of a trajectory that ends in ``x_0``.

    Each latent comes with a trajectory drawn from the forward process: the probabilities of what is
    revealed when cancel, and the weight is
    :math:`p(z)/r(z) \prod_i \mu^i(x_0^i \mid x_{t(i)}, z)`, with :math:`t(i)` the time before
    position ``i`` is revealed. Unbiased for ``p(x_0)`` inside the logarithm, so a lower bound outside; an
    exponentiated average over trajectories would not be. Without a latent it averages over the
    order of revelation alone.

    Args:
        integral: model, guide, proposal and ``K``.
        start: the batch at time 1 with all free positions masked, sharing its latent.
        grid: times of the sampler; None for infinitely many steps, one token at a time.
        masks: source of the trajectories.
    """
    parts = []
    for z, weights in integral.propose(start):
        uniform = torch.rand((*z.shape[:2], start.x_0.shape[1]), dtype=torch.float64, device=z.device, generator=masks)
        parts.append(weights + _trajectory_scores(integral, start, grid, z, uniform))
    return log_mean(parts)


def _trajectory_scores(
    integral: LatentIntegral, start: CorruptedBatch, grid: Tensor | None, z: Tensor, uniform: Tensor
) -> Tensor:
    """Sum over the jumps of the log-probabilities of what they reveal, shape ``(k, batch)``."""
    model, process = integral.model, integral.model.process
    copies, batch = z.shape[:2]
    options = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in start.network_options.items()}
    x_0 = start.x_0.repeat(copies, 1)
    z = z.flatten(0, 1)
    # A position is masked at time t where its uniform lies below 1 - alpha_t; fixed ones never are.
    uniform = uniform.flatten(0, 1).masked_fill(~start.is_masked.repeat(copies, 1), 2.0)
    total = uniform.new_zeros(copies * batch)
    for t, upper, lower in _thresholds(process.schedule, grid, uniform):
        is_masked = uniform < upper
        target = is_masked & (uniform >= lower)
        likelihood = model.denoise(x_0.masked_fill(is_masked, process.mask_id), t, z, target=target, **options)
        x_s = x_0.masked_fill(is_masked & ~target, process.mask_id)
        total = total + likelihood.token_log_prob(x_s).double().sum(-1)
    return total.reshape(copies, batch)


def _thresholds(
    schedule: NoiseSchedule, grid: Tensor | None, uniform: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Times of each jump, with the mask probabilities before and after it."""
    dtype = torch.get_default_dtype()
    if grid is not None:
        probability = schedule.mask_probability(grid.to(uniform.device))
        for j in range(len(grid) - 1):
            t = torch.full(uniform.shape[:1], float(grid[j]), dtype=dtype, device=uniform.device)
            yield t, probability[j], probability[j + 1]
        return
    # Infinitely many steps reveal one token at a time, in the order of decreasing uniforms.
    ordered = uniform.masked_fill(uniform > 1, -1.0).sort(-1, descending=True).values
    for j in range(ordered.shape[1]):
        lower = ordered[:, j : j + 1]
        upper = torch.nextafter(lower, torch.full_like(lower, 2.0))
        yield schedule.time_of(lower[:, 0].clamp(min=0)).to(dtype), upper, lower
