"""Transformers (DiT) on the patches of an image, with logits for every pixel.

Reference: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser, Recognition
from vadd.backbones.families import Family
from vadd.backbones.layers import check_sizes, initialize_fan_in
from vadd.backbones.pixels import ImageEmbedding, resolve_head
from vadd.backbones.readout import Readout, require_latent
from vadd.backbones.transformer import Trunk
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["PatchDiTDenoiser", "PatchDiTRecognition"]


class _PatchTrunk(nn.Module):
    """Embeds the tokens and joins those of a patch to one position of a transformer, built with ``options``."""

    def __init__(
        self,
        image_shape: Sequence[int],
        vocab_size: int,
        latent_shape: torch.Size,
        *,
        patch: int,
        reads_target: bool,
        embedding_size: int,
        uses_value: bool,
        hidden_size: int,
        **options: Any,
    ) -> None:
        super().__init__()
        check_sizes(patch=patch, embedding_size=embedding_size)
        self.embedding = ImageEmbedding(
            image_shape, vocab_size, embedding_size, uses_value=uses_value, reads_target=reads_target
        )
        height, width, channels = self.embedding.image_shape
        if height % patch or width % patch:
            raise ConfigError(f"patch={patch} must divide height and width of the image, got {height} by {width}.")
        self.rows, self.columns, self.patch = height // patch, width // patch, patch
        self.num_patches = self.rows * self.columns
        self.patch_tokens = patch * patch * channels
        self.trunk = Trunk(
            None,
            self.num_patches,
            latent_shape,
            reads_target=False,
            hidden_size=hidden_size,
            **options,
        )
        self.project = nn.Linear(self.patch_tokens * embedding_size, hidden_size)
        initialize_fan_in(self.project)
        with torch.no_grad():
            self.project.weight.mul_(0.02)  # as strong as the positions, and as the embedding of a trunk with its own

    def forward(
        self,
        tokens: Tokens,
        t: Times,
        z: Latents | None,
        target: Flags | None,
        is_padding: Flags | None,
        condition: Tensor | None,
    ) -> Float[Tensor, "batch patches hidden"]:
        embedded = self.embedding(tokens, target, is_padding)
        padding = None if is_padding is None else self.to_patches(is_padding).all(-1)
        x = self.project(self.to_patches(embedded.reshape(*tokens.shape, -1)).flatten(2))
        return self.trunk(x, t, z, is_padding=padding, condition=condition)

    def to_patches(self, x: Tensor) -> Tensor:
        """From ``(batch, dim, ...)`` to ``(batch, patches, tokens of a patch, ...)``."""
        x = x.unflatten(1, (self.rows, self.patch, self.columns, self.patch, -1))
        return x.transpose(2, 3).flatten(3, 5).flatten(1, 2)

    def to_tokens(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_patches`."""
        x = x.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.rows, self.columns))
        return x.transpose(2, 3).flatten(1, 5)


@register
class PatchDiTDenoiser(FeatureDenoiser):
    """Transformer denoiser for images with one position a patch of pixels, and logits for every token.

    A sequence is an image read row by row, the channels of a pixel next to each other. With ``patch=2`` attention is
    16 times cheaper than one position a pixel. Latent, time and class act as in
    :class:`~vadd.backbones.DiTDenoiser`: a fresh network does not depend on them.

    Args:
        image_shape: ``(height, width)`` or ``(height, width, channels)``.
        vocab_size: number of clean tokens ``V``, the values of a channel.
        latent_shape: shape of one sequence's latent, 0 for none. ``(patches, d)``, for all patches row by row, is one
            vector a patch; any other shape is flattened and modulates all alike.
        patch: side of a patch in pixels; divides height and width.
        hidden_size, depth, num_heads: width, number of blocks, attention heads.
        positions: ``"learned"``, or ``"rotary"`` along the patches row by row.
        embedding_size, uses_value, feature_size, head: as in :class:`~vadd.backbones.UNetDenoiser`; the default of
            ``feature_size`` is 64.
        reads_time, num_classes, modulation_size, dropout, recompute: as in :class:`~vadd.backbones.DiTDenoiser`.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        vocab_size: int,
        latent_shape: int | Sequence[int] = 0,
        *,
        patch: int = 2,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "learned",
        embedding_size: int = 32,
        uses_value: bool = True,
        feature_size: int = 64,
        head: str | nn.Module = "linear",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size)
        self.vocab_size = vocab_size
        self.latent_shape = as_latent_shape(latent_shape)
        self.trunk = _PatchTrunk(
            image_shape,
            vocab_size,
            self.latent_shape,
            patch=patch,
            reads_target=False,
            embedding_size=embedding_size,
            uses_value=uses_value,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            positions=positions,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
            recompute=recompute,
        )
        self.num_tokens, self.feature_size = self.trunk.embedding.num_tokens, feature_size
        self.spread = nn.Linear(hidden_size, self.trunk.patch_tokens * feature_size)
        initialize_fan_in(self.spread)
        self.head = resolve_head(head, feature_size, vocab_size)

    def features(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        y = self.trunk(x_t, t, z, None, is_padding, condition)
        return self.trunk.to_tokens(self.spread(y).unflatten(-1, (self.trunk.patch_tokens, -1)))

    @property
    def context_size(self) -> int:
        return self.feature_size

    @property
    def token_embedding(self) -> nn.Embedding:
        """The tokens' own vectors; see :class:`~vadd.backbones.PixelEmbedding` for what their values add."""
        return self.trunk.embedding.table


@register
class PatchDiTRecognition(Recognition):
    """Transformer recognition network for images with one position a patch of pixels.

    A learned vector is added to the embeddings of target tokens. The patches are pooled as in
    :class:`~vadd.backbones.DiTRecognition`, a patch with a target token counting as one of the target.

    Args:
        image_shape, vocab_size, patch: as in :class:`PatchDiTDenoiser`.
        latent_shape: shape of one sequence's latent; ``(patches, d)`` is one vector a patch.
        family: kind of distribution, by name or as a :class:`~vadd.backbones.families.Family` with its options.
        only_target: for a latent with one vector a patch, whether those without a target token have the standard
            distribution; see :class:`~vadd.backbones.DiTRecognition`.
        hidden_size, depth, num_heads, positions, embedding_size, uses_value, reads_time, num_classes,
            modulation_size, dropout, recompute: as in :class:`PatchDiTDenoiser`.

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
        only_target: bool = True,
        patch: int = 2,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "learned",
        embedding_size: int = 32,
        uses_value: bool = True,
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
        require_latent(self.latent_shape)
        self.trunk = _PatchTrunk(
            image_shape,
            vocab_size,
            torch.Size([0]),
            patch=patch,
            reads_target=True,
            embedding_size=embedding_size,
            uses_value=uses_value,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            positions=positions,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
            recompute=recompute,
        )
        self.readout = Readout(
            hidden_size,
            self.latent_shape,
            self.trunk.num_patches,
            family=family,
            patches=None,
            only_target=only_target,
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
        features = self.trunk(tokens, t, None, target, is_padding, condition)
        padding = None if is_padding is None else self.trunk.to_patches(is_padding).all(-1)
        return self.readout(features, self.trunk.to_patches(target).any(-1), padding)
