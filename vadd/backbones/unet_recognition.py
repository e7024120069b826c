"""The path down of a U-Net as a recognition network for images."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadd.backbones.base import Recognition
from vadd.backbones.families import Family
from vadd.backbones.layers import check_sizes
from vadd.backbones.pixels import ImageEmbedding
from vadd.backbones.readout import Readout, require_latent
from vadd.backbones.unet_conditioning import BlockConditioning
from vadd.backbones.unet_layers import ChannelNorm, Encoder, Shape, enlarged, initialize_convolutions, to_map
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens, as_latent_shape

__all__ = ["UNetRecognition"]


@register
class UNetRecognition(Recognition):
    """The path down of a U-Net as a recognition network for images.

    A learned vector is added to the embeddings of target tokens. The maps of all levels are summed at full resolution,
    and pooled over the pixels of each of the latent's sites: over all, and over those with a target token.

    Args:
        image_shape, vocab_size: as in :class:`~vadd.backbones.UNetDenoiser`.
        latent_shape: shape of one sequence's latent; ``(height * width, d)`` is one vector a pixel.
        family: kind of distribution, by name or as a :class:`~vadd.backbones.families.Family` with its options.
        patches: as in :class:`~vadd.backbones.UNetDenoiser`.
        only_target: for a latent with one vector a pixel or patch, whether those without a target token have the
            standard distribution; see :class:`~vadd.backbones.DiTRecognition`.
        feature_size: width of the pooled features; default ``channels`` times the largest multiplier.
        latent_map: whether a latent in one vector also reads the map of the middle with its places, by a linear layer;
            means over pixels hardly say where something is.
        channels, multipliers, depth, attention_at, num_heads, embedding_size, uses_value, reads_time, num_classes,
            modulation_size, dropout: as in :class:`~vadd.backbones.UNetDenoiser`.

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
        latent_map: bool = True,
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
        self.latent_map = None
        if latent_map and self.readout.layout.num_sites is None:
            self.latent_map = nn.Linear(shape.bottom_size, size)
            initialize_convolutions(self.latent_map)

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
        if self.latent_map is not None:
            features = features + self.latent_map(F.silu(self.norms[-1](bottom)).flatten(1))[..., None, None]
        # Flags of pixels: those with any target token, those without any data.
        pixels_of_padding = None if is_padding is None else ~embedding.of_pixels(~is_padding)
        return self.readout(features.flatten(2).transpose(1, 2), embedding.of_pixels(target), pixels_of_padding)
