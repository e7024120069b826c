"""A normalizing flow as recognition family.

References: Dinh et al., "Density estimation using Real NVP", arXiv 1605.08803; Rezende and Mohamed, "Variational
Inference with Normalizing Flows", arXiv 1505.05770.
"""

from typing import Any, final

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform, ReshapeTransform, Transform

from vadd._checks import require_integers
from vadd.backbones.base import limited_scale
from vadd.backbones.families.base import Family, Features, Output, SiteFlags
from vadd.backbones.families.normal import limited, require_several
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution

__all__ = ["FlowNormal"]

Vectors = Float[Tensor, "*batch size"]

_MAX_LOG_SCALE = 3.0  # of one coupling


@register
@final
class FlowNormal(Family):
    """Standard normal noise through affine couplings that read the features, then scaled and shifted.

    Density and draws both take one pass, at any point. The couplings start as the identity, so that the family starts
    as the diagonal normal. Where the latent has one vector a site, each has a flow of its own features. The KL
    divergence to a prior is estimated from the draw, as it has no formula.

    Args:
        num_transforms: number of couplings; two move every component.
        hidden_size: width of the couplings.

    Raises:
        ConfigError: if they are no positive integers.
    """

    def __init__(self, num_transforms: int = 4, hidden_size: int = 64) -> None:
        super().__init__()
        require_integers(num_transforms=num_transforms, hidden_size=hidden_size, error=ConfigError)
        self.num_transforms, self.hidden_size = num_transforms, hidden_size

    def create(self, num_features: int) -> None:
        require_several(self)
        self.loc = Output(num_features, self.size, is_informative=True)
        self.log_variance = Output(num_features, self.size)
        sizes = (self.size, num_features, self.hidden_size)
        self.couplings = nn.ModuleList(_Coupling(*sizes, keeps_first=k % 2 == 0) for k in range(self.num_transforms))

    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        loc, scale = self.loc(features, is_active), limited_scale(self.log_variance(features, is_active))
        event_dim = loc.ndim - 1
        noise = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False).to_event(event_dim)
        couplings: Any = self.couplings
        steps: list[Transform] = [_GivenCoupling(coupling, features, is_active) for coupling in couplings]
        steps.append(AffineTransform(loc, scale, event_dim=event_dim))
        if loc.shape[1:] != self.latent_shape:
            steps.append(ReshapeTransform(loc.shape[1:], self.latent_shape))
        return dist.TransformedDistribution(noise, steps, validate_args=False)


class _Coupling(nn.Module):
    """Scale and shift of one half of a vector, from its other half and the features.

    Computed in float32 or wider: inverting a coupling in half precision would not return to the same point.

    Args:
        size: size of the vector, at least 2.
        num_features: width of the features.
        hidden_size: width of the one hidden layer.
        keeps_first: whether the first half is kept and the second one moved, or the other way round.
    """

    def __init__(self, size: int, num_features: int, hidden_size: int, *, keeps_first: bool) -> None:
        super().__init__()
        self.keeps_first = keeps_first
        first = size // 2
        self.halves = (first, size - first)
        kept, moved = self.halves if keeps_first else self.halves[::-1]
        self.from_features = nn.Linear(num_features, hidden_size)
        self.from_latent = nn.Linear(kept, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, 2 * moved)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


class _GivenCoupling(Transform):
    """A coupling for given features.

    Without a cache: a draw that was made without gradients would lend its density a wrong one.
    """

    domain = constraints.independent(constraints.real, 1)
    codomain = constraints.independent(constraints.real, 1)
    bijective = True

    def __init__(self, coupling: _Coupling, features: Tensor, is_active: Tensor | None) -> None:
        super().__init__()
        self.coupling, self.is_active = coupling, is_active
        self.context = wide_linear(features, coupling.from_features)

    def _call(self, x: Vectors) -> Vectors:
        kept, moved = self._split(x)
        log_scale, shift = self._log_scale_and_shift(kept)
        return self._join(kept, moved * log_scale.exp() + shift)

    def _inverse(self, y: Vectors) -> Vectors:
        kept, moved = self._split(y)
        log_scale, shift = self._log_scale_and_shift(kept)
        return self._join(kept, (moved - shift) * (-log_scale).exp())

    def log_abs_det_jacobian(self, x: Vectors, y: Vectors) -> Float[Tensor, "*batch"]:
        return self._log_scale_and_shift(self._split(x)[0])[0].sum(-1)

    def _log_scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """What the kept half does to the moved one; nothing at sites that are not active."""
        hidden = F.silu(self.context + wide_linear(kept, self.coupling.from_latent))
        y = wide_linear(hidden, self.coupling.out)
        if self.is_active is not None:
            y = y.masked_fill(~self.is_active[..., None], 0.0)
        log_scale, shift = y.chunk(2, -1)
        return _MAX_LOG_SCALE * torch.tanh(log_scale / _MAX_LOG_SCALE), limited(shift)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The kept and the moved half."""
        first, second = x.split(self.coupling.halves, -1)
        return (first, second) if self.coupling.keeps_first else (second, first)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([kept, moved] if self.coupling.keeps_first else [moved, kept], -1)


def wide_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The linear layer in float32 or wider, whatever the network's dtype and autocast."""
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), layer.weight.to(dtype), bias)
