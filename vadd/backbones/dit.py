"""Transformers with adaptive layer norm (DiT), for any kind of token sequence.

Reference: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser, Recognition, diagonal_normal
from vadd.backbones.layers import (
    Trunk,
    check_length,
    initialize,
    initialize_fan_in,
    is_per_position,
)
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["DiTDenoiser", "DiTRecognition"]


@register
class DiTDenoiser(FeatureDenoiser):
    """Transformer denoiser; the latent scales and shifts every layer norm.

    The modulation starts at zero: a fresh network does not depend on ``z``, ``t`` or the class,
    and equals the network of the plain masked diffusion model (``latent_shape=0``), whose
    parameters are a subset of its own.

    Args:
        vocab_size: number of clean tokens ``V``.
        num_tokens: sequence length; with rotary positions only the default length when sampling,
            and None if there is none.
        latent_shape: shape of one sequence's latent, 0 for none. ``(num_tokens, d)`` is one vector
            a position; any other shape is flattened and modulates all positions alike.
        hidden_size: width.
        depth: number of blocks.
        num_heads: attention heads; divides ``hidden_size``.
        positions: ``"rotary"`` (any length) or ``"learned"`` (``num_tokens`` exactly).
        reads_time: whether ``t`` enters.
        num_classes: number of class labels read from ``condition``; None for none. The label
            ``num_classes`` means "no label" and is assumed where ``condition`` is not given.
        modulation_size: width of the embeddings of latent, time and class.
        dropout: probability of dropping a unit of a residual branch, in training mode.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int | None,
        latent_shape: int | Sequence[int] = 0,
        *,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "rotary",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.num_tokens = vocab_size, num_tokens
        self.latent_shape = as_latent_shape(latent_shape)
        self.trunk = Trunk(
            vocab_size,
            num_tokens,
            self.latent_shape,
            reads_target=False,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            positions=positions,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
        )
        self.head = nn.Linear(hidden_size, vocab_size)
        # Not zero: the gradient has to reach the modulation at the first step.
        initialize(self.head)

    def features(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        return self.trunk(x_t, t, z, is_padding=is_padding, condition=condition)


@register
class DiTRecognition(Recognition):
    """Transformer recognition network with a diagonal normal output.

    Every layer norm has a further scale and shift for target positions. Two means, over all
    positions with data and over the target positions, give location and log-variance; a latent
    with one vector a position is read off each position instead, and is standard normal, which
    costs nothing against the standard normal prior, at padding.

    Args:
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        num_tokens: sequence length; may be None with rotary positions.
        latent_shape: shape of one sequence's latent; ``(num_tokens, d)`` is one vector a position.
        hidden_size, depth, num_heads, positions, reads_time, num_classes, modulation_size, dropout: as
            in :class:`DiTDenoiser`.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together, or an empty latent.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int | None,
        latent_shape: int | Sequence[int],
        *,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "rotary",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
        if not self.latent_shape.numel():
            raise ConfigError("latent_shape is empty; use EmptyRecognition for a model without a latent.")
        self.trunk = Trunk(
            vocab_size,
            num_tokens,
            torch.Size([0]),
            reads_target=True,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            positions=positions,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
        )
        self.per_position = is_per_position(self.latent_shape, num_tokens)
        inputs = hidden_size if self.per_position else 2 * hidden_size
        outputs = self.latent_shape[-1] if self.per_position else self.latent_shape.numel()
        self.loc = nn.Linear(inputs, outputs)
        self.log_variance = nn.Linear(inputs, outputs)
        # The denoiser ignores z at first, so z must carry information from the start to be found useful.
        initialize_fan_in(self.loc)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.zeros_(self.log_variance.bias)

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        features = self.trunk(tokens, t, target=target, is_padding=is_padding, condition=condition)
        if self.per_position:
            check_length(tokens, self.latent_shape[0], "one latent vector a position")
        else:
            has_data = torch.ones_like(target) if is_padding is None else ~is_padding
            features = torch.cat([masked_mean(features, has_data), masked_mean(features, target)], -1)
        loc, log_variance = self.loc(features), self.log_variance(features)
        if self.per_position and is_padding is not None:
            loc = loc.masked_fill(is_padding[..., None], 0.0)
            log_variance = log_variance.masked_fill(is_padding[..., None], 0.0)
        shape = (tokens.shape[0], *self.latent_shape)
        return diagonal_normal(loc.reshape(shape), log_variance.reshape(shape))


def masked_mean(x: Float[Tensor, "batch dim hidden"], where: Flags) -> Float[Tensor, "batch hidden"]:
    """Mean over the positions where the flag is set; zero where it is nowhere set."""
    weights = where.to(x.dtype)
    total = torch.einsum("bnh,bn->bh", x, weights)
    return total / weights.sum(-1, keepdim=True).clamp(min=1)
