"""Nearest neighbours by Euclidean distance."""

from collections.abc import Iterator

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from vadd._checks import require_integer
from vadd.metrics._checks import check_rows, check_same_columns

__all__ = ["nearest_neighbours"]

_CHUNK = 1024


def nearest_neighbours(
    samples: Shaped[Tensor, "num columns"], train: Shaped[Tensor, "num_train columns"], k: int = 1
) -> Int[Tensor, "num k"]:
    """Indices of the ``k`` training rows closest to each sample, closest first.

    Args:
        samples: pixels (as tokens or numbers) or features.
        train: rows to search, at least ``k``, of the same columns.
        k: number of neighbours, at least 1.

    Raises:
        ShapeError, DtypeError, DomainError, NonFiniteError: on input that is not as described.
    """
    require_integer("k", k)
    check_rows("samples", samples, 1, "to search for")
    check_rows("train", train, k, f"to have {k} neighbours")
    check_same_columns("samples", samples, "train", train)
    rows = distance_rows(samples, train)
    return torch.cat([distances.topk(k, largest=False).indices for _, distances in rows])


def distance_rows(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from chunks of ``a`` to all of ``b``, in float64.

    Differences are squared and summed, never expanded into products: a row's distance to itself
    is exactly zero, and the distance of two rows has the same bits whichever sets hold them.
    """
    a, b = a.detach().double(), b.detach().double()
    for start in range(0, a.shape[0], _CHUNK):
        part = slice(start, min(start + _CHUNK, a.shape[0]))
        yield part, torch.cdist(a[part], b, compute_mode="donot_use_mm_for_euclid_dist")
