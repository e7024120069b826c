"""Bounds on the log-likelihood, each for the sampler that it names."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vadd._checks import require_integers
from vadd._modes import evaluating
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.claims import PlanChoice, claim_of, resolve_modes
from vadd.evaluation.estimators import by_count, draw_uniform, finite_step, jump, masked_count, shared_latent
from vadd.evaluation.importance import LatentIntegral, Proposal
from vadd.evaluation.plans import planned
from vadd.evaluation.result import BoundResult, collect
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.pairs import check_pair
from vadd.objectives.times import count_free
from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.types import Flags, PerSequence, Tokens

__all__ = ["JumpCosts", "jump_costs", "log_likelihood_bound"]

Kind = Literal["finite-step", "continuous", "marginal", "shared-latent", "delbo", "conditional"]
_KINDS = ("finite-step", "continuous", "marginal", "shared-latent", "delbo", "conditional")


class JumpCosts(NamedTuple):
    """Cost of one jump in nats, estimates and their standard errors, shape ``(batch,)`` each."""

    nats_per_sequence: PerSequence
    stderr_per_sequence: PerSequence


def log_likelihood_bound(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    bound: Kind,
    num_steps: int | None = None,
    num_latents: int = 1,
    proposal: Proposal | None = None,
    latents: PlanChoice | None = None,
    time_grid: TimeGrid | None = None,
    mask_ratio: float = 1.0,
    num_draws: int | None = None,
    num_jumps: int | None = None,
    is_frozen: Flags | None = None,
    is_padding: Flags | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    rows_per_call: int = 1024,
) -> BoundResult:
    r"""Upper bounds on the negative log-likelihood of sequences, in nats.

    ============== =========================================================================
    bound          sampler that it bounds
    ============== =========================================================================
    finite-step    ancestral, ``num_steps`` steps, latents as ``latents`` says
    marginal       the same in infinitely many steps, the latent integrated out for each token
    continuous     the same, one guide draw a jump and the KL paid once a token: loosest
    shared-latent  one latent a trajectory; ``num_steps`` steps, None for infinitely many
    conditional    one jump that reveals a random ``mask_ratio`` of the tokens, given the others
    delbo          none (the published metric), but for a model without a latent
    ============== =========================================================================

    Without a latent (or with ``latents="null"``) finite-step is the masked diffusion bound on its
    grid, marginal, continuous and delbo its continuous-time bound. Estimates are unbiased for
    the bound with ``num_latents`` draws inside the logarithm; more draws tighten it. The number
    of masked tokens is stratified, so variances are finite.

    Args:
        model, guide: the pair, evaluated with dropout off.
        x_0: clean tokens, shape ``(batch, dim)``.
        bound: which bound.
        num_steps: steps ``T`` of the sampler, for finite-step and shared-latent.
        num_latents: draws ``K`` inside each logarithm.
        proposal: where these come from; default the guide, and the prior for ``"marginal"``.
        latents: for finite-step ``"fresh"``, ``"shared"``, ``"null"``, one of these a jump, or a gate; default what
            ``model.sample`` uses. Jumps that share a latent stand in one logarithm with one trajectory outside, so that
            all choices are compared on the same masks. Other bounds take ``"fresh"`` (default) or ``"null"``.
        time_grid: as in :func:`vadd.samplers.sample`.
        mask_ratio: share of free tokens masked, for conditional.
        num_draws: masks drawn for each sequence; default 1 for finite-step and shared-latent, where
            a draw visits several jumps, and 8 otherwise.
        num_jumps: jumps visited in a draw of finite-step and shared-latent, stratified over the grid; default all, at
            most 128, and 8 of infinitely many. Whole trajectories inside the logarithm (shared-latent with several
            draws, or with another proposal than the guide) visit all jumps.
        is_frozen: positions that are given: never scored.
        is_padding: positions without data: never scored, hidden from the networks.
        condition: passed on to the networks.
        seed: of masks and latents. Masks do not depend on the model, but for shared-latent with several
            latents, where each latent has a trajectory of its own.
        rows_per_call: most rows in one call of the denoiser.

    Returns:
        The estimates, with standard errors and what they bound.

    Raises:
        ConfigError: if model and guide do not fit each other, or an option does not fit the bound.
        DtypeError, ShapeError, DomainError: on sequences that are not as described, or an option out of range.
    """
    check_options(bound, num_steps, num_latents, proposal, mask_ratio, num_jumps, time_grid)
    check_inputs(model, guide, x_0, is_frozen=is_frozen, is_padding=is_padding)
    grid = None if num_steps is None else resolve_grid(num_steps, time_grid)
    has_grid = not (time_grid is None or (isinstance(time_grid, str) and time_grid == "uniform"))
    plan = resolve_modes(model, bound, num_steps, latents)
    is_mixed = len(set(plan)) > 1 or plan[0] == "shared"
    if is_mixed and num_jumps is not None:
        raise ConfigError("num_jumps fits fresh or null latents at all jumps: a shared latent visits all jumps.")
    per_draw = bound not in ("finite-step", "shared-latent")
    num_draws = (8 if per_draw else 1) if num_draws is None else num_draws
    check_sizes(num_draws, rows_per_call, seed)
    options = {"is_frozen": is_frozen, "is_padding": is_padding, "condition": condition}
    masks = torch.Generator(x_0.device).manual_seed(seed)
    integral = LatentIntegral(
        model,
        guide,
        num_latents,
        proposal or ("prior" if bound == "marginal" else "guide"),
        "null" if set(plan) == {"null"} else "fresh",
        torch.Generator(x_0.device).manual_seed(seed + 1),
        rows_per_call,
    )
    num_free = count_free(x_0, is_frozen, is_padding)

    def estimate(rows: Tokens, given: dict[str, Any]) -> list[Tensor]:
        if bound == "finite-step" and grid is not None and is_mixed:
            return [planned(integral, rows, grid, plan, masks, given) for _ in range(num_draws)]
        if bound == "finite-step" and grid is not None:
            return [finite_step(integral, rows, grid, num_jumps, masks, given) for _ in range(num_draws)]
        if bound == "shared-latent":
            return [shared_latent(integral, rows, grid, num_jumps, masks, given) for _ in range(num_draws)]
        return list(by_count(integral, rows, bound, mask_ratio, num_draws, masks, given))

    with evaluating(model, guide):
        parts = [estimate(rows, given) for rows, given in slices(x_0, options, rows_per_call)]
    draws = [-torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    num_scored = masked_count(num_free, mask_ratio) if bound == "conditional" else num_free
    claim = claim_of(bound, plan, model, num_steps, mask_ratio, has_grid=has_grid, has_frozen=is_frozen is not None)
    if not integral.integrates:  # the K of a comparison of models, of which this one draws no latent
        return collect(bound, claim, draws, num_scored, num_latents if bound == "shared-latent" else 1, seed)
    return collect(bound, claim, draws, num_scored, num_latents, seed, integral.proposal)


def jump_costs(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    t: float,
    s: float,
    *,
    num_latents: int = 1,
    proposal: Proposal = "guide",
    latents: Literal["fresh", "null"] = "fresh",
    num_draws: int = 1,
    is_frozen: Flags | None = None,
    is_padding: Flags | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    rows_per_call: int = 1024,
) -> JumpCosts:
    """Cost of the jump from ``t`` to ``s``: the finite-step bound of a grid is the sum over its jumps.

    Args:
        model, guide, x_0: as in :func:`log_likelihood_bound`.
        t, s: times, ``0 <= s < t <= 1``.
        num_latents, proposal, latents, num_draws, is_frozen, is_padding, condition, seed, rows_per_call:
            as in :func:`log_likelihood_bound`.

    Raises:
        ConfigError: if model and guide do not fit each other, or on an unknown option.
        DtypeError, ShapeError, DomainError: on sequences that are not as described, or an option out of range.
    """
    if not 0 <= s < t <= 1:
        raise DomainError(f"a jump needs 0 <= s < t <= 1, got t={t}, s={s}.")
    check_sizes(num_draws, rows_per_call, seed)
    check_inputs(model, guide, x_0, is_frozen=is_frozen, is_padding=is_padding)
    options = {"is_frozen": is_frozen, "is_padding": is_padding, "condition": condition}
    masks = torch.Generator(x_0.device).manual_seed(seed)
    latent_generator = torch.Generator(x_0.device).manual_seed(seed + 1)
    integral = LatentIntegral(model, guide, num_latents, proposal, latents, latent_generator, rows_per_call)
    parts = []
    with evaluating(model, guide):
        for rows, given in slices(x_0, options, rows_per_call):
            times = (torch.full(rows.shape[:1], float(v), device=rows.device) for v in (t, s))
            t_row, s_row = times
            parts.append(
                [-jump(integral, rows, t_row, s_row, draw_uniform(rows, masks), given) for _ in range(num_draws)]
            )
    draws = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    result = collect("jump", None, draws, count_free(x_0, is_frozen, is_padding), num_latents, seed)
    return JumpCosts(result.nats_per_sequence, result.stderr_per_sequence)


def slices(
    x_0: Tensor, options: dict[str, Tensor | None], size: int
) -> Iterator[tuple[Tensor, dict[str, Tensor | None]]]:
    for start in range(0, x_0.shape[0], size):
        rows = slice(start, start + size)
        yield x_0[rows], {name: None if v is None else v[rows] for name, v in options.items()}


def check_options(
    bound: str,
    num_steps: int | None,
    num_latents: int,
    proposal: str | None,
    mask_ratio: float,
    num_jumps: int | None,
    time_grid: TimeGrid | None,
) -> None:
    """Raise unless the options fit the bound and each other; what depends on the model is not looked at."""
    if bound not in _KINDS:
        raise ConfigError(f"bound must be one of {', '.join(_KINDS)}, got {bound!r}.")
    if bound == "finite-step" and num_steps is None:
        raise ConfigError('bound="finite-step" needs num_steps, the number of steps of the sampler.')
    if num_steps is not None and bound not in ("finite-step", "shared-latent"):
        raise ConfigError(f"num_steps has no meaning for bound={bound!r}.")
    if bound == "continuous" and (num_latents != 1 or proposal not in (None, "guide")):
        raise ConfigError(
            'bound="continuous" has one guide draw a jump; for more use bound="marginal", which is tighter.'
        )
    if not 0 < mask_ratio <= 1:
        raise DomainError(f"mask_ratio must lie in (0, 1], got {mask_ratio}.")
    if num_jumps is not None:
        require_integers(num_jumps=num_jumps)
    if num_jumps is not None and bound not in ("finite-step", "shared-latent"):
        raise ConfigError(f"num_jumps has no meaning for bound={bound!r}.")
    if num_jumps is not None and bound == "shared-latent" and (num_latents > 1 or proposal not in (None, "guide")):
        raise ConfigError("num_jumps fits one guide draw only: trajectories of a shared latent visit all jumps.")
    if time_grid is not None and num_steps is None:
        raise ConfigError("time_grid needs num_steps: infinitely many steps have no grid.")
    if mask_ratio != 1 and bound != "conditional":
        raise ConfigError(f"mask_ratio has no meaning for bound={bound!r}.")


def check_inputs(
    model: Any, guide: Any, x_0: Any, *, is_frozen: Tensor | None = None, is_padding: Tensor | None = None
) -> None:
    """Raise unless model and guide are a pair, and the sequences clean tokens of it with flags of their shape."""
    check_pair(model, guide)
    model.process.check_tokens(x_0, is_frozen=is_frozen, is_padding=is_padding)


def check_sizes(num_draws: int, rows_per_call: int, seed: int) -> None:
    require_integers(num_draws=num_draws, rows_per_call=rows_per_call)
    require_integers(seed=seed, minimum=0)
