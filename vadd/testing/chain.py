"""The exact law of ancestral sampling, by recursion over the sets of masked positions."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import ConfigError
from vadd.samplers.gate import LatentGate, Mode, resolve_plan
from vadd.samplers.latents import LatentBlocks
from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.testing.enumeration import all_masks, all_sequences, reveal_probability, set_differences, token_scores
from vadd.testing.nodes import latent_nodes
from vadd.types import Flags, PerSequence, Tokens

__all__ = ["exact_log_likelihood", "exact_sampler_distribution"]

_Latents = Mode | Sequence[Mode] | LatentGate | LatentBlocks


@torch.no_grad()
def exact_log_likelihood(
    model: Any,
    x_0: Tokens,
    *,
    num_steps: int | None,
    time_grid: TimeGrid | None = None,
    latents: _Latents = "fresh",
    is_known: Flags | None = None,
    num_nodes: int | None = None,
) -> PerSequence:
    """Log-probability that the sampler in ``num_steps`` steps ends in each of the sequences.

    A recursion over the sets of masked positions, backwards from time 0.

    Args:
        model: the model.
        x_0: clean sequences, shape ``(batch, dim)``.
        num_steps: number of reverse steps ``T``; None for the limit of infinitely many, for networks that do not read
            the time and latents of one mode.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform.
        latents: a mode for all jumps or one for each, a gate, or blocks of jumps.
        is_known: tokens that are there from the start: the value is the log-probability of the others, for the chain
            that starts from them. Default none.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.

    Raises:
        ConfigError: on latents that do not fit the number of steps.
    """
    chain = _Chain(model, x_0, torch.zeros_like(x_0, dtype=torch.bool) if is_known is None else is_known, num_nodes)
    if num_steps is None:
        if not isinstance(latents, str):
            raise ConfigError("in infinitely many steps all latents must be of one mode.")
        (mode,) = resolve_plan(latents, 1)
        return chain.start_from(chain.one_by_one(mode), mode == "shared")
    grid = resolve_grid(num_steps, time_grid)
    if isinstance(latents, LatentBlocks):
        return chain.start_from(chain.in_blocks(grid, latents.origins(num_steps)), False)
    plan = resolve_plan(latents, num_steps)
    return chain.start_from(chain.by_plan(grid, plan), "shared" in plan)


def exact_sampler_distribution(
    model: Any,
    num_tokens: int,
    *,
    num_steps: int | None,
    time_grid: TimeGrid | None = None,
    latents: _Latents = "fresh",
    x: Int[Tensor, " dim"] | None = None,
    is_known: Bool[Tensor, " dim"] | None = None,
    num_nodes: int | None = None,
) -> Float[Tensor, " sequences"]:
    """Probability of each of :func:`~vadd.testing.all_sequences` under the sampler; they sum to one.

    Args:
        model: the model.
        num_tokens: length of the sequences.
        num_steps, time_grid, latents, num_nodes: as in :func:`exact_log_likelihood`, which raises what this does.
        x: a sequence with the tokens that are there from the start, shape ``(dim,)``.
        is_known: which they are, shape ``(dim,)``; default none.

    Raises:
        ConfigError: if only one of ``x`` and ``is_known`` is given.
    """
    if (x is None) != (is_known is None):
        raise ConfigError("x holds the tokens that is_known names: give both, or neither.")
    sequences = all_sequences(model.process.vocab_size, num_tokens)
    known = None if is_known is None else is_known.expand(sequences.shape)
    values = exact_log_likelihood(
        model,
        sequences,
        num_steps=num_steps,
        time_grid=time_grid,
        latents=latents,
        is_known=known,
        num_nodes=num_nodes,
    ).exp()
    if x is None or known is None:
        return values
    return torch.where(((sequences == x) | ~known).all(-1), values, 0.0)


class _Chain:
    """Log-probabilities of ending in each of the sequences, given that only a set of its positions is masked.

    They have shape ``(nodes, batch, sets)``, where the first axis runs over what a latent that was drawn before
    may be, and has size 1 where there is none.
    """

    def __init__(self, model: Any, x_0: Tensor, is_known: Tensor, num_nodes: int | None) -> None:
        self.model, self.num_nodes = model, num_nodes
        self.batch, self.dim = x_0.shape
        self.masks = all_masks(self.dim)
        self.left, self.is_subset = set_differences(self.masks)
        # Rows: every sequence with every set of its positions masked.
        self.sequences = x_0.repeat_interleave(len(self.masks), 0)
        self.x_t = self.sequences.masked_fill(self.masks.repeat(self.batch, 1), model.process.mask_id)
        self.x_1 = x_0.masked_fill(~is_known, model.process.mask_id)
        self.first = (~is_known * 2 ** torch.arange(self.dim - 1, -1, -1)).sum(-1)

    def start_from(self, reach: Tensor, has_shared: bool) -> Tensor:
        """The log-probabilities of the sequences from the start, with the shared latent summed over."""
        value = reach[:, torch.arange(self.batch), self.first]
        return (self._shared[1] + value).logsumexp(0) if has_shared else value[0]

    def by_plan(self, grid: Tensor, plan: Sequence[Mode]) -> Tensor:
        reach = self._end()
        for j in reversed(range(len(plan))):
            reach = self._jump(reach, grid[j], grid[j + 1], self._scores(plan[j], grid[j]))
        return reach

    def in_blocks(self, grid: Tensor, origins: Sequence[int]) -> Tensor:
        """A latent drawn at the set of masked positions with which a block starts, and kept for its jumps."""
        reach, sets = self._end(), len(self.masks)
        for start in sorted(set(origins), reverse=True):
            z, log_weights = latent_nodes(self.model, self.x_t, grid[start].expand(len(self.x_t)), self.num_nodes)
            nodes = len(z)
            # Nodes of every first set (particles) for every set that is then reached (rows).
            z = z.unflatten(1, (self.batch, sets)).movedim(2, 1).flatten(0, 1).repeat_interleave(sets, 1)
            inside = reach.expand(len(z), -1, -1)
            for j in reversed([j for j, origin in enumerate(origins) if origin == start]):
                inside = self._jump(inside, grid[j], grid[j + 1], self._scores_given(z, grid[j]))
            own = inside.unflatten(0, (nodes, sets)).diagonal(dim1=1, dim2=3)  # node, batch, set
            reach = (log_weights.unflatten(1, (self.batch, sets)) + own).logsumexp(0, keepdim=True)
        return reach

    def one_by_one(self, mode: Mode) -> Tensor:
        """The limit of infinitely many jumps: one position at a time, each of those left equally likely."""
        scores = self._scores(mode, torch.tensor(0.5, dtype=torch.float64), is_joint=False)
        reach = self._end().expand(len(scores), -1, -1).clone()
        for number in self.masks.sum(-1).argsort()[1:].tolist():
            positions = self.masks[number].nonzero()[:, 0]
            after = number - 2 ** (self.dim - 1 - positions)
            values = scores[:, :, number, positions] + reach[:, :, after]
            reach[:, :, number] = values.logsumexp(-1) - torch.tensor(len(positions)).double().log()
        return reach

    @property
    def _shared(self) -> tuple[Tensor, Tensor]:
        return latent_nodes(self.model, self.x_1, torch.ones(self.batch, dtype=torch.float64), self.num_nodes)

    def _end(self) -> Tensor:
        """After the last jump nothing is masked: probability one for the empty set, zero for others."""
        reach = torch.full((1, self.batch, len(self.masks)), -torch.inf, dtype=torch.float64)
        reach[..., 0] = 0.0
        return reach

    def _jump(self, reach: Tensor, t: Tensor, s: Tensor, shown: Tensor) -> Tensor:
        """One jump before ``reach``, given the log-probabilities of the tokens of each revealed set."""
        u = reveal_probability(self.model, t, s)
        num_shown, num_left = self.masks.sum(-1), self.masks.sum(-1)[self.left]
        choice = torch.where(self.is_subset, u**num_shown * (1 - u) ** num_left, 0.0).log()
        return (choice + shown + reach[:, :, self.left]).logsumexp(-1)

    def _scores(self, mode: Literal["fresh", "shared", "null"], t: Tensor, *, is_joint: bool = True) -> Tensor:
        """Log-probabilities of each revealed set, or each token, shape ``(nodes, batch, sets, sets or dim)``."""
        if mode == "shared":
            z = self._shared[0].repeat_interleave(len(self.masks), 1)
            return self._scores_given(z, t, is_joint=is_joint)
        if mode == "null":
            return self._scores_given(None, t, is_joint=is_joint)
        z, log_weights = latent_nodes(self.model, self.x_t, t.expand(len(self.x_t)), self.num_nodes)
        scores = self._scores_given(z, t, is_joint=is_joint)
        weights = log_weights.unflatten(1, (self.batch, len(self.masks)))
        return (weights[..., None] + scores).logsumexp(0, keepdim=True)

    def _scores_given(self, z: Tensor | None, t: Tensor, *, is_joint: bool = True) -> Tensor:
        scores = token_scores(self.model, self.x_t, t.expand(len(self.x_t)), z, self.sequences)
        if is_joint:
            scores = torch.stack([scores[..., mask].sum(-1) for mask in self.masks], -1)
        return scores.unflatten(1, (self.batch, len(self.masks)))
