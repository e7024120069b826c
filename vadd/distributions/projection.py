"""Log-probabilities of tokens from features and a head, without all logits at once.

With a vocabulary of 50,000 tokens the logits of a batch are its largest tensor by far, and softmax and gradient make
two more of it. Here a linear head works through slices of the vocabulary: each slice of its weight meets all rows once,
and its gradient is written once. The first slices keep their logits for the backward pass, up to a limit; those of the
others are computed again there, a matrix product more in place of memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vadd.errors import ShapeError

__all__ = ["chunk_on", "linear_token_scores", "require_vocab", "scores_of_logits", "token_scores"]

#: Logits that exist at a time, in numbers: 32 MiB in float32 on a CPU; a GPU wants larger products.
CHUNK = 2**23
CHUNK_OF_ACCELERATOR = 2**26
#: Logits that are kept for the backward pass, in chunks.
NUM_KEPT = 4
#: With fewer columns a product is inefficient: more rows than fit are worked through in blocks.
FEWEST_COLUMNS = 256

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def token_scores(
    features: Float[Tensor, "rows hidden"], head: nn.Module, tokens: Int[Tensor, " rows"], vocab: int
) -> Float[Tensor, " rows"]:
    """Log-probability of each row's token, ``log_softmax(head(features))`` at ``tokens``, in float32 or wider.

    Args:
        features: of the rows.
        head: maps each row to logits. Where it is a linear layer, without hooks, its weights are read instead of
            calling it.
        tokens: one a row, in ``[0, vocab)``.
        vocab: number of logits of a row.

    Raises:
        ShapeError: if the head's logits have another size.
    """
    chunk = chunk_on(features.device)
    if torch.compiler.is_compiling() or len(tokens) * vocab <= chunk:
        return scores_of_logits(head(features), tokens, vocab)
    if type(head) is nn.Linear and not any(getattr(head, hooks) for hooks in _HOOKS):
        require_vocab(head.out_features, vocab)
        return linear_token_scores(features, head.weight, head.bias, tokens)

    def score(x: Tensor, chosen: Tensor) -> Tensor:
        return scores_of_logits(head(x), chosen, vocab)

    rows = max(1, chunk // vocab)
    pairs = zip(features.split(rows), tokens.split(rows), strict=True)
    return torch.cat(
        [
            score(*pair) if i < NUM_KEPT else checkpoint(score, *pair, use_reentrant=False)
            for i, pair in enumerate(pairs)
        ]
    )


def linear_token_scores(
    features: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocab hidden"],
    bias: Float[Tensor, " vocab"] | None,
    tokens: Int[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """:func:`token_scores` of a linear head given by its weights, always in slices."""
    chunk, device = chunk_on(features.device), features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    return torch.cat(
        [
            _LinearScores.apply(x, weight, bias, chosen, dtype, chunk)  # pyright: ignore
            for x, chosen in zip(*(part.split(chunk // FEWEST_COLUMNS) for part in (features, tokens)), strict=True)
        ]
    )


def chunk_on(device: torch.device) -> int:
    """Logits that may exist at a time, in numbers."""
    return CHUNK if device.type == "cpu" else CHUNK_OF_ACCELERATOR


def require_vocab(size: int, vocab: int) -> None:
    """Raise a ShapeError unless logits have one entry a clean token."""
    if size != vocab:
        raise ShapeError(
            f"logits must have one entry for each of the {vocab} clean tokens (none for the mask token), got {size}."
        )


def scores_of_logits(
    logits: Float[Tensor, "rows size"], tokens: Int[Tensor, " rows"], vocab: int
) -> Float[Tensor, " rows"]:
    """Log-probability of each row's token, ``log_softmax(logits)`` at ``tokens``, in float32 or wider."""
    require_vocab(logits.shape[-1], vocab)
    return -F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), tokens, reduction="none")


class _LinearScores(torch.autograd.Function):
    """``log_softmax(x W^T + b)`` at the tokens, in slices of the vocabulary; products in ``dtype``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, dtype: torch.dtype, chunk: int
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        columns = max(FEWEST_COLUMNS, chunk // len(tokens))
        keeps = NUM_KEPT if any(ctx.needs_input_grad[:3]) else 0
        x_low = x.to(dtype)
        # The largest logit and the sum of exponentials apart: their logarithm in one would cost a digit.
        # A finite start: a slice in which all tokens are ruled out leaves it, and no difference of infinities.
        largest = torch.full(tokens.shape, torch.finfo(wide).min, dtype=wide, device=x.device)
        total = torch.zeros_like(largest)
        chosen = torch.zeros_like(largest)
        kept = []
        for i, start in enumerate(range(0, len(weight), columns)):
            logits = _logits(x_low, weight, bias, start, columns)
            if i < keeps:
                kept.append(logits)
            before, largest = largest, torch.maximum(largest, logits.amax(-1).to(wide))
            total = total * (before - largest).exp() + torch.sub(logits.to(wide), largest[:, None]).exp_().sum(-1)
            place, is_here = _place(tokens, start, logits.shape[1])
            chosen = torch.where(is_here, logits.gather(1, place)[:, 0].to(wide), chosen)
        ctx.save_for_backward(x, weight, bias, tokens, largest, total, *kept)
        ctx.dtype, ctx.columns = dtype, columns
        return (chosen - largest) - total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        x, weight, bias, tokens, largest, total, *kept = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        x_low = x.to(ctx.dtype)
        share = -grad / total
        grad_x = torch.zeros_like(x, dtype=largest.dtype) if needs_x else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        for i, start in enumerate(range(0, len(weight), ctx.columns)):
            logits = kept[i] if i < len(kept) else _logits(x_low, weight, bias, start, ctx.columns)
            p = torch.sub(logits.to(largest.dtype), largest[:, None]).exp_().mul_(share[:, None])
            place, is_here = _place(tokens, start, p.shape[1])
            p.scatter_add_(1, place, torch.where(is_here, grad, 0.0)[:, None])
            here = slice(start, start + p.shape[1])
            low = p.to(ctx.dtype)
            if grad_x is not None:
                grad_x += low @ weight[here].to(ctx.dtype)
            if grad_weight is not None:
                grad_weight[here] = low.T @ x_low
            if grad_bias is not None:
                grad_bias[here] = p.sum(0)
        grad_x = None if grad_x is None else grad_x.to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, start: int, columns: int) -> Tensor:
    here = slice(start, start + columns)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x, weight[here].to(x.dtype), None if bias is None else bias[here].to(x.dtype))


def _place(tokens: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Column of each row's token in a slice, and whether it is there."""
    place = tokens - start
    is_here = (place >= 0) & (place < size)
    return place.clamp(0, size - 1)[:, None], is_here
