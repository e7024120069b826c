"""From features of the positions to a distribution of the latent: the last part of a recognition network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.families import Family, resolve_family
from vadd.backbones.layout import Layout, check_sites
from vadd.errors import ConfigError
from vadd.types import Distribution, Flags

__all__ = ["Readout"]


class Readout(nn.Module):
    """Pools the features of the positions into those of the latent's sites, and maps them to its distribution.

    A site of several positions (the sequence, a patch) reads two means: over its positions with data, and over those
    of the target. A site of one position reads it as it is. A site without data, and with ``only_target`` one without
    a target position, has the standard distribution.

    Args:
        num_features: width of the features.
        latent_shape: shape of one sequence's latent, not empty.
        num_tokens: sequence length; may be None for a latent in one vector.
        family: kind of distribution; see :mod:`vadd.backbones.families`.
        patches: see :class:`~vadd.backbones.layout.Layout`.
        only_target: whether sites without a target position have the standard distribution.

    Raises:
        ConfigError: if the latent is empty, or the options do not fit together.
    """

    def __init__(
        self,
        num_features: int,
        latent_shape: torch.Size,
        num_tokens: int | None,
        *,
        family: str | Family,
        patches: Sequence[int] | None,
        only_target: bool,
    ) -> None:
        super().__init__()
        require_latent(latent_shape)
        self.only_target = only_target
        self.layout = Layout(latent_shape, num_tokens, patches)
        self.family = resolve_family(family)
        width = num_features if self.layout.is_per_position else 2 * num_features
        self.family.build(width, latent_shape, num_sites=self.layout.num_sites)

    def forward(
        self, features: Float[Tensor, "batch dim hidden"], target: Flags, is_padding: Flags | None
    ) -> Distribution:
        check_sites(target, self.layout)
        has_data = torch.ones_like(target) if is_padding is None else ~is_padding
        is_active = None
        if self.layout.num_sites is not None:
            is_active = self.layout.any(target & has_data if self.only_target else has_data)
        if not self.layout.is_per_position:
            means = [self.layout.mean(features, where) for where in (has_data, target)]
            features = torch.cat(means, -1)
        return self.family(features, is_active)


def require_latent(latent_shape: torch.Size) -> None:
    """Raise :class:`ConfigError` if the latent is empty."""
    if not latent_shape.numel():
        raise ConfigError("latent_shape is empty; use EmptyRecognition for a model without a latent.")
