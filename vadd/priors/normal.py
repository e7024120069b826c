"""The standard normal prior of the paper."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from vadd.priors.base import LatentPrior
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens, as_latent_shape

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
        self.latent_shape = shape = as_latent_shape(latent_shape)
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
        return standard_normal(self.loc, self.scale, x_t.shape[0]).to_event(len(self.latent_shape))


def standard_normal(loc: Tensor, scale: Tensor, batch: int) -> Distribution:
    """The normal of these parameters for each row, in float32 or wider, also in a half-precision model."""
    dtype = torch.promote_types(loc.dtype, torch.float32)
    shape = (batch, *loc.shape)
    return dist.Normal(loc.to(dtype).expand(shape), scale.to(dtype).expand(shape), validate_args=False)
