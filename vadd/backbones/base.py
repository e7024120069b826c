"""The interfaces of the networks: denoisers and recognition networks."""

from abc import ABC, abstractmethod
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Logits, Times, Tokens

__all__ = ["Denoiser", "EmptyRecognition", "FeatureDenoiser", "Recognition", "diagonal_normal", "limited_scale"]


class Denoiser(nn.Module, ABC):
    """Network of the factors ``mu^i(x_0^i | x_t, z, t)``.

    Subclasses set the attributes and implement :meth:`forward`. With ``latent_shape == (0,)`` the
    denoiser is that of a plain masked diffusion model.

    Attributes:
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        latent_shape: shape of one sequence's latent.
        num_tokens: the length it is made for, or None where any length goes.
    """

    vocab_size: int
    latent_shape: torch.Size
    num_tokens: int | None = None

    @abstractmethod
    def forward(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Logits:
        """Logits over the clean tokens, shape ``(batch, dim, vocab)``, without an entry for the mask token.

        Args:
            x_t: tokens with the mask token ``V`` where they are masked, shape ``(batch, dim)``.
            t: times, shape ``(batch,)``.
            z: latents, shape ``(batch, *latent_shape)``.
            is_padding: positions without data, shape ``(batch, dim)``; given only where the batch has them.
            condition: what the rows are conditioned on, one entry a row; given only where the batch has it.
        """


class FeatureDenoiser(Denoiser):
    """A denoiser made of features for all positions and a per-position head.

    The library projects to the vocabulary only at the positions that are scored or revealed.
    Subclasses implement :meth:`features` and set ``head``, a module that maps
    ``(..., hidden)`` to ``(..., vocab)``.
    """

    head: nn.Module

    @abstractmethod
    def features(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        """The representation of every position, input of :attr:`head`; arguments as of :meth:`forward`.

        Returns:
            Shape ``(batch, dim, hidden)``.
        """

    def context(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim_or_1 hidden"]:
        """The representation that other parts may share: one vector a position, or one in all.

        By default the features. A network whose features are narrower than its trunk returns the trunk's output,
        and overrides :attr:`context_size` too. Arguments as of :meth:`forward`.

        Returns:
            Shape ``(batch, dim, context_size)``, or ``(batch, 1, context_size)``.
        """
        return self.features(x_t, t, z, is_padding=is_padding, condition=condition)

    @property
    def context_size(self) -> int:
        """Width of :meth:`context`; by default the width of a linear head's input.

        Raises:
            ConfigError: if the head is of another kind and the network does not say.
        """
        if not isinstance(self.head, nn.Linear):
            raise ConfigError(
                f"{type(self).__name__} does not say how wide its context is: override the property context_size."
            )
        return self.head.in_features

    @property
    def token_embedding(self) -> nn.Embedding:
        """The embedding of the ``V + 1`` tokens, which other parts may share.

        Raises:
            ConfigError: if the network does not say which it is.
        """
        raise ConfigError(
            f"{type(self).__name__} does not share a token embedding: override the property token_embedding."
        )

    @final
    def forward(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Logits:
        return self.head(self.features(x_t, t, z, is_padding=is_padding, condition=condition))


class Recognition(nn.Module, ABC):
    """Network of the recognition model ``r(z | tokens, target, t)``.

    Subclasses set ``latent_shape`` and implement :meth:`forward`, which returns a reparameterized
    Pyro distribution with ``event_shape == latent_shape`` and ``batch_shape == (batch,)``.
    """

    latent_shape: torch.Size

    @abstractmethod
    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        """Distribution of ``z`` given what the jump reveals.

        Args:
            tokens: clean tokens, with the mask token at positions that stay hidden, shape ``(batch, dim)``.
            target: positions that ``z`` has to explain, shape ``(batch, dim)``.
            t: times, shape ``(batch,)``.
            is_padding: positions without data, shape ``(batch, dim)``; given only where the batch has them.
            condition: what the rows are conditioned on, one entry a row; given only where the batch has it.
        """


@register
@final
class EmptyRecognition(Recognition):
    """The recognition network of a model without a latent. It has no parameters."""

    latent_shape = torch.Size([0])

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        empty = t.new_zeros(tokens.shape[0], 0)
        return diagonal_normal(empty, empty)


def diagonal_normal(loc: Float[Tensor, "batch *latent"], log_variance: Float[Tensor, "batch *latent"]) -> Distribution:
    """``N(loc, diag exp(log_variance))`` over the latent, in float32 or wider; log-variances are kept in ``[-14, 14]``.

    Args:
        loc, log_variance: of shape ``(batch, *latent_shape)``.
    """
    dtype = torch.promote_types(loc.dtype, torch.float32)
    normal = dist.Normal(loc.to(dtype), limited_scale(log_variance.to(dtype)), validate_args=False)
    return normal.to_event(loc.ndim - 1)


def limited_scale(log_variance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Standard deviation of a log-variance, which is limited to ``[-14, 14]``.

    No trained posterior comes near these limits; they keep a single bad step from producing an infinite or a zero
    variance.
    """
    return torch.exp(0.5 * log_variance.clamp(-14.0, 14.0))
