"""Transformers with adaptive layer norm (DiT), for any kind of token sequence.

Reference: Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser, Recognition
from vadd.backbones.families import Family
from vadd.backbones.layers import initialize
from vadd.backbones.readout import Readout
from vadd.backbones.transformer import Trunk
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["DIT_PRESETS", "DiTDenoiser", "DiTRecognition"]

#: Sizes of the networks below, as in ``DiTDenoiser(50_257, 1024, 128, **DIT_PRESETS["small"])``. ``"small"`` and
#: ``"medium"`` are those of GPT-2, which published masked diffusion models of text take: 85 and 302 million parameters
#: in the blocks; ``"tiny"`` has 5. Embedding and head share no weights: with the 50,257 tokens of GPT-2 "small" has
#: 162 million parameters in all, with the 30,522 of BERT 132 million. A latent adds its modulation, 5 million there.
DIT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"hidden_size": 256, "depth": 6, "num_heads": 4},
    "small": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "medium": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
}


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
        patches: for each position the number of its patch, for a latent of shape ``(patches, d)`` with one vector
            a patch; see :func:`~vadd.backbones.layout.grid_patches`.
        hidden_size: width.
        depth: number of blocks.
        num_heads: attention heads; divides ``hidden_size``.
        positions: ``"rotary"`` (any length) or ``"learned"`` (``num_tokens`` exactly).
        reads_time: whether ``t`` enters.
        num_classes: number of class labels read from ``condition``; None for none. The label
            ``num_classes`` means "no label" and is assumed where ``condition`` is not given.
        modulation_size: width of the embeddings of latent, time and class.
        dropout: probability of dropping a unit of a residual branch, in training mode.
        recompute: whether outputs of norms and activations are computed again in the backward pass instead of kept. In
            single precision that saves a third or more of what the blocks keep, for little time, as no matrix product
            is repeated; a compiled network repeats one a block, and keeps still less. ``torch.func`` differentiates no
            network that recomputes.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int | None,
        latent_shape: int | Sequence[int] = 0,
        *,
        patches: Sequence[int] | None = None,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "rotary",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.num_tokens = vocab_size, num_tokens
        self.latent_shape = as_latent_shape(latent_shape)
        self.trunk = Trunk(
            vocab_size,
            num_tokens,
            self.latent_shape,
            patches=patches,
            reads_target=False,
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

    @property
    def token_embedding(self) -> nn.Embedding:
        assert self.trunk.embedding is not None
        return self.trunk.embedding


@register
class DiTRecognition(Recognition):
    """Transformer recognition network.

    Every layer norm has a further scale and shift for target positions. A latent vector for the sequence or a patch
    reads two means of the positions' features, over those with data and over those of the target; one for a position
    reads its features. A network of half the denoiser's width costs a quarter of it.

    Args:
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        num_tokens: sequence length; may be None with rotary positions.
        latent_shape: shape of one sequence's latent; ``(num_tokens, d)`` is one vector a position.
        family: kind of distribution, by name or as a :class:`~vadd.backbones.families.Family` with its options.
        patches: as in :class:`DiTDenoiser`.
        only_target: for a latent with one vector a position or patch, whether those without a target position have
            the standard distribution, which costs nothing against the standard prior. Where nothing is
            to be explained, a latent could only help to explain other positions, which have their own. Vectors
            of padding have it always.
        hidden_size, depth, num_heads, positions, reads_time, num_classes, modulation_size, dropout,
            recompute: as in :class:`DiTDenoiser`.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together, or an empty latent.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int | None,
        latent_shape: int | Sequence[int],
        *,
        family: str | Family = "diagonal",
        patches: Sequence[int] | None = None,
        only_target: bool = True,
        hidden_size: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        positions: str = "rotary",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
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
            recompute=recompute,
        )
        self.readout = Readout(
            hidden_size, self.latent_shape, num_tokens, family=family, patches=patches, only_target=only_target
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
        features = self.trunk(tokens, t, target=target, is_padding=is_padding, condition=condition)
        return self.readout(features, target, is_padding)
