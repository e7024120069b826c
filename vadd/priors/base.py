"""The interface of latent priors."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["LatentPrior"]


class LatentPrior(nn.Module, ABC):
    """Prior ``p(z | x_t, t)`` over the latent of one sequence.

    Subclasses set ``latent_shape`` and implement :meth:`forward`. The returned Pyro distribution
    has ``event_shape == latent_shape`` and ``batch_shape == (batch,)``. Tensors that are not
    trained belong in buffers, so that they move with the module.
    """

    latent_shape: torch.Size

    @abstractmethod
    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        """Distribution of ``z`` given ``x_t``, shape ``(batch, dim)``, and ``t``, shape ``(batch,)``.

        The keywords are given only where the batch has them; a prior for data without padding
        and conditions may leave them out.
        """
