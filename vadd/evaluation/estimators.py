"""Single draws of each bound: log-probabilities in nats, one a row, float64."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vadd.evaluation.importance import LatentIntegral
from vadd.evaluation.trajectories import shared_trajectories
from vadd.objectives.corruption import explain_all_masked, share_latent
from vadd.objectives.times import count_free, stratified_uniform

__all__ = ["by_count", "draw_uniform", "finite_step", "jump", "masked_count", "shared_latent"]

#: Jumps visited in a draw, unless the caller says: of a grid, and of infinitely many.
_MOST_JUMPS, _JUMPS_OF_INFINITELY_MANY = 128, 8


def jump(
    integral: LatentIntegral,
    x_0: Tensor,
    t: Tensor,
    s: Tensor,
    uniform: Tensor,
    options: dict[str, Any],
    *,
    is_alone: bool = True,
) -> Tensor:
    """Log-probability of what a jump reveals, one estimate a row.

    For one jump alone the expectation over what it reveals is taken in closed form where there is one. Beside all other
    jumps of its trajectory the drawn set is better: each token then counts exactly once.
    """
    process = integral.model.process
    batch = process.corrupt(x_0, t, s, uniform=uniform, **options)
    has_closed_form = not integral.integrates or (integral.is_guide_draw and integral.guide.explains == "masked")
    if is_alone and has_closed_form:
        everything = explain_all_masked(batch)
        u = process.reveal_probability(t.double(), s.double())
        likelihood, kl = integral.pairwise(everything)
        return u * likelihood - (1 - (1 - u) ** batch.is_masked.sum(-1)) * kl
    return integral.evidence(batch)


def draw_uniform(x_0: Tensor, masks: torch.Generator) -> Tensor:
    """The randomness of one trajectory of the masking process."""
    return torch.rand(x_0.shape, dtype=torch.float64, device=x_0.device, generator=masks)


def finite_step(
    integral: LatentIntegral,
    x_0: Tensor,
    grid: Tensor,
    num_jumps: int | None,
    masks: torch.Generator,
    options: dict[str, Any],
) -> Tensor:
    """The jumps of a sampler with a fresh latent at each, summed."""
    total = torch.zeros(x_0.shape[0], dtype=torch.float64, device=x_0.device)
    uniform = draw_uniform(x_0, masks)  # one trajectory for all jumps
    for t, s, weight in _visits(grid, x_0, num_jumps, masks):
        total = total + weight * jump(integral, x_0, t, s, uniform, options, is_alone=weight > 1)
    return total


def shared_latent(
    integral: LatentIntegral,
    x_0: Tensor,
    grid: Tensor | None,
    num_jumps: int | None,
    masks: torch.Generator,
    options: dict[str, Any],
) -> Tensor:
    """One latent a trajectory: for one guide draw a sum over jumps, otherwise whole trajectories in the logarithm."""
    process = integral.model.process
    ones = torch.ones(x_0.shape[0], device=x_0.device)
    start = process.corrupt(x_0, ones, generator=masks, **options)  # nothing is random at time 1
    start = share_latent(start, process.mask_id)
    if integral.num_latents > 1 or (integral.integrates and not integral.is_guide_draw):
        return torch.where(start.is_masked.any(-1), shared_trajectories(integral, start, grid, masks), 0.0)
    total, kl = torch.zeros(x_0.shape[0], dtype=torch.float64, device=x_0.device), 0.0
    if grid is None:
        num_free = start.is_masked.sum(-1)
        visited = num_jumps or _JUMPS_OF_INFINITELY_MANY
        for d in range(visited):
            batch = process.corrupt_count(x_0, _strata(num_free, d, visited, masks), generator=masks, **options)
            weight = num_free / batch.is_masked.sum(-1).clamp(min=1) / visited
            likelihood, kl = integral.pairwise(share_latent(batch, process.mask_id))
            total = total + weight * likelihood
    else:
        uniform = draw_uniform(x_0, masks)
        for t, s, weight in _visits(grid, x_0, num_jumps, masks):
            batch = process.corrupt(x_0, t, s, uniform=uniform, **options)
            factor = 1.0
            if weight > 1:  # not all jumps are visited: the closed form, as for a jump alone
                factor = weight * process.reveal_probability(t.double(), s.double())
                batch = explain_all_masked(batch)
            likelihood, kl = integral.pairwise(share_latent(batch, process.mask_id))
            total = total + factor * likelihood
    return total - torch.where(start.is_masked.any(-1), kl, 0.0)


def by_count(
    integral: LatentIntegral,
    x_0: Tensor,
    bound: str,
    mask_ratio: float,
    num_draws: int,
    masks: torch.Generator,
    options: dict[str, Any],
) -> Iterator[Tensor]:
    """Bounds that are sums over the number of masked tokens, one draw from each of ``num_draws`` strata."""
    num_free = count_free(x_0, options["is_frozen"], options["is_padding"])
    for d in range(num_draws):
        if bound == "conditional":
            count = masked_count(num_free, mask_ratio)
        else:
            count = _strata(num_free, d, num_draws, masks)
        batch = integral.model.process.corrupt_count(x_0, count, generator=masks, **options)
        if bound == "conditional":
            # The jump starts at the time whose mask probability is the ratio: at 1 where all is masked.
            share = count / num_free.clamp(min=1)
            batch = replace(batch, t=integral.model.process.schedule.time_of(share).to(batch.t.dtype))
        weight = num_free / count.clamp(min=1).double()
        has_target = count > 0
        if bound == "conditional":
            value = integral.evidence(batch)
        elif bound == "marginal":
            value = weight * integral.marginal(batch)
        elif bound == "continuous":
            likelihood, kl = integral.pairwise(batch)
            value = weight * (likelihood - count * kl)
        else:
            value = weight * integral.evidence(batch)
        yield torch.where(has_target, value, 0.0)


def _visits(
    grid: Tensor, x_0: Tensor, num_jumps: int | None, masks: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Jumps ``(t, s)`` of each row with their common weight, stratified over the grid where not all are visited."""
    total = len(grid) - 1
    visited = min(total, num_jumps or _MOST_JUMPS)
    dtype = torch.get_default_dtype()
    times = grid.to(x_0.device, dtype)
    for j in range(visited):
        if visited == total:
            index = torch.full(x_0.shape[:1], j, device=x_0.device)
        else:
            uniform = stratified_uniform(x_0.shape[0], device=x_0.device, generator=masks)
            index = ((j + uniform) * (total / visited)).long().clamp(max=total - 1)
        yield times[index], times[index + 1], total / visited


def _strata(num_free: Tensor, stratum: int, num_strata: int, masks: torch.Generator) -> Tensor:
    """Numbers of masked tokens, uniform on ``1..num_free`` once the strata are pooled."""
    uniform = stratified_uniform(num_free.shape[0], device=num_free.device, generator=masks)
    count = 1 + ((stratum + uniform) / num_strata * num_free).long()
    return torch.minimum(count, num_free)


def masked_count(num_free: Tensor, mask_ratio: float) -> Tensor:
    """Number of masked tokens at a ratio, rounded up; at least one where any token is free."""
    # n * (k / n) may exceed k by a rounding error, which must not mask one more.
    count = (num_free.double() * mask_ratio - 1e-9).ceil().long().clamp(min=1)
    return torch.minimum(count, num_free)
