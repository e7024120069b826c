"""KL divergence of guide and prior: a formula where there is one, otherwise an estimate from the guide's draw."""

import math
from typing import Literal

import torch
from pyro.distributions import kl as _  # noqa: F401 - registers the formulas that Pyro adds
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from vadd.errors import ConfigError
from vadd.types import Distribution

__all__ = ["analytic_divergence", "check_same_kind", "is_discrete", "kl_mode", "latent_divergence"]


def analytic_divergence(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """``KL(posterior || prior)`` in nats, shape of their batch, or None where no formula is known.

    Formulas are those of PyTorch and Pyro, found by the types of both distributions, and further ones for a
    diagonal normal against a normal with full or low-rank covariance. There is none for mixtures and flows. A
    class of your own gets one by ``torch.distributions.register_kl``, and keeps it inside a Pyro plate only if it
    defines ``expand``.
    """
    try:
        return kl_divergence(posterior, prior)  # pyright: ignore[reportArgumentType]
    except NotImplementedError:
        return None


def latent_divergence(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor:
    """``KL(posterior || prior)`` in nats, shape of the batch: by formula, or the log-ratio at the draw.

    Args:
        posterior, prior: distributions of the latent.
        z: a draw of the posterior. With gradients through it the estimate has those of the divergence.
    """
    exact = analytic_divergence(posterior, prior)
    return posterior.log_prob(z) - prior.log_prob(z) if exact is None else exact


@torch.no_grad()
def kl_mode(posterior: Distribution, prior: Distribution) -> Literal["analytic", "monte-carlo"]:
    """How the divergence of two distributions is computed: from a formula or from a draw, which is noisier."""
    return "monte-carlo" if analytic_divergence(posterior, prior) is None else "analytic"


def is_discrete(distribution: Distribution) -> bool:
    """Whether ``log_prob`` is the logarithm of a mass rather than of a density."""
    if distribution.has_enumerate_support:
        return True
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False


def check_same_kind(posterior: Distribution, prior: Distribution) -> None:
    """Raise a ConfigError where one is discrete and the other is not: a mass over a density bounds nothing."""
    if is_discrete(posterior) != is_discrete(prior):
        kinds = ["discrete" if is_discrete(d) else "continuous" for d in (posterior, prior)]
        raise ConfigError(
            f"the guide's latent is {kinds[0]} and the prior's {kinds[1]}, so that their ratio means nothing. One-hot "
            "families go with CategoricalPrior or ConditionalCategoricalPrior, the others with a prior of real vectors."
        )


def _require_diagonal_normal(distribution: Independent) -> Normal:
    base = distribution.base_dist
    if not isinstance(base, Normal) or distribution.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return base


def _expected_log_prob(mean: Tensor, variance: Tensor, q: MultivariateNormal | LowRankMultivariateNormal) -> Tensor:
    """``E log q(z)`` for independent components of ``z`` of these moments."""
    precision = q.precision_matrix.diagonal(dim1=-2, dim2=-1)
    return q.log_prob(mean) - 0.5 * (variance * precision).sum(-1)


@register_kl(Independent, LowRankMultivariateNormal)
def _kl_diagonal_low_rank(p: Independent, q: LowRankMultivariateNormal) -> Tensor:
    base = _require_diagonal_normal(p)
    return -p.entropy() - _expected_log_prob(base.loc, base.variance, q)


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_correlated_diagonal(p: MultivariateNormal | LowRankMultivariateNormal, q: Independent) -> Tensor:
    base = _require_diagonal_normal(q)
    spread = (p.variance + (p.mean - base.loc).square()) / base.variance
    expected = -0.5 * (spread + 2 * base.scale.log() + math.log(2 * math.pi)).sum(-1)
    return -p.entropy() - expected
