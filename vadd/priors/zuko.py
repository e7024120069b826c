"""Flows of the package Zuko as prior."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts
from vadd.priors.flow import Pushforward, push_normal
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["ZukoPrior"]


@register
class ZukoPrior(LatentPrior):
    """Standard normal vector pushed through a flow of the package Zuko (https://zuko.readthedocs.io).

    The flow's last layers are set to zero: then the prior is ``N(0, I)``, up to rounding. It computes in float32 or
    wider: in a half-precision model, ``model.prior.float()`` afterwards.

    A Zuko flow is no Pyro distribution, and ``pyro.contrib.zuko.ZukoToPyro`` has no ``sample``, which samplers need:
    its bijection is put into a Pyro ``TransformedDistribution`` here.

    Args:
        latent_shape: shape of one sequence's latent; it is flattened.
        family: ``"MAF"``, masked affine autoregressive (Papamakarios et al., arXiv 1705.07057), or ``"NSF"``, neural
            spline flow (Durkan et al., arXiv 1906.04032).
        num_layers: autoregressive layers.
        hidden_sizes: widths of the hidden layers of their networks.
        passes: passes that a draw takes in each layer. With 2 the layers are couplings; None is fully
            autoregressive, of ``latent_shape.numel()`` passes: more flexible, and slow to draw from.

    Raises:
        ConfigError: if Zuko is not installed, on an unknown family, counts that are not positive, or an empty
            latent.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        family: Literal["MAF", "NSF"] = "NSF",
        *,
        num_layers: int = 4,
        hidden_sizes: Sequence[int] = (128, 128),
        passes: int | None = 2,
    ) -> None:
        super().__init__()
        self.latent_shape = as_nonempty_shape(latent_shape)
        sizes = {f"hidden_sizes[{i}]": size for i, size in enumerate(hidden_sizes)}
        check_counts(num_layers=num_layers, **sizes, **({} if passes is None else {"passes": passes}))
        if family not in ("MAF", "NSF"):
            raise ConfigError(f'family must be "MAF" or "NSF", got {family!r}.')
        size = self.latent_shape.numel()
        self.flow: Any = getattr(_zuko_flows(), family)(
            features=size, transforms=num_layers, hidden_features=tuple(hidden_sizes), passes=passes
        )
        for layer in self.flow.transform.transforms:
            _start_at_identity(layer)
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        if self.loc.dtype.itemsize < 4:
            raise ConfigError(f"a ZukoPrior computes in float32 or wider, got {self.loc.dtype}: call prior.float().")
        transform = self.flow().transform  # from latents to the base
        flow = Pushforward(transform.inv, transform.call_and_ladj)
        return push_normal(self.loc, self.scale, x_t.shape[0], self.latent_shape, flow)


def _zuko_flows() -> Any:
    is_validating = torch.distributions.Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ConfigError("ZukoPrior needs the package zuko: pip install 'vadd[flows]', or use FlowPrior.") from error
    finally:
        # Importing it switches the validation of all distributions off.
        torch.distributions.Distribution.set_default_validate_args(is_validating)
    return zuko.flows


def _start_at_identity(layer: nn.Module) -> None:
    """Zero what gives the parameters of the elementwise maps: the last linear layer, or free parameters."""
    linear = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    for value in linear[-1].parameters() if linear else layer.parameters():
        nn.init.zeros_(value)
