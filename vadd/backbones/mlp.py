"""Residual multi-layer perceptrons, for short sequences such as quantized points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import FeatureDenoiser, Recognition
from vadd.backbones.conditioning import Conditioning
from vadd.backbones.families import Family, resolve_family
from vadd.backbones.layers import (
    AdaptiveNorm,
    as_dropout,
    check_latent,
    check_length,
    check_sizes,
    initialize_fan_in,
)
from vadd.backbones.readout import require_latent
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens, as_latent_shape

__all__ = ["MLPDenoiser", "MLPRecognition"]


class _MLPTrunk(nn.Module):
    """Embeds and flattens the tokens, then residual blocks with adaptive norms; ends in a norm."""

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int,
        latent_size: int,
        *,
        reads_target: bool,
        hidden_size: int,
        depth: int,
        embedding_size: int,
        reads_time: bool,
        num_classes: int | None,
        modulation_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(
            vocab_size=vocab_size,
            num_tokens=num_tokens,
            hidden_size=hidden_size,
            depth=depth,
            embedding_size=embedding_size,
        )
        self.num_tokens = num_tokens
        self.embedding = nn.Embedding(vocab_size + 1, embedding_size)
        self.target = nn.Parameter(torch.randn(num_tokens, embedding_size)) if reads_target else None
        self.project = nn.Linear(num_tokens * embedding_size, hidden_size)
        self.norms = nn.ModuleList(AdaptiveNorm(hidden_size) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(hidden_size, 2 * hidden_size) for _ in range(depth))
        outer = [nn.Linear(2 * hidden_size, hidden_size) for _ in range(depth)]
        self.outer = nn.ModuleList(outer)
        self.norm = AdaptiveNorm(hidden_size)
        self.dropout = as_dropout(dropout)
        initialize_fan_in(self)
        with torch.no_grad():
            for layer in outer:
                layer.weight.mul_(depth**-0.5)
        self.conditioning = Conditioning(
            depth + 1,
            hidden_size,
            latent_size=latent_size,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
        )

    def forward(
        self,
        tokens: Tokens,
        t: Times,
        z: Tensor | None,
        target: Flags | None,
        is_padding: Flags | None,
        condition: Tensor | None,
    ) -> Float[Tensor, "batch 1 hidden"]:
        check_length(tokens, self.num_tokens, "a multi-layer perceptron has a fixed length")
        embedded = self.embedding(tokens)
        if self.target is not None and target is not None:
            embedded = torch.addcmul(embedded, target[..., None].to(embedded.dtype), self.target)
        if is_padding is not None:
            embedded = embedded.masked_fill(is_padding[..., None], 0.0)
        *modulations, last_modulation = self.conditioning(t, z, condition)
        # One position, so that the conditioning serves the transformer and the perceptron alike.
        x = self.project(embedded.flatten(1))[:, None]
        for norm, inner, outer, modulation in zip(self.norms, self.inner, self.outer, modulations, strict=True):
            x = x + outer(self.dropout(F.gelu(inner(norm(x, modulation)))))
        return self.norm(x, last_modulation)


@register
class MLPDenoiser(FeatureDenoiser):
    """Residual perceptron over all tokens at once; the latent scales and shifts every layer norm.

    The modulation starts at zero: a fresh network does not depend on ``z``, ``t`` or the class,
    and equals the network of the plain masked diffusion model (``latent_shape=0``), whose
    parameters are a subset of its own.

    Args:
        vocab_size: number of clean tokens ``V``.
        num_tokens: sequence length.
        latent_shape: shape of one sequence's latent, 0 for none; it is flattened.
        hidden_size: width.
        depth: number of residual blocks.
        embedding_size: size of a token's embedding.
        feature_size: size of a position's features, from which one layer shared by all positions
            makes the logits; small values regularize.
        reads_time: whether ``t`` enters.
        num_classes: number of class labels read from ``condition``; None for none. The label
            ``num_classes`` means "no label" and is assumed where ``condition`` is not given.
        modulation_size: width of the embeddings of latent, time and class.
        dropout: probability of dropping a hidden unit of a block, in training mode.

    Raises:
        ConfigError: on sizes that are not positive, or a dropout outside ``[0, 1)``.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int,
        latent_shape: int | Sequence[int] = 0,
        *,
        hidden_size: int = 256,
        depth: int = 3,
        embedding_size: int = 32,
        feature_size: int = 32,
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.num_tokens = vocab_size, num_tokens
        self.latent_shape = as_latent_shape(latent_shape)
        self.trunk = _MLPTrunk(
            vocab_size,
            num_tokens,
            self.latent_shape.numel(),
            reads_target=False,
            hidden_size=hidden_size,
            depth=depth,
            embedding_size=embedding_size,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
        )
        check_sizes(feature_size=feature_size)
        self.spread = nn.Linear(hidden_size, num_tokens * feature_size)
        self.head = nn.Linear(feature_size, vocab_size)
        initialize_fan_in(self.spread)
        # Small, not zero: the gradient has to reach the modulation at the first step.
        nn.init.normal_(self.head.weight, std=0.1 * feature_size**-0.5)
        nn.init.zeros_(self.head.bias)

    def features(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim features"]:
        summary = self.context(x_t, t, z, is_padding=is_padding, condition=condition)
        return self.spread(summary).reshape(*x_t.shape, -1)

    def context(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch 1 hidden"]:
        check_latent(z, self.latent_shape)
        return self.trunk(x_t, t, z.flatten(1), None, is_padding, condition)

    @property
    def context_size(self) -> int:
        return self.spread.in_features

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.trunk.embedding


@register
class MLPRecognition(Recognition):
    """Residual perceptron recognition network.

    A learned vector per position, added to the token's embedding, marks the target.

    Args:
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        num_tokens: sequence length.
        latent_shape: shape of one sequence's latent; it is described as one vector.
        family: kind of distribution, by name or as a :class:`~vadd.backbones.families.Family` with its options.
        hidden_size, depth, embedding_size, reads_time, num_classes, modulation_size, dropout: as in
            :class:`MLPDenoiser`.

    Raises:
        ConfigError: on sizes that are not positive, or an empty latent.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int,
        latent_shape: int | Sequence[int],
        *,
        family: str | Family = "diagonal",
        hidden_size: int = 256,
        depth: int = 3,
        embedding_size: int = 32,
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
        require_latent(self.latent_shape)
        self.trunk = _MLPTrunk(
            vocab_size,
            num_tokens,
            0,
            reads_target=True,
            hidden_size=hidden_size,
            depth=depth,
            embedding_size=embedding_size,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
            dropout=dropout,
        )
        self.family = resolve_family(family)
        self.family.build(hidden_size, self.latent_shape)

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
        return self.family(features[:, 0])
