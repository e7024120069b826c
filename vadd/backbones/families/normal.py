"""Normal recognition families, by the kind of their covariance."""

from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor

from vadd._checks import require_integer
from vadd.backbones.base import diagonal_normal, limited_scale
from vadd.backbones.families.base import Family, Features, Output, SiteFlags
from vadd.distributions import Reshaped
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution

__all__ = ["DiagonalNormal", "FullNormal", "LowRankNormal"]


@register
@final
class DiagonalNormal(Family):
    """Independent normal components: location and log-variance of each."""

    def create(self, num_features: int) -> None:
        self.loc = Output(num_features, self.size, is_informative=True)
        self.log_variance = Output(num_features, self.size)

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        loc, log_variance = self.loc(features, is_active), self.log_variance(features, is_active)
        return diagonal_normal(self.shaped(loc), self.shaped(log_variance))


@register
@final
class LowRankNormal(Family):
    r"""Normal with covariance :math:`D^{1/2} (I + A A^\top) D^{1/2}`, ``D`` diagonal and ``A`` of few columns.

    All components of the latent may be correlated, those of different sites too. ``A`` starts at zero.

    Args:
        rank: number of columns of ``A``.

    Raises:
        ConfigError: if ``rank`` is no positive integer.
    """

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        require_integer("rank", rank, error=ConfigError)
        self.rank = rank

    def create(self, num_features: int) -> None:
        self.loc = Output(num_features, self.size, is_informative=True)
        self.log_variance = Output(num_features, self.size)
        self.factor = Output(num_features, self.size * self.rank)

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        loc = self.loc(features, is_active).flatten(1)
        scale = limited_scale(self.log_variance(features, is_active)).flatten(1)
        factor = limited(self.factor(features, is_active)).reshape(*loc.shape, self.rank)
        # In units of the diagonal, so that the matrix that is inverted, I + A^T A, depends on A alone.
        normal = dist.LowRankMultivariateNormal(loc, scale[..., None] * factor, scale.square(), validate_args=False)
        return Reshaped(normal, self.latent_shape)


@register
@final
class FullNormal(Family):
    r"""Normal with any covariance :math:`L L^\top`, where :math:`L = D^{1/2} (I + N)` and ``N`` is strictly lower.

    Where the latent has one vector a site, the vectors are independent of each other. ``N`` starts at zero.
    """

    def create(self, num_features: int) -> None:
        require_several(self)
        self.loc = Output(num_features, self.size, is_informative=True)
        self.log_variance = Output(num_features, self.size)
        self.lower = Output(num_features, self.size * (self.size - 1) // 2)

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        loc, scale = self.loc(features, is_active), limited_scale(self.log_variance(features, is_active))
        row, column = torch.tril_indices(self.size, self.size, offset=-1, device=loc.device)
        unit = torch.eye(self.size, dtype=loc.dtype, device=loc.device).expand(*loc.shape, -1).clone()
        unit[..., row, column] = limited(self.lower(features, is_active))
        normal = dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit, validate_args=False)
        return Reshaped(normal.to_event(loc.ndim - 2), self.latent_shape)


def limited(x: Tensor) -> Tensor:
    """Numbers in units of a standard deviation, within what float32 can factorize and invert."""
    return x.clamp(-100.0, 100.0)


def require_several(family: Family) -> None:
    """Raise :class:`ConfigError` unless the vectors have components that can depend on each other."""
    if family.size < 2:
        raise ConfigError(
            f"{type(family).__name__} needs vectors of at least 2 components, got latent_shape "
            f'{tuple(family.latent_shape)}; use family="diagonal".'
        )
