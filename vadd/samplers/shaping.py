"""Shaping of token probabilities: temperature, top-k, top-p, min-p."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_integer, require_number

__all__ = ["Shaping"]


@dataclass(frozen=True)
class Shaping:
    """Changes the distribution of every token that is drawn. The default changes nothing.

    In this order: the logits are divided by the temperature; the ``top_k`` most probable tokens are kept; of these,
    renormalised, the fewest most probable ones whose probabilities sum to at least ``top_p``; of these, those with at
    least ``min_p`` times the probability of the most probable one. What is kept is renormalised. The most probable
    token is always kept.

    Args:
        temperature: 0 is the most probable token, the first of equals.
        top_k: tokens kept; more than the vocabulary has keep all.
        top_p: in ``(0, 1]``. Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv 1904.09751.
        min_p: in ``[0, 1]``. Nguyen et al., "Turning Up the Heat: Min-p Sampling", arXiv 2407.01082.

    Raises:
        DomainError: on values outside these ranges.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature)
        if self.top_k is not None:
            require_integer("top_k", self.top_k)
        if self.top_p is not None:
            require_number("top_p", self.top_p, 0.0, 1.0, above=True)
        if self.min_p is not None:
            require_number("min_p", self.min_p, 0.0, 1.0)

    def __call__(self, logits: Float[Tensor, "*shape vocab"]) -> Float[Tensor, "*shape vocab"]:
        """The logits of the shaped distribution, minus infinity at tokens that are not kept.

        NaN stays NaN, in the whole row.
        """
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
        if self.temperature != 1:
            # From the largest one, so that no temperature overflows.
            logits = (logits.double() - logits.amax(-1, keepdim=True)) / self.temperature
        if self.top_k is not None or self.top_p not in (None, 1):
            logits = self._of_the_best(logits)
        if self.min_p:
            below = logits.double() - logits.amax(-1, keepdim=True)  # bfloat16 would round the threshold
            logits = logits.masked_fill(below < math.log(self.min_p), -torch.inf)
        return logits

    def _of_the_best(self, logits: Tensor) -> Tensor:
        """Only the tokens that top-k and top-p keep."""
        vocab = logits.shape[-1]
        best, index = logits.topk(min(self.top_k or vocab, vocab), -1)
        if self.top_p not in (None, 1):
            p = best.double().softmax(-1)
            best = best.masked_fill(p.cumsum(-1) - p >= self.top_p, -torch.inf)
        return torch.full_like(logits, -torch.inf).scatter(-1, index, best)
