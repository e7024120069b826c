"""Samplers that reveal first what the network is sure of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_number
from vadd.distributions import sample_categorical
from vadd.errors import ConfigError
from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.run import SamplerRun

__all__ = ["ConfidenceSampler", "EntropyBoundedSampler"]


@dataclass(frozen=True)
class ConfidenceSampler(Sampler):
    r"""MaskGIT: every masked position gets a token, the most confident ones are kept. It has not the model's law.

    After the jump to time ``s`` a row of ``n`` free positions has :math:`\lfloor n (1 - \alpha_s) \rfloor` masked ones
    left; ``time_grid="cosine"`` under the linear schedule gives the counts of the paper. A jump in which no row's count
    changes is left out, so that no more than ``N`` of many steps are used. The choice of positions favours
    probable tokens, at the cost of diversity.

    Args:
        score: what is most confident: ``"probability"`` of the drawn token, ``"margin"`` of the two most
            probable ones, or low ``"entropy"``.
        noise: Gumbel noise added to the logarithm of the score (to minus the entropy), times the share of the steps
            still to come. 0: none.

    Raises:
        ConfigError, DomainError: on an unknown score or a negative noise.

    References:
        Chang et al., "MaskGIT: Masked Generative Image Transformer", arXiv 2202.04200.
    """

    score: Literal["probability", "margin", "entropy"] = "probability"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in ("probability", "margin", "entropy"):
            raise ConfigError(f'score must be "probability", "margin" or "entropy", got {self.score!r}.')
        require_number("noise", self.noise)

    def jumps(self, run: SamplerRun) -> Iterable[Jump]:
        return [
            jump for jump in run.jumps() if any(self._left(n, jump, 0) > self._left(n, jump, 1) for n in run.num_free)
        ]

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        assert run.grid is not None
        masked = run.is_masked(state.x)
        state, logits = run.predict(state, jump, masked)
        tokens = sample_categorical(run.shaping(logits), generator=run.generator)
        scores = self._scores(logits, tokens)
        if self.noise:
            uniform = torch.rand(scores.shape, dtype=torch.float64, device=scores.device, generator=run.generator)
            share_left = 1 - (jump.index + 1) / (len(run.grid) - 1)
            scores = scores - self.noise * share_left * (-uniform.clamp(min=1e-300).log()).log()
        left = torch.tensor([self._left(n, jump, 1) for n in run.num_free], device=scores.device)
        target = _best(scores, masked, masked.sum(-1) - left)
        drawn = state.x.masked_scatter(masked, tokens)
        return replace(state, x=torch.where(target, drawn, state.x))

    @staticmethod
    def _left(num_free: int, jump: Jump, end: int) -> int:
        """Masked positions of a row at the start (0) or the end (1) of a jump."""
        return math.floor(num_free * jump.masked[end] + 1e-9)  # n * (k / n) may lie just below k

    def _scores(self, logits: Tensor, tokens: Tensor) -> Float[Tensor, " selected"]:
        if self.score == "probability":  # without the log-probabilities of all other tokens
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            drawn = wide.gather(-1, tokens.clamp(max=wide.shape[-1] - 1)[:, None])[:, 0]
            return (drawn - wide.logsumexp(-1)).double()
        log_p = logits.double().log_softmax(-1)
        if self.score == "entropy":
            return -_entropy(log_p)
        first, second = log_p.exp().topk(2, -1).values.unbind(-1)
        return (first - second).log()


@dataclass(frozen=True)
class EntropyBoundedSampler(Sampler):
    r"""Reveals as many positions at once as the bound on their dependence allows. It has not the model's law.

    Masked positions are sorted by the entropy :math:`H_i` of their tokens, and the longest beginning
    revealed for which :math:`\sum_i H_i - \max_i H_i \le \gamma`: a bound on the mutual information of tokens that are
    drawn independently, whatever they are. The number of network calls follows from the sequence, at most ``N``;
    ``num_steps`` is not taken. The time is the one at which the schedule masks the share that is masked. Rows that are
    finished leave the network's batch.

    Args:
        gamma: the bound in nats; 0 reveals one position at a time, and all whose tokens are certain.

    Raises:
        DomainError: if it is negative.

    References:
        Ben-Hamu et al., "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
        arXiv 2505.24857.
    """

    gamma: float = 0.1
    takes_num_steps: ClassVar[Literal["always", "optional", "never"]] = "never"

    def __post_init__(self) -> None:
        require_number("gamma", self.gamma)

    def jumps(self, run: SamplerRun) -> Iterable[Jump]:
        return (Jump(k, run.times(1.0)) for k in range(max(run.num_free)))

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        masked = run.is_masked(state.x)
        num_free = run.is_free.sum(-1).clamp(min=1)
        jump = replace(jump, t=run.time_of(masked.sum(-1) / num_free.double()))
        rows = masked.any(-1).nonzero()[:, 0]
        state, logits = run.predict(state, jump, masked, rows=rows if len(rows) < len(masked) else None)
        entropy = _entropy(logits.double().log_softmax(-1))
        by_position = torch.full(masked.shape, torch.inf, dtype=torch.float64, device=masked.device)
        ordered, order = by_position.masked_scatter(masked, entropy).sort(-1)
        # Sorted, the largest entropy is the last one: the others are the sum before it.
        allowed = (ordered.cumsum(-1) - ordered <= self.gamma) & (ordered < torch.inf)
        allowed[:, 0] = ordered[:, 0] < torch.inf
        target = torch.zeros_like(masked).scatter(-1, order, allowed)
        tokens = sample_categorical(run.shaping(logits[target[masked]]), generator=run.generator)
        x = state.x.masked_scatter(target, tokens)
        return replace(state, x=x, is_finished=not bool(run.is_masked(x).any()))


def _entropy(log_p: Tensor) -> Float[Tensor, " selected"]:
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1)


def _best(scores: Tensor, masked: Tensor, num: Tensor) -> Tensor:
    """The ``num`` masked positions of each row with the largest scores, which are given at masked positions."""
    by_position = torch.full(masked.shape, -torch.inf, dtype=torch.float64, device=masked.device)
    order = by_position.masked_scatter(masked, scores).sort(dim=-1, descending=True, stable=True).indices
    # Masked positions first, also those of score minus infinity.
    order = order.gather(-1, masked.gather(-1, order).long().sort(dim=-1, descending=True, stable=True).indices)
    rank = torch.arange(masked.shape[-1], device=masked.device) < num[:, None]
    return torch.zeros_like(masked).scatter(-1, order, rank)
