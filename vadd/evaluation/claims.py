"""Which sampler a bound belongs to: the modes of its jumps, and the words for it."""

from collections.abc import Sequence
from itertools import groupby

from vadd.errors import ConfigError
from vadd.model import VADDModel
from vadd.samplers.gate import LatentGate, Mode, resolve_plan
from vadd.samplers.latents import default_latents

__all__ = ["PlanChoice", "claim_of", "resolve_modes"]

#: A mode for all jumps, one for each, or a gate.
PlanChoice = Mode | Sequence[Mode] | LatentGate


def resolve_modes(model: VADDModel, bound: str, num_steps: int | None, latents: PlanChoice | None) -> tuple[Mode, ...]:
    """The mode of each jump; a single one for bounds that have no jumps of their own.

    Raises:
        ConfigError: if the choice does not fit the bound.
    """
    if bound == "finite-step" and num_steps is not None:
        choice = default_latents(model) if latents is None else latents
        return resolve_plan(choice, num_steps)
    if latents not in (None, "fresh", "null"):
        raise ConfigError(
            f'latents={latents!r} fits bound="finite-step" alone; bound={bound!r} takes "fresh" or "null".'
        )
    return ("null",) if latents == "null" else ("fresh",)


def claim_of(
    bound: str,
    plan: Sequence[Mode],
    model: VADDModel,
    num_steps: int | None,
    mask_ratio: float,
    *,
    has_grid: bool,
    has_frozen: bool,
) -> str | None:
    """The sampler for whose negative log-likelihood the expected value is an upper bound; None where there is none."""
    integrates = model.has_latent and set(plan) != {"null"}
    if bound == "delbo" and integrates:
        return None
    kind = _latents(bound, plan, model.has_latent)
    if bound == "conditional":
        return f"one jump revealing {100 * mask_ratio:.3g}% of the tokens given the others, with {kind}"
    steps = "infinitely many steps" if num_steps is None else f"{num_steps} step{'s' if num_steps > 1 else ''}"
    grid = " of the given grid" if has_grid else ""
    given = " given the frozen tokens" if has_frozen else ""
    return f"ancestral sampling in {steps}{grid}, with {kind}{given}"


def _latents(bound: str, plan: Sequence[Mode], has_latent: bool) -> str:
    if not has_latent:
        return "no latent"
    if set(plan) == {"null"}:
        return "the null latent"
    if bound == "shared-latent" or set(plan) == {"shared"}:
        return "one latent a trajectory"
    if set(plan) == {"fresh"}:
        return "a fresh latent at each step"
    runs = ", then ".join(f"{len(list(group))} {mode}" for mode, group in groupby(plan))
    return f"latents by jump: {runs}"
