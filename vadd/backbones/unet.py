"""U-Nets for images whose pixels are tokens.

References: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239 (the architecture); Kingma et al.,
"Variational Diffusion Models", arXiv 2107.00630 (constant resolution); Xie et al., "Variational Autoencoding Discrete
Diffusion" (VADD), arXiv 2505.17384 (the latent next to the time).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser
from vadd.backbones.layers import check_sizes
from vadd.backbones.pixels import ImageEmbedding, resolve_head
from vadd.backbones.unet_conditioning import BlockConditioning
from vadd.backbones.unet_layers import (
    ChannelNorm,
    Decoder,
    Encoder,
    Shape,
    initialize_convolutions,
    to_map,
)
from vadd.registry import register
from vadd.types import Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["UNET_PRESETS", "UNetDenoiser"]

#: Arguments of :class:`UNetDenoiser`, and of :class:`~vadd.backbones.UNetRecognition`, as used for two data sets.
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
        "latent_map": False,
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
        "latent_map": False,
        "reads_time": True,
        "dropout": 0.1,
    },
}


@register
class UNetDenoiser(FeatureDenoiser):
    """U-Net denoiser for images; the latent, next to the time, scales and shifts every residual block, and adds a map.

    A sequence is an image read row by row, the channels of a pixel next to each other. Modulation and map start at
    zero: a fresh network does not depend on ``z``, ``t`` or the class, and equals the network of the plain masked
    diffusion model (``latent_shape=0``), whose parameters are a subset of its own.

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
        latent_map: whether a latent in one vector is also mapped, linearly, to a map of the last level, which is added
            in the middle, as in the decoder of a variational autoencoder. Where all is masked every pixel looks alike
            to a convolution, and a latent that scales and shifts all of them alike can hardly draw an image. VADD's
            paper has no such map; neither have :data:`UNET_PRESETS`.
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
        latent_map: bool = True,
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
        self.latent_map = None
        if latent_map and self.latent_shape.numel() and self.conditioning.layout.num_sites is None:
            self.latent_map = nn.Linear(self.latent_shape.numel(), shape.bottom_size, bias=False)
            nn.init.zeros_(self.latent_map.weight)
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
        if self.latent_map is not None:
            x = x + self.latent_map(z.flatten(1)).reshape(x.shape)
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
