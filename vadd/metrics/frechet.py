"""Fréchet distance between two sets of features."""

import torch
from jaxtyping import Float
from torch import Tensor

from vadd.metrics._checks import check_features, check_same_columns

__all__ = ["frechet_distance"]


def frechet_distance(features_a: Float[Tensor, "rows_a columns"], features_b: Float[Tensor, "rows_b columns"]) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance of the normal laws fitted to two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})

    The value depends on the feature network: name it with every figure. "FID" means the features
    of one Inception network, and nothing else. It is biased upwards, the less the more
    rows there are, so compare sets of equal sizes and give the distance between two real sets beside it.

    Args:
        features_a: at least two rows.
        features_b: at least two rows of the same columns.

    Returns:
        The distance in squared feature units, at least 0, computed in float64.

    Raises:
        ShapeError, DtypeError, DomainError, NonFiniteError: on features that are not as described.

    References:
        Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982;
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium", arXiv 1706.08500.
    """
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        check_features(name, features, 2, "to have a covariance")
    check_same_columns("features_a", features_a, "features_b", features_b)
    mean_a, root_a = _fit(features_a)
    mean_b, root_b = _fit(features_b)
    # With Sigma = R'R, tr((Sigma_a Sigma_b)^(1/2)) is the sum of the singular values of R_a R_b'. No
    # matrix square root and no squared condition number, and nothing can become complex.
    coupling = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * coupling
    return max(float(distance), 0.0)  # equal sets give zero up to rounding of either sign


def _fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and a triangular ``R`` with ``R'R`` the unbiased covariance."""
    features = features.detach().double()
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (features.shape[0] - 1) ** 0.5, mode="r").R
