"""The standard normal prior of the paper."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["StandardNormalPrior"]


@register
class StandardNormalPrior(LatentPrior):
    """``p(z) = N(0, I)``, whatever ``x_t``.

    Args:
        latent_shape: shape of one sequence's latent; an integer ``d`` means ``(d,)``. Zero gives
            the empty latent, with which the model is the plain masked diffusion model.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__()
        shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
        if not shape or any(size < 0 for size in shape):
            raise ConfigError(
                f"latent_shape must be one or more non-negative sizes, got {latent_shape!r}; "
                "use 0 for a model without a latent."
            )
        self.latent_shape = torch.Size(shape)
        self.register_buffer("loc", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.ones(shape), persistent=False)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        shape = (x_t.shape[0], *self.latent_shape)
        normal = dist.Normal(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)
        return normal.to_event(len(self.latent_shape))
