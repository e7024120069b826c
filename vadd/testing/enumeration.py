"""All sequences, all sets of positions, and the scores of tokens under a model."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from vadd.types import Tokens

__all__ = ["all_masks", "all_sequences", "reveal_probability", "set_differences", "token_scores"]


def all_sequences(vocab_size: int, num_tokens: int) -> Tokens:
    """All ``vocab_size**num_tokens`` sequences, the last position running fastest."""
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * num_tokens).reshape(-1, num_tokens)


def all_masks(num_tokens: int) -> Bool[Tensor, "masks dim"]:
    """All ``2**num_tokens`` sets of positions; row ``k`` holds the binary digits of ``k``."""
    return all_sequences(2, num_tokens).bool()


def token_scores(model: Any, x_t: Tensor, t: Tensor, z: Tensor | None, x_0: Tensor) -> Tensor:
    """``log mu^i(x_0^i | x_t, z, t)`` at every position, shape ``(nodes, batch, dim)``."""
    log_p = model.denoise(x_t, t, z).logits.double().log_softmax(-1)
    log_p = log_p.reshape(-1, *log_p.shape[-3:])
    return log_p.gather(-1, x_0.expand(log_p.shape[:-1])[..., None])[..., 0]


def reveal_probability(model: Any, t: Tensor, s: Tensor) -> Tensor:
    """Probability that the jump from ``t`` to ``s`` reveals a masked position."""
    alpha_t, alpha_s = model.process.schedule.alpha(t), model.process.schedule.alpha(s)
    return (alpha_s - alpha_t) / (1 - alpha_t)


def set_differences(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the set ``M`` without ``S`` for each pair of sets, and whether ``S`` is a subset of ``M``."""
    place = 2 ** torch.arange(masks.shape[1] - 1, -1, -1)
    remaining = masks[:, None] & ~masks[None]
    is_subset = ~(masks[None] & ~masks[:, None]).any(-1)
    return (remaining * place).sum(-1), is_subset
