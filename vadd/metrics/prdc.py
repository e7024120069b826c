"""Precision, recall, density and coverage."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_integer
from vadd.metrics._checks import check_features, check_same_columns
from vadd.metrics.neighbours import distance_rows

__all__ = ["PRDC", "prdc"]


class PRDC(NamedTuple):
    """Four views of how two sets of features overlap.

    Attributes:
        precision: share of fake rows inside the ball of some real row; fidelity.
        recall: share of real rows inside the ball of some fake row; variety.
        density: mean number of real balls that hold a fake row, over ``k``; fidelity, may exceed 1.
        coverage: share of real rows whose ball holds some fake row; variety.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Float[Tensor, "num_real columns"], fake: Float[Tensor, "num_fake columns"], k: int = 5) -> PRDC:
    """Compare two sets of features by their nearest-neighbour balls.

    The ball of a row is open, and its radius is the distance to the row's ``k``-th nearest
    neighbour in its own set, the row itself not counted. So a set without repeated rows, compared
    with itself, scores 1 in all four; more than ``k`` copies of a row have empty balls. All four
    depend on the feature network, on ``k`` and on both sizes: compare at equal sizes, beside real
    against real.

    Args:
        real: features of data, more than ``k`` rows.
        fake: features of samples, more than ``k`` rows of the same columns.
        k: the neighbour that sets the radius, at least 1.

    Raises:
        ShapeError, DtypeError, DomainError, NonFiniteError: on input that is not as described.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", arXiv
        2002.09797; Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing
        Generative Models", arXiv 1904.06991.
    """
    require_integer("k", k)
    for name, features in (("real", real), ("fake", fake)):
        check_features(name, features, k + 1, f"to have {k} neighbours each")
    check_same_columns("real", real, "fake", fake)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)

    num_balls = torch.zeros(fake.shape[0], dtype=torch.int64, device=fake.device)
    is_recalled = torch.zeros(real.shape[0], dtype=torch.bool, device=real.device)
    is_covered = torch.zeros_like(is_recalled)
    for part, distances in distance_rows(real, fake):
        in_real_ball = distances < real_radius[part, None]
        num_balls += in_real_ball.sum(0)
        is_covered[part] = in_real_ball.any(1)
        is_recalled[part] = (distances < fake_radius).any(1)
    return PRDC(
        precision=float((num_balls > 0).double().mean()),
        recall=float(is_recalled.double().mean()),
        density=float(num_balls.double().mean()) / k,
        coverage=float(is_covered.double().mean()),
    )


def _radii(features: Tensor, k: int) -> Tensor:
    # The nearest row, at distance zero, is the row itself: the k-th neighbour is number k + 1.
    return torch.cat([distances.kthvalue(k + 1).values for _, distances in distance_rows(features, features)])
