"""Low-discrepancy draws for a batch: the same law for each row as independent draws, much lower variance."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.types import Flags, Tokens

__all__ = ["count_free", "counts_at", "stratified_uniform"]


def stratified_uniform(
    num: int, *, device: torch.device | None = None, generator: torch.Generator | None = None
) -> Float[Tensor, " batch"]:
    """Values in ``[0, 1)``, each uniform, one in each interval ``[k/num, (k+1)/num)``; float64.

    One uniform shifts an equidistant grid around the circle (Kingma et al., "Variational Diffusion
    Models", arXiv 2107.00630, appendix I). The order is random: rows of a sorted batch stay exchangeable.
    """
    shift = torch.rand((), dtype=torch.float64, device=device, generator=generator)
    grid = torch.arange(num, dtype=torch.float64, device=device) / num
    order = torch.randperm(num, device=device, generator=generator)
    return torch.remainder(grid + shift, 1.0)[order]


def count_free(x_0: Tokens, is_frozen: Flags | None, is_padding: Flags | None) -> Int[Tensor, " batch"]:
    """Number of positions of each row that can be masked."""
    is_free = torch.ones_like(x_0, dtype=torch.bool)
    for fixed in (is_frozen, is_padding):
        if fixed is not None:
            is_free = is_free & ~fixed
    return is_free.sum(-1)


def counts_at(uniform: Float[Tensor, " batch"], num_free: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The counts on ``1..num_free`` that numbers in ``[0, 1)`` stand for, all alike; 0 where ``num_free`` is."""
    counts = 1 + (uniform * num_free).long()
    return torch.minimum(counts, num_free)
