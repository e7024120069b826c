"""The interface of latent priors, and what several of them need."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vadd._checks import require_integers
from vadd.errors import ConfigError
from vadd.types import Distribution, Flags, Times, Tokens, as_latent_shape

__all__ = ["LatentPrior"]


class LatentPrior(nn.Module, ABC):
    """Prior ``p(z | x_t, t)`` over the latent of one sequence.

    Subclasses set ``latent_shape`` and implement :meth:`forward`. The returned Pyro distribution
    has ``event_shape == latent_shape`` and ``batch_shape == (batch,)``. Tensors that are not
    trained belong in buffers, so that they move with the module. Check yours with
    :func:`vadd.testing.check_prior`.

    Attributes:
        latent_shape: shape of one sequence's latent.
        vocab_size: number of clean tokens ``V``, where the prior has to tell the mask token ``V`` from them; None
            where it need not.
    """

    latent_shape: torch.Size
    vocab_size: int | None = None

    @abstractmethod
    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        """Distribution of ``z`` given ``x_t``.

        Args:
            x_t: tokens with the mask token where they are masked, shape ``(batch, dim)``.
            t: times, shape ``(batch,)``.
            is_padding: positions without data, shape ``(batch, dim)``, which a prior that reads ``x_t`` must not read;
                given only where the batch has them.
            condition: what the rows are conditioned on, one entry a row; given only where the batch has it. A prior for
                data without padding and conditions may leave both keywords out.

        Returns:
            Event shape ``latent_shape``, batch shape ``(batch,)``.
        """


def as_nonempty_shape(latent_shape: int | Sequence[int]) -> torch.Size:
    """The latent shape, after checking that there are components.

    Raises:
        ConfigError: if there are none.
    """
    shape = as_latent_shape(latent_shape)
    if not shape.numel():
        raise ConfigError(
            f"latent_shape must have components, got {tuple(shape)}; the prior of a model without a latent is "
            "StandardNormalPrior(0)."
        )
    return shape


def check_counts(**counts: int) -> None:
    """Raise :class:`ConfigError` unless every count is a positive integer."""
    require_integers(error=ConfigError, **counts)


def padded_rows(is_padding: Flags | None, latent_shape: torch.Size) -> Tensor | None:
    """Where the latent belongs to padding, shape ``(batch, positions, 1)``; None where it nowhere does.

    A latent of shape ``(dim, d)`` holds one vector a position. At padding the recognition networks make it standard
    normal, or uniform where it is discrete, and a prior that does the same is charged nothing there.
    """
    if is_padding is None or len(latent_shape) != 2 or latent_shape[0] != is_padding.shape[1]:
        return None
    return is_padding[..., None]
