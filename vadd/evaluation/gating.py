"""Choosing each jump's latent on validation data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vadd._modes import evaluating
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.bounds import check_inputs, check_sizes, slices
from vadd.evaluation.importance import LatentIntegral, Proposal
from vadd.evaluation.plans import PlanScores, score_modes
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.samplers.gate import LatentGate, Mode, resolve_plan
from vadd.samplers.time_grid import TimeGrid, has_times, resolve_grid
from vadd.types import Flags, Tokens

__all__ = ["GateCosts", "GateFit", "fit_gate"]

_MODES: tuple[Mode, ...] = ("shared", "fresh", "null")


@dataclass(frozen=True)
class GateCosts:
    """What a plan costs on the half of the validation data that it was not chosen on, nats per sequence.

    Attributes:
        chosen: bound of the chosen plan.
        null: bound of the null latent at every jump.
        gain: ``null - chosen``, zero where the null latent was kept.
        gain_stderr: its standard error over the sequences, on the same masks.
    """

    chosen: float
    null: float
    gain: float
    gain_stderr: float


@dataclass(frozen=True)
class GateFit:
    """A gate and the costs, by number of steps, for which it was chosen."""

    gate: LatentGate
    costs: dict[int, GateCosts]


def fit_gate(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    num_steps: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    modes: Sequence[Mode] = _MODES,
    time_grid: TimeGrid | None = None,
    num_latents: int = 16,
    proposal: Proposal = "mixture",
    num_draws: int = 1,
    margin: float = 2.0,
    is_frozen: Flags | None = None,
    is_padding: Flags | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    rows_per_call: int = 1024,
) -> GateFit:
    """Choose for each number of steps where the latent of each jump comes from.

    The finite-step bound of a plan is a sum: one logarithm for the jumps that share a latent, one for each jump with a
    fresh latent, one for each with none. A plan gives the shared latent to the first jumps, as many as pay, and each
    jump after them a fresh or the null latent, whichever costs less. The null latent is a masked diffusion model: a
    plan replaces it only where it gains more than ``margin`` standard errors. Every other sequence chooses the plan,
    and the others judge it, so that the choice does not flatter the gain.

    Assign the result: ``model.gate = fit_gate(model, guide, validation).gate``; ``model.sample`` and the finite-step
    bound then follow it, and checkpoints keep it.

    Args:
        model, guide: the pair, evaluated with dropout off. Its null latent is a masked diffusion model if training had
            rows without a latent (``latent_dropout``, :class:`~vadd.objectives.NullLatentELBO`).
        x_0: validation sequences, other than those that the result is judged on.
        num_steps: the numbers of steps ``T`` to choose for. The cost grows with the largest.
        modes: the modes to choose from; with ``"null"`` alone or without it no margin applies.
        time_grid: as in :func:`vadd.samplers.sample`, for several numbers of steps a name or a function.
        num_latents, proposal, num_draws, is_frozen, is_padding, condition, seed, rows_per_call: as in
            :func:`~vadd.evaluation.log_likelihood_bound`, which gives the costs of the gate with the same ones. Half of
            the latents come from the prior by default: a guide that explains all masked tokens is too narrow for
            the few that a short jump reveals.
        margin: standard errors by which a plan must beat the null latent.

    Raises:
        ConfigError: if model and guide do not fit each other, the model has no latent, or on an unknown option.
        DtypeError, ShapeError, DomainError: on sequences that are not as described or fewer than four, or an option out
            of range.
    """
    check_inputs(model, guide, x_0, is_frozen=is_frozen, is_padding=is_padding)
    _check(model, x_0, num_steps, modes, time_grid, margin)
    check_sizes(num_draws, rows_per_call, seed)
    options = {"is_frozen": is_frozen, "is_padding": is_padding, "condition": condition}
    plans: dict[int, tuple[Mode, ...]] = {}
    costs: dict[int, GateCosts] = {}
    for steps in num_steps:
        masks, latents = (torch.Generator(x_0.device).manual_seed(seed + k) for k in (0, 1))
        integral = LatentIntegral(model, guide, num_latents, proposal, "fresh", latents, rows_per_call)
        grid = resolve_grid(steps, time_grid)
        with evaluating(model, guide):
            parts = [
                _average(score_modes(integral, rows, grid, masks, given) for _ in range(num_draws))
                for rows, given in slices(x_0, options, rows_per_call)
            ]
        scores = PlanScores(*(torch.cat(pieces, -1) for pieces in zip(*parts, strict=True)))
        plans[steps], costs[steps] = _choose(scores, set(modes), margin)
    return GateFit(LatentGate(plans), costs)


def _choose(scores: PlanScores, modes: set[str], margin: float) -> tuple[tuple[Mode, ...], GateCosts]:
    """The plan that costs the first half of the rows least, and what it costs the second."""
    chooses, judges = (PlanScores(*(part[..., start::2] for part in scores)) for start in (0, 1))
    plan = _cheapest(chooses, modes, margin)
    reference, candidate = -judges.null.sum(0), _cost(judges, plan)
    gain, error = _gain(reference, candidate)
    null_cost = float(reference.mean())
    if "null" in modes and (set(plan) == {"null"} or not gain > margin * error):
        return resolve_plan("null", len(plan)), GateCosts(null_cost, null_cost, 0.0, 0.0)
    return plan, GateCosts(float(candidate.mean()), null_cost, float(gain), float(error))


def _cheapest(scores: PlanScores, modes: set[str], margin: float) -> tuple[Mode, ...]:
    """The plan of the smallest mean cost; a single jump is fresh only where that gains more than the margin."""
    fresh, null = -scores.fresh, -scores.null
    takes_fresh = torch.full((len(null),), "null" not in modes, device=null.device)
    if {"fresh", "null"} <= modes:
        gain, error = _gain(null, fresh)
        takes_fresh = gain > margin * error
    # Cost of the jumps from j on without a shared latent; infinite where neither mode may be used.
    rest = torch.where(takes_fresh[:, None], fresh, null).mean(-1)
    if not {"fresh", "null"} & modes:
        rest = torch.full_like(rest, torch.inf)
    tails = torch.cat([rest.flip(0).cumsum(0).flip(0), rest.new_zeros(1)])
    costs = tails - scores.shared_prefix.mean(-1)
    if "shared" not in modes:
        costs[1:] = torch.inf
    num_shared = int(costs.argmin())
    suffix: list[Mode] = ["fresh" if takes else "null" for takes in takes_fresh[num_shared:].tolist()]
    return (*resolve_plan("shared", num_shared), *suffix)


def _cost(scores: PlanScores, plan: Sequence[Mode]) -> Tensor:
    """Cost of a plan that shares its first jumps, one value a row."""
    total = -scores.shared_prefix[plan.count("shared")]
    for index, mode in enumerate(plan):
        if mode != "shared":
            total = total - (scores.fresh if mode == "fresh" else scores.null)[index]
    return total


def _gain(reference: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the paired differences over the sequences, and its standard error."""
    difference = reference - candidate
    return difference.mean(-1), difference.std(-1) / math.sqrt(difference.shape[-1])


