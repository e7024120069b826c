"""Discrete recognition families: groups of categories, each a one-hot row."""

import math
from typing import final

import pyro.distributions as dist
from torch import Tensor

from vadd.backbones.families.base import Family, Features, Output, SiteFlags
from vadd.distributions import GumbelOneHot
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution

__all__ = ["RelaxedOneHot", "StraightThrough"]


@register
@final
class StraightThrough(Family):
    """Independent one-hot rows of a latent of shape ``(groups, categories)``, with straight-through gradients.

    It goes with a categorical prior. Draws are one-hot; the gradient is that of the probabilities (biased). Density
    and KL divergence are discrete.

    References:
        Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432.
    """

    def create(self, num_features: int) -> None:
        require_rows(self)
        self.logits = Output(num_features, self.size, is_informative=True)

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        logits = self.shaped(self.logits(features, is_active))
        return dist.OneHotCategoricalStraightThrough(logits=logits, validate_args=False).to_event(logits.ndim - 2)


@register
@final
class RelaxedOneHot(Family):
    """Independent one-hot rows of a latent of shape ``(groups, categories)``, with gradients of Gumbel-softmax draws.

    It goes with a categorical prior. Density and KL divergence are those of the discrete distribution, and draws in
    evaluation mode are one-hot.

    Args:
        temperature: of the relaxation.
        is_hard: whether draws in training mode are one-hot too, with the relaxed draw's gradient. Relaxed draws
            have gradients of less bias, but the denoiser then trains on rows that it never meets when sampling; the
            KL divergence must have a formula, as a relaxed draw has no discrete density.

    Raises:
        ConfigError: if ``temperature`` is not positive and finite.
    """

    def __init__(self, temperature: float = 1.0, *, is_hard: bool = True) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature must be positive and finite, got {temperature}.")
        self.temperature, self.is_hard = float(temperature), is_hard

    def create(self, num_features: int) -> None:
        require_rows(self)
        self.logits = Output(num_features, self.size, is_informative=True)

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        logits: Tensor = self.shaped(self.logits(features, is_active))
        is_hard = self.is_hard or not self.training
        return GumbelOneHot(logits, self.temperature, is_hard=is_hard, validate_args=False).to_event(logits.ndim - 2)


def require_rows(family: Family) -> None:
    """Raise :class:`ConfigError` unless the latent consists of rows of at least two categories."""
    if family.latent_shape[-1] < 2:
        raise ConfigError(
            f"{type(family).__name__} needs latent_shape (groups, categories) or (categories,) with at least 2 "
            f"categories, got {tuple(family.latent_shape)}."
        )
