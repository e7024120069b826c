"""U-Nets for images whose pixels are tokens.

References: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239 (the architecture); Kingma et al.,
"Variational Diffusion Models", arXiv 2107.00630 (constant resolution); Xie et al., "Variational Autoencoding Discrete
Diffusion" (VADD), arXiv 2505.17384 (the latent next to the time).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser, Recognition
from vadd.backbones.families import Family
from vadd.backbones.layers import check_sizes
from vadd.backbones.pixels import ImageEmbedding, resolve_head
from vadd.backbones.readout import Readout, require_latent
from vadd.backbones.unet_conditioning import BlockConditioning
from vadd.backbones.unet_layers import (
    ChannelNorm,
    Decoder,
    Encoder,
    Shape,
    enlarged,
    initialize_convolutions,
    to_map,
)
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["UNET_PRESETS", "UNetDenoiser", "UNetRecognition"]

#: Arguments of :class:`UNetDenoiser`, and of :class:`UNetRecognition`, of the sizes used for two data sets.
#: ``"mnist"``: binarized MNIST padded to 32x32, 2 million parameters. ``"cifar10"``: 32 residual blocks of 128
#: channels on each path, at full resolution throughout, attention in the middle. Pass ``latent_shape=0`` for the plain
#: masked diffusion model: ``UNetDenoiser(**{**UNET_PRESETS["mnist"], "latent_shape": 0})``.
UNET_PRESETS: Mapping[str, dict[str, Any]] = {
    "mnist": {
        "image_shape": (32, 32),
        "vocab_size": 2,
        "latent_shape": 64,
        "channels": 32,
        "multipliers": (1, 2, 2),
        "depth": 2,
        "num_heads": 4,
        "reads_time": True,
    },
    "cifar10": {
        "image_shape": (32, 32, 3),
        "vocab_size": 256,
        "latent_shape": 64,
        "channels": 128,
        "multipliers": (1,),
        "depth": 32,
        "num_heads": 1,
        "reads_time": True,
        "dropout": 0.1,
    },
}


@register
class UNetDenoiser(FeatureDenoiser):
    """U-Net denoiser for images; the latent, next to the time, scales and shifts every residual block.

    A sequence is an image read row by row, the channels of a pixel next to each other. The modulation starts at zero:
    a fresh network does not depend on ``z``, ``t`` or the class, and equals the network of the plain masked diffusion
    model (``latent_shape=0``), whose parameters are a subset of its own.

    Tokens of padding are not read; the pixels count as pixels all the same. :data:`UNET_PRESETS` has the sizes for
    binarized MNIST and CIFAR-10.

    Args:
        image_shape: ``(height, width)`` or ``(height, width, channels)``, of any size.
        vocab_size: number of clean tokens ``V``, the values of a channel.
        latent_shape: shape of one sequence's latent, 0 for none. ``(height * width, d)`` is one vector a pixel; any
            other shape is flattened and modulates all pixels alike.
        patches: for each pixel, row by row, the number of its patch, for a latent of shape ``(patches, d)`` with one
            vector a patch; see :func:`~vadd.backbones.layout.grid_patches`.
        channels: width at full resolution.
        multipliers: width of each level in units of ``channels``; each level after the first halves the sides.
        depth: residual blocks of a level on the path down; the path up has one more, the middle two.
        attention_at: longer sides of the levels with attention after each block, such as ``(16,)``. The middle,
            at the last level's resolution, always attends.
        num_heads: attention heads; divides the width wherever there is attention.
        embedding_size: size of a token's embedding.
        uses_value: whether tokens are embedded as ordinal values; see :class:`~vadd.backbones.PixelEmbedding`.
        feature_size: size of a token's features, input of the head; default ``channels``.
        head: ``"linear"``, ``"logistic"`` (:class:`~vadd.backbones.DiscretizedLogisticHead`) or a module that maps
            ``(..., feature_size)`` to ``(..., vocab)``, for all channels alike.
        reads_time: whether ``t`` enters.
        num_classes: number of class labels read from ``condition``; None for none. The label
            ``num_classes`` means "no label" and is assumed where ``condition`` is not given.
        modulation_size: width of the embeddings of latent, time and class.
        dropout: probability of dropping a value in a residual branch, in training mode.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        vocab_size: int,
        latent_shape: int | Sequence[int] = 0,
        *,
        patches: Sequence[int] | None = None,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        attention_at: Sequence[int] = (),
        num_heads: int = 4,
        embedding_size: int = 32,
        uses_value: bool = True,
        feature_size: int | None = None,
        head: str | nn.Module = "linear",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, embedding_size=embedding_size)
        self.vocab_size = vocab_size
        self.latent_shape = as_latent_shape(latent_shape)
        self.embedding = ImageEmbedding(
            image_shape, vocab_size, embedding_size, uses_value=uses_value, reads_target=False
        )
        self.num_tokens = self.embedding.num_tokens
        height, width, num_channels = self.embedding.image_shape
        shape = Shape(
            height,
            width,
            channels=channels,
            multipliers=multipliers,
            depth=depth,
            attention_at=attention_at,
            num_heads=num_heads,
        )
        self.encoder = Encoder(num_channels * embedding_size, shape, dropout)
        self.decoder = Decoder(shape, dropout)
        self.conditioning = BlockConditioning(
            self.latent_shape,
            patches,
            shape,
            shape.down + shape.up,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
        )
        self.feature_size = feature_size or channels
        self.norm = ChannelNorm(shape.widths[0])
        self.spread = nn.Conv2d(shape.widths[0], num_channels * self.feature_size, 1)
        initialize_convolutions(self.spread)
        self.head = resolve_head(head, self.feature_size, vocab_size)

    def features(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        modulations = self.conditioning(t, z, condition)
        split = len(self.encoder.blocks)
        x = to_map(self.embedding(x_t, is_padding=is_padding))
        x, levels = self.encoder(x, modulations[:split])
        x = self.decoder(x, levels, modulations[split:])
        x = self.spread(F.silu(self.norm(x)))
        return x.permute(0, 2, 3, 1).reshape(*x_t.shape, self.feature_size)

    @property
    def context_size(self) -> int:
        return self.feature_size

    @property
    def token_embedding(self) -> nn.Embedding:
        """The tokens' own vectors; see :class:`~vadd.backbones.PixelEmbedding` for what their values add."""
        return self.embedding.table


@register
class UNetRecognition(Recognition):
    """The path down of a U-Net as a recognition network for images.

    A learned vector is added to the embeddings of target tokens. The maps of all levels are summed at full resolution,
    and pooled over the pixels of each of the latent's sites: over all, and over those with a target token.

    Args:
        image_shape, vocab_size: as in :class:`UNetDenoiser`.
        latent_shape: shape of one sequence's latent; ``(height * width, d)`` is one vector a pixel.
        family: kind of distribution, by name or as a :class:`~vadd.backbones.families.Family` with its options.
        patches: as in :class:`UNetDenoiser`.
        only_target: for a latent with one vector a pixel or patch, whether those without a target token have the
            standard distribution; see :class:`~vadd.backbones.DiTRecognition`.
        feature_size: width of the pooled features; default ``channels`` times the largest multiplier.
        channels, multipliers, depth, attention_at, num_heads, embedding_size, uses_value, reads_time, num_classes,
            modulation_size, dropout: as in :class:`UNetDenoiser`.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together, or an empty latent.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        vocab_size: int,
        latent_shape: int | Sequence[int],
        *,
        family: str | Family = "diagonal",
        patches: Sequence[int] | None = None,
        only_target: bool = True,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        attention_at: Sequence[int] = (),
        num_heads: int = 4,
        embedding_size: int = 32,
        uses_value: bool = True,
        feature_size: int | None = None,
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, embedding_size=embedding_size)
        self.latent_shape = as_latent_shape(latent_shape)
        require_latent(self.latent_shape)
        self.embedding = ImageEmbedding(
            image_shape, vocab_size, embedding_size, uses_value=uses_value, reads_target=True
        )
        height, width, num_channels = self.embedding.image_shape
        shape = Shape(
            height,
            width,
            channels=channels,
            multipliers=multipliers,
            depth=depth,
            attention_at=attention_at,
            num_heads=num_heads,
        )
        self.encoder = Encoder(num_channels * embedding_size, shape, dropout)
        self.conditioning = BlockConditioning(
            torch.Size([0]),
            None,
            shape,
            shape.down,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
        )
        size = feature_size or max(shape.widths)
        self.norms = nn.ModuleList(ChannelNorm(width) for width in shape.widths)
        merge = [nn.Conv2d(width, size, 1) for width in shape.widths]
        self.merge = nn.ModuleList(merge)
        initialize_convolutions(self.merge)
        with torch.no_grad():
            for layer in merge:
                layer.weight.mul_(len(merge) ** -0.5)
        self.readout = Readout(
            size, self.latent_shape, height * width, family=family, patches=patches, only_target=only_target
        )

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        embedding = self.embedding
        x = to_map(embedding(tokens, target, is_padding))
        bottom, levels = self.encoder(x, self.conditioning(t, None, condition))
        maps = [*(level[-1] for level in levels[:-1]), bottom]
        parts = [
            enlarged(merge(F.silu(norm(level))), 2**i, embedding.image_shape[:2])
            for i, (norm, merge, level) in enumerate(zip(self.norms, self.merge, maps, strict=True))
        ]
        features = functools.reduce(torch.add, parts)
        # Flags of pixels: those with any target token, those without any data.
        pixels_of_padding = None if is_padding is None else ~embedding.of_pixels(~is_padding)
        return self.readout(features.flatten(2).transpose(1, 2), embedding.of_pixels(target), pixels_of_padding)