def _average(draws: Any) -> PlanScores:
    return PlanScores(*(torch.stack(parts).mean(0) for parts in zip(*draws, strict=True)))


def _check(
    model: VADDModel,
    x_0: Tensor,
    num_steps: Sequence[int],
    modes: Sequence[str],
    time_grid: TimeGrid | None,
    margin: float,
) -> None:
    if not model.has_latent:
        raise ConfigError("the model has no latent, so there is nothing to choose: its latent_shape is (0,).")
    if x_0.shape[0] < 4:
        raise DomainError(f"x_0 must hold at least 4 sequences, got {x_0.shape[0]}; a few hundred give a good choice.")
    if not isinstance(num_steps, Sequence) or not num_steps or len(set(num_steps)) < len(num_steps):
        raise ConfigError(f"num_steps must name one or more different numbers of steps, got {num_steps!r}.")
    if not modes or not set(modes) <= set(_MODES):
        raise ConfigError(f"modes must be some of {', '.join(_MODES)}, got {tuple(modes)}.")
    if has_times(time_grid) and len(num_steps) > 1:
        raise ConfigError("time_grid must be a name, or a function of the number of steps, where there are several.")
    if not (math.isfinite(margin) and margin >= 0):
        raise DomainError(f"margin must be finite and non-negative, got {margin}.")
