"""Time grids of the smallest finite-step bound."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from vadd._checks import is_integer, require_integer
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.bounds import check_inputs, jump_costs
from vadd.evaluation.importance import Proposal
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.samplers.time_grid import checked_times, uniform_grid
from vadd.types import Flags, Tokens

__all__ = ["OptimizedGrid", "optimize_grid"]

_SECONDS_UNTIL_BAR = 3.0


@dataclass(frozen=True)
class OptimizedGrid:
    """For every number of steps the grid of the smallest estimated bound, out of candidate times.

    It is a time grid: ``model.sample(16, num_steps=8, time_grid=grid)``.

    Attributes:
        candidates: times from 1 to 0, float64.
        costs: estimated cost of the jump between each two of them in nats per sequence, infinite unless it goes down.
    """

    candidates: Float[Tensor, " times"]
    costs: Float[Tensor, "times times"]

    def __call__(self, num_steps: int) -> Float[Tensor, " steps"]:
        """The ``num_steps + 1`` times.

        Raises:
            DomainError: unless ``num_steps`` lies between 1 and the number of candidate jumps.
        """
        return self.candidates[self._path(num_steps)[0]]

    def nats(self, num_steps: int) -> float:
        """The estimated bound with that grid, nats per sequence.

        As the smallest of many estimates it is optimistic: judge the grid by
        :func:`~vadd.evaluation.log_likelihood_bound` on other sequences.
        """
        return self._path(num_steps)[1]

    def _path(self, num_steps: int) -> tuple[list[int], float]:
        """Indices of the best grid and its cost, by dynamic programming over the number of jumps."""
        most = len(self.candidates) - 1
        if not (is_integer(num_steps) and num_steps <= most):
            raise DomainError(
                f"num_steps must be an integer from 1 to {most}, the jumps between candidate times, got {num_steps!r}; "
                "optimize with more num_candidates."
            )
        cost, origins = self.costs[0], []
        for _ in range(num_steps - 1):
            cost, origin = (cost[:, None] + self.costs).min(0)
            origins.append(origin)
        path = [most]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        return [0, *reversed(path)], float(cost[-1])


def optimize_grid(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    num_candidates: int = 32,
    candidates: Float[Tensor, " times"] | None = None,
    num_latents: int = 1,
    proposal: Proposal = "guide",
    latents: Literal["fresh", "null"] | None = None,
    num_draws: int = 1,
    is_frozen: Flags | None = None,
    is_padding: Flags | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    rows_per_call: int = 1024,
    progress: bool = True,
) -> OptimizedGrid:
    """Estimate what every jump costs; the best grid of any number of steps is then a shortest path.

    The finite-step bound of a grid is the sum of the costs of its jumps, so the grid of ``T`` jumps between given times
    with the smallest bound is found by dynamic programming (Watson et al., "Learning to Efficiently Sample from
    Diffusion Probabilistic Models", arXiv 2106.03802, for the bounds of continuous diffusion). It takes one estimate
    of :func:`~vadd.evaluation.jump_costs` for each pair of times, on the same masks.

    Args:
        model, guide: the pair, evaluated with dropout off.
        x_0: sequences other than those that the result is judged on.
        num_candidates: jumps between neighbouring candidate times, at equal steps of the mask probability.
        candidates: in their place, times from 1 to 0.
        num_latents, proposal, latents, num_draws, is_frozen, is_padding, condition, seed, rows_per_call:
            as in :func:`~vadd.evaluation.jump_costs`; ``latents`` by default the model's own. A latent shared by the
            trajectory has no costs by jump: for models that sample with one, or by a gate, name the latents to
            optimize for, ``"null"`` or ``"fresh"``, and judge the grid by the bound of the sampler.
        progress: whether a run of more than a few seconds shows a bar, on a terminal.

    Raises:
        ConfigError: if model and guide do not fit each other, on an unknown option, or times that do not decrease from
            1 to 0.
        DtypeError, ShapeError, DomainError: on sequences that are not as described, or an option out of range.
    """
    check_inputs(model, guide, x_0, is_frozen=is_frozen, is_padding=is_padding)
    latents = latents or _own_latents(model)
    if candidates is None:
        require_integer("num_candidates", num_candidates)
        masked = uniform_grid(num_candidates).to(model.null_latent.device)
        candidates = model.process.schedule.time_of(masked).cpu()
    elif not isinstance(candidates, Tensor) or candidates.ndim != 1 or len(candidates) < 2:
        got = tuple(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
        raise ConfigError(f"candidates must be a tensor of two or more times, got {got}.")
    times = checked_times("candidates", candidates)
    costs = torch.full((len(times), len(times)), torch.inf, dtype=torch.float64)
    pairs = [(i, j) for i in range(len(times)) for j in range(i + 1, len(times))]
    for i, j in tqdm(pairs, delay=_SECONDS_UNTIL_BAR, disable=None if progress else True, unit="jump"):
        estimate = jump_costs(
            model,
            guide,
            x_0,
            float(times[i]),
            float(times[j]),
            num_latents=num_latents,
            proposal=proposal,
            latents=latents,
            num_draws=num_draws,
            is_frozen=is_frozen,
            is_padding=is_padding,
            condition=condition,
            seed=seed,
            rows_per_call=rows_per_call,
        )
        costs[i, j] = estimate.nats_per_sequence.mean()
    return OptimizedGrid(times, costs)


def _own_latents(model: VADDModel) -> Literal["fresh", "null"]:
    """The model's own, where each jump has its cost."""
    if model.has_latent and (model.gate is not None or model.latents == "shared"):
        raise ConfigError(
            "the model samples with one latent a trajectory or by a gate, which have no costs by jump: give latents as "
            '"null" or "fresh", the jumps to optimize for.'
        )
    return "null" if model.latents == "null" else "fresh"
