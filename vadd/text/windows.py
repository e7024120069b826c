"""Long documents in overlapping windows, each of which shows some of the tokens before it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vadd._checks import require_integers
from vadd.errors import DomainError, DtypeError, ShapeError

__all__ = ["sliding_windows"]


def sliding_windows(
    tokens: Int[Tensor, " tokens"] | Sequence[int], length: int, stride: int
) -> dict[str, Int[Tensor, "windows length"] | Bool[Tensor, "windows length"]]:
    """One document as rows of a fixed length, in which every token is free exactly once.

    The first window has no context. Every further one begins ``stride`` tokens after the one before it: its first
    ``length - stride`` tokens were scored already and are frozen, the next ``stride`` are new. The last is padded.
    The larger the stride, the fewer the windows, and the less the tokens at the start of a window see.

    Args:
        tokens: the document, shape ``(tokens,)``, at least one.
        length: tokens of a window.
        stride: new tokens of a window, at most ``length``; equal to it for windows without context.

    Returns:
        ``x_0``, ``is_frozen`` and ``is_padding``, shape ``(windows, length)`` each, in the order of the document.
        Padding holds token 0.

    Raises:
        DomainError: if a number is out of range or the document is empty.
        DtypeError, ShapeError: if ``tokens`` is not one row of integers.
    """
    require_integers(length=length, stride=stride)
    if stride > length:
        raise DomainError(f"stride must be at most length={length}, or tokens would be left out, got {stride}.")
    row = _as_row(tokens)
    num_windows = 1 + max(0, -((length - len(row)) // stride))
    starts = stride * torch.arange(num_windows, device=row.device)
    index = starts[:, None] + torch.arange(length, device=row.device)
    is_padding = index >= len(row)
    is_frozen = (torch.arange(length, device=row.device) < length - stride).repeat(num_windows, 1)
    is_frozen[0] = False
    x_0 = row[index.clamp(max=len(row) - 1)].masked_fill(is_padding, 0)
    return {"x_0": x_0, "is_frozen": is_frozen, "is_padding": is_padding}


def _as_row(tokens: Tensor | Sequence[int]) -> Tensor:
    if not isinstance(tokens, Tensor):
        array = np.asarray(tokens)
        if array.size and array.dtype.kind not in "iu":  # an empty list has numpy's default dtype
            raise DtypeError(f"tokens must hold integers, got {array.dtype.name}; texts go through tokenizer.encode.")
        tokens = torch.from_numpy(array.astype(np.int64))
    if not tokens.numel():
        raise DomainError("tokens is empty: a document must have at least one token.")
    if tokens.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise DtypeError(f"tokens must hold integers, got {tokens.dtype}.")
    if tokens.ndim != 1:
        raise ShapeError(f"tokens must be one document of shape (tokens,), got {tuple(tokens.shape)}.")
    return tokens.long()
