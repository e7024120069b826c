"""The interface of recognition families: what kind of distribution the features of a network describe."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.types import Distribution, Latents

__all__ = ["Family", "Output"]

Features = Float[Tensor, "batch *sites features"]
SiteFlags = Bool[Tensor, "batch *sites"]


class Family(nn.Module, ABC):
    """Maps the features of a recognition network to a distribution of the latent.

    The network calls :meth:`build` once, with the sizes, and then the family itself. The latent is described as a
    whole by one feature vector, or, where it has one vector a site (a position, a patch), each by the features of
    its site. Subclasses implement :meth:`create`, which makes the layers, and :meth:`forward`; they are decorated
    with :func:`vadd.registry.register`, so that checkpoints can hold them. With all layers of the kind
    :class:`Output` zero stands for the standard distribution, ``N(0, I)`` or the uniform one.

    Attributes:
        latent_shape: shape of one sequence's latent.
        size: number of components that one feature vector describes.
    """

    latent_shape: torch.Size
    size: int = 0

    @final
    def build(self, num_features: int, latent_shape: torch.Size, *, num_sites: int | None = None) -> None:
        """Make the layers; called by the network that the family belongs to.

        Args:
            num_features: width of the features.
            latent_shape: shape of one sequence's latent, not empty.
            num_sites: number of feature vectors a sequence, where the latent has one vector a site.

        Raises:
            ConfigError: if another network has the family already, or it cannot describe such a latent.
        """
        if self.size:
            raise ConfigError(f"this {type(self).__name__} belongs to another network; give each network its own.")
        self.latent_shape = latent_shape
        self.size = latent_shape.numel() // (num_sites or 1)
        self.create(num_features)

    @abstractmethod
    def create(self, num_features: int) -> None:
        """Make the layers for :attr:`size` components, described by ``num_features`` features."""

    @abstractmethod
    def forward(self, features: Features, is_active: SiteFlags | None = None) -> Distribution:
        """A reparameterized distribution with ``event_shape == latent_shape`` and ``batch_shape == (batch,)``.

        Args:
            features: one vector for the whole latent, shape ``(batch, features)``, or one a site.
            is_active: sites that the features describe; others have the standard distribution. None for all.
        """

    def shaped(self, values: Features) -> Latents:
        """Values of all components in the latent's shape."""
        return values.reshape(values.shape[0], *self.latent_shape)


class Output(nn.Linear):
    """Linear output layer of a family, in float32 or wider; zero at sites that are not active.

    Args:
        num_features: width of the features.
        num_outputs: numbers for each feature vector.
        is_informative: start with outputs of the features' variance instead of zero. The denoiser ignores ``z`` at
            first, so ``z`` must carry information from the start to be found useful.
    """

    def __init__(self, num_features: int, num_outputs: int, *, is_informative: bool = False) -> None:
        super().__init__(num_features, num_outputs)
        if is_informative:
            nn.init.normal_(self.weight, std=num_features**-0.5)
        else:
            nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self, input: Float[Tensor, "*batch features"], is_active: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch outputs"]:
        y = super().forward(input)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        return y if is_active is None else y.masked_fill(~is_active[..., None], 0.0)
