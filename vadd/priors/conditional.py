"""Priors that read ``x_t`` with a network of their own."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vadd.backbones.base import Recognition, diagonal_normal
from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["ConditionalCategoricalPrior", "ConditionalPrior"]


class _EncoderPrior(LatentPrior):
    """Calls a recognition network on the sequence that is being generated."""

    def __init__(self, encoder: Recognition, vocab_size: int) -> None:
        super().__init__()
        if not isinstance(encoder, Recognition):
            raise ConfigError(f"encoder must be a Recognition, got {type(encoder).__name__}.")
        check_counts(vocab_size=vocab_size)
        self.latent_shape = as_nonempty_shape(tuple(encoder.latent_shape))
        self.vocab_size = vocab_size
        self.encoder = encoder

    def encode(
        self, kind: type, x_t: Tensor, t: Tensor, is_padding: Tensor | None, condition: Tensor | None
    ) -> torch.distributions.Distribution:
        """The encoder's distribution without its event axes, which must be of the kind."""
        target = x_t == self.vocab_size
        options = {}
        if is_padding is not None:
            target, options["is_padding"] = target & ~is_padding, is_padding
        if condition is not None:
            options["condition"] = condition
        distribution = self.encoder(x_t, target, t, **options)
        if isinstance(distribution, torch.distributions.Independent):
            distribution = distribution.base_dist
        if not isinstance(distribution, kind):
            raise ConfigError(
                f"{type(self).__name__} needs an encoder whose distribution is a {kind.__name__} with independent "
                f"components, got {type(self.encoder).__name__} with a {type(distribution).__name__}."
            )
        return distribution


@register
class ConditionalPrior(_EncoderPrior):
    r"""Diagonal normal ``p(z | x_t, t)`` with a network of its own.

    The network is a recognition network that is given what the prior may know: the tokens of ``x_t``, with the
    masked positions as target, for they are what ``z`` will explain. With its location :math:`m` and scale :math:`s`
    the prior is

    .. math:: N\big(a\,m,\; \operatorname{diag} \exp 2 b (\log s + m / 2)\big)

    with learned gates :math:`a`, :math:`b`, one for each component of the latent, that start at zero: then the prior
    is exactly ``N(0, I)``, whatever ``x_t``. The location enters the scale so that the gates receive a
    gradient at once also where :math:`\log s` starts at zero, as in the networks of this library; the network can
    take it out again.

    A conditional prior is the extension that the paper leaves to future work (Xie et al., arXiv 2505.17384).

    Args:
        encoder: a recognition network with a diagonal normal distribution; it sets the shape of the latent.
        vocab_size: number of clean tokens ``V``; the mask token is ``V``.

    Raises:
        ConfigError: if the encoder is no such network, or its latent is empty.
    """

    def __init__(self, encoder: Recognition, vocab_size: int) -> None:
        super().__init__(encoder, vocab_size)
        self.loc_gate = nn.Parameter(torch.zeros(self.latent_shape))
        self.scale_gate = nn.Parameter(torch.zeros(self.latent_shape))

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        normal = self.encode(torch.distributions.Normal, x_t, t, is_padding, condition)
        loc, scale = normal.loc, normal.scale  # pyright: ignore[reportAttributeAccessIssue]
        return diagonal_normal(self.loc_gate * loc, self.scale_gate * (2 * scale.log() + loc))


@register
class ConditionalCategoricalPrior(_EncoderPrior):
    """Groups of one-hot categories ``p(z | x_t, t)`` with a network of its own.

    As :class:`ConditionalPrior`, with one gate a group that multiplies the network's logits and starts at zero: then
    all categories are equally probable, whatever ``x_t``. A network whose logits are zero for every input would
    never leave that point.

    Args:
        encoder: a recognition network whose distribution is one-hot categorical; it sets the latent's shape.
        vocab_size: number of clean tokens ``V``; the mask token is ``V``.

    Raises:
        ConfigError: if the encoder is no such network, or its latent is empty.
    """

    def __init__(self, encoder: Recognition, vocab_size: int) -> None:
        super().__init__(encoder, vocab_size)
        self.gate = nn.Parameter(torch.zeros(*self.latent_shape[:-1], 1))

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        categorical = self.encode(torch.distributions.OneHotCategorical, x_t, t, is_padding, condition)
        logits = categorical.logits  # pyright: ignore[reportAttributeAccessIssue]
        return one_hot_categorical(self.gate * logits)


def one_hot_categorical(logits: Tensor) -> Distribution:
    """Independent one-hot rows, for logits of shape ``(batch, *groups, categories)``, in float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return dist.OneHotCategorical(logits=logits, validate_args=False).to_event(logits.ndim - 2)
