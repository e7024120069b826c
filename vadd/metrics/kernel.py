"""Kernel distance between two sets of features."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vadd.errors import DomainError
from vadd.metrics._checks import check_features, check_same_columns

__all__ = ["SubsetDistance", "kernel_distance", "kernel_distance_of_subsets"]

_CHUNK = 1024


class SubsetDistance(NamedTuple):
    """Mean and standard deviation of a distance over random subsets of the rows."""

    mean: float
    std: float


def kernel_distance(features_a: Float[Tensor, "rows_a columns"], features_b: Float[Tensor, "rows_b columns"]) -> float:
    r"""Unbiased estimate of the squared maximum mean discrepancy with the kernel :math:`(x \cdot y / d + 1)^3`.

    .. math:: \frac{\sum_{i \ne j} k(a_i, a_j)}{m (m-1)} + \frac{\sum_{i \ne j} k(b_i, b_j)}{n (n-1)}
              - \frac{2 \sum_{i, j} k(a_i, b_j)}{m n}

    Its expectation does not depend on the numbers of rows, and it can be negative where the laws are alike. The value
    depends on the feature network: "KID" means the features of one Inception network.

    Args:
        features_a: at least two rows, of ``d`` columns.
        features_b: at least two rows of the same columns.

    Returns:
        The distance, computed in float64, a chunk of rows at a time.

    Raises:
        ShapeError, DtypeError, DomainError, NonFiniteError: on features that are not as described.

    References:
        Bińkowski et al., "Demystifying MMD GANs", arXiv 1801.01401; Gretton et al., "A Kernel Two-Sample Test", 2012.
    """
    _check(features_a, features_b)
    return _distance(features_a.detach().double(), features_b.detach().double())


def kernel_distance_of_subsets(
    features_a: Float[Tensor, "rows_a columns"],
    features_b: Float[Tensor, "rows_b columns"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> SubsetDistance:
    """:func:`kernel_distance` of random subsets, the form in which it is often published (100 subsets of 1,000 rows).

    The mean has the same expectation and a larger variance; the standard deviation is that of one subset.

    Args:
        features_a, features_b: as for :func:`kernel_distance`.
        num_subsets: pairs of subsets, at least 1.
        subset_size: rows of each, at least 2, without repetition.
        seed: of the subsets.

    Raises:
        ShapeError, DtypeError, DomainError, NonFiniteError: on features or sizes that are not as described.
    """
    _check(features_a, features_b)
    most = min(len(features_a), len(features_b))
    if num_subsets < 1 or not 2 <= subset_size <= most:
        raise DomainError(
            f"expected at least 1 subset of 2 to {most} rows, got num_subsets={num_subsets}, subset_size={subset_size}."
        )
    generator = torch.Generator().manual_seed(seed)
    a, b = features_a.detach().double(), features_b.detach().double()
    values = []
    for _ in range(num_subsets):
        rows_a, rows_b = (torch.randperm(len(x), generator=generator)[:subset_size].to(x.device) for x in (a, b))
        values.append(_distance(a[rows_a], b[rows_b]))
    found = torch.tensor(values, dtype=torch.float64)
    return SubsetDistance(float(found.mean()), float(found.std(correction=0)))


def _check(features_a: Tensor, features_b: Tensor) -> None:
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        check_features(name, features, 2, "to be compared with each other")
    check_same_columns("features_a", features_a, "features_b", features_b)


def _distance(a: Tensor, b: Tensor) -> float:
    within = [
        (_sum(x, x) - float(_kernel(x.square().sum(-1), x.shape[1]).sum())) / (len(x) * (len(x) - 1)) for x in (a, b)
    ]
    return sum(within) - 2 * _sum(a, b) / (len(a) * len(b))


def _sum(a: Tensor, b: Tensor) -> float:
    """Sum of the kernel over all pairs."""
    return sum(float(_kernel(part @ b.T, a.shape[1]).sum()) for part in a.split(_CHUNK))


def _kernel(products: Tensor, num_columns: int) -> Tensor:
    return (products / num_columns + 1) ** 3
