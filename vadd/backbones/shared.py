"""Cheap recognition networks that read the denoiser instead of having a large trunk of their own."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadd.backbones.base import Denoiser, FeatureDenoiser, Recognition
from vadd.backbones.families import Family
from vadd.backbones.layers import check_sizes, initialize_fan_in
from vadd.backbones.readout import Readout
from vadd.backbones.sharing import SharesDenoiser
from vadd.backbones.transformer import Trunk
from vadd.errors import ConfigError
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens, as_latent_shape

__all__ = ["EmbeddingRecognition", "SharedRecognition"]


@register
@final
class SharedRecognition(SharesDenoiser, Recognition):
    """A few transformer blocks on the denoiser's context of the tokens.

    The denoiser reads the tokens, those that stay hidden masked, at the latent zero; the blocks are told the target.
    Detached, that is one pass forward more, a third of a training step of the masked diffusion model. Build it with
    :meth:`for_denoiser`, or attach it.

    Args:
        latent_shape: shape of one sequence's latent.
        context_size: ``denoiser.context_size``.
        num_tokens: sequence length; may be None with rotary positions and a latent in one vector.
        family, patches, only_target: as in :class:`~vadd.backbones.DiTRecognition`.
        hidden_size: width of the blocks.
        depth: number of blocks.
        num_heads: attention heads; divides ``hidden_size``.
        positions: ``"rotary"`` or ``"learned"``. A context in one vector for the sequence, as that of a perceptron,
            needs learned ones, or the positions of the target could not be told apart.
        detach: whether the recognition model leaves the denoiser's weights alone; otherwise it trains them too,
            for another two thirds of a step.
        dropout: probability of dropping a unit of a residual branch of the blocks, in training mode.
        recompute: as in :class:`~vadd.backbones.DiTDenoiser`, for its own blocks.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together, or an empty latent.
    """

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        context_size: int,
        *,
        num_tokens: int | None = None,
        family: str | Family = "diagonal",
        patches: Sequence[int] | None = None,
        only_target: bool = True,
        hidden_size: int = 128,
        depth: int = 1,
        num_heads: int = 4,
        positions: str = "rotary",
        detach: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
        self.positions, self.detach = positions, detach
        check_sizes(context_size=context_size)
        self.project = nn.Linear(context_size, hidden_size)
        initialize_fan_in(self.project)
        self.trunk = _small_trunk(
            num_tokens,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            positions=positions,
            dropout=dropout,
            recompute=recompute,
        )
        self.readout = Readout(
            hidden_size, self.latent_shape, num_tokens, family=family, patches=patches, only_target=only_target
        )

    @classmethod
    def for_denoiser(cls, denoiser: FeatureDenoiser, **options: Any) -> "SharedRecognition":
        """A network for this denoiser, attached to it; ``options`` are those of the constructor."""
        options = {"num_tokens": denoiser.num_tokens, **options}
        return cls(tuple(denoiser.latent_shape), denoiser.context_size, **options).attach(denoiser)

    def attach(self, denoiser: Denoiser) -> "SharedRecognition":
        super().attach(denoiser)
        _check_width("context_size", self.project.in_features, self.denoiser.context_size)
        return self

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        with torch.no_grad() if self.detach else nullcontext():
            context = self.shared_context(tokens, t, is_padding=is_padding, condition=condition)
        if context.shape[1] != tokens.shape[1]:
            if self.positions != "learned":
                raise ConfigError(
                    f"{type(self.denoiser).__name__} has one context for the whole sequence: build the recognition "
                    'network with positions="learned" and num_tokens.'
                )
            context = context.expand(-1, tokens.shape[1], -1)
        features = self.trunk(self.project(context), t, target=target, is_padding=is_padding)
        return self.readout(features, target, is_padding)


@register
@final
class EmbeddingRecognition(SharesDenoiser, Recognition):
    """A small transformer on the denoiser's token embedding.

    It saves the parameters of an embedding, most of those of a small network with a large vocabulary, and lets what
    the denoiser has learned about the tokens in. Build it with :meth:`for_denoiser`, or attach it.

    Args:
        latent_shape: shape of one sequence's latent.
        embedding_size: ``denoiser.token_embedding.embedding_dim``.
        num_tokens: sequence length; may be None with rotary positions and a latent in one vector.
        family, patches, only_target: as in :class:`~vadd.backbones.DiTRecognition`.
        hidden_size: width.
        depth: number of blocks.
        num_heads: attention heads; divides ``hidden_size``.
        positions: ``"rotary"`` or ``"learned"``.
        reads_time, num_classes, modulation_size: as in :class:`~vadd.backbones.DiTDenoiser`.
        detach: whether the recognition model leaves the embedding alone; otherwise it trains it too.
        dropout: probability of dropping a unit of a residual branch, in training mode.
        recompute: as in :class:`~vadd.backbones.DiTDenoiser`, for its own blocks.

    Raises:
        ConfigError: on sizes that are not positive or do not fit together, or an empty latent.
    """

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        embedding_size: int,
        *,
        num_tokens: int | None = None,
        family: str | Family = "diagonal",
        patches: Sequence[int] | None = None,
        only_target: bool = True,
        hidden_size: int = 128,
        depth: int = 2,
        num_heads: int = 4,
        positions: str = "rotary",
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
        detach: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = as_latent_shape(latent_shape)
        self.detach = detach
        check_sizes(embedding_size=embedding_size)
        self.project = nn.Linear(embedding_size, hidden_size)
        initialize_fan_in(self.project)
        self.trunk = _small_trunk(
            num_tokens,
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

    @classmethod
    def for_denoiser(cls, denoiser: FeatureDenoiser, **options: Any) -> "EmbeddingRecognition":
        """A network for this denoiser, attached to it; ``options`` are those of the constructor."""
        options = {"num_tokens": denoiser.num_tokens, **options}
        size = denoiser.token_embedding.embedding_dim
        return cls(tuple(denoiser.latent_shape), size, **options).attach(denoiser)

    def attach(self, denoiser: Denoiser) -> "EmbeddingRecognition":
        super().attach(denoiser)
        _check_width("embedding_size", self.project.in_features, self.denoiser.token_embedding.embedding_dim)
        return self

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        weight = self.denoiser.token_embedding.weight
        embedded = self.project(F.embedding(tokens, weight.detach() if self.detach else weight))
        features = self.trunk(embedded, t, target=target, is_padding=is_padding, condition=condition)
        return self.readout(features, target, is_padding)


def _small_trunk(num_tokens: int | None, **options: Any) -> Trunk:
    """Blocks on embedded tokens that are told the target, and have no latent."""
    defaults = {"reads_time": False, "num_classes": None, "modulation_size": 128}
    return Trunk(None, num_tokens, torch.Size([0]), reads_target=True, **{**defaults, **options})


def _check_width(name: str, own: int, other: int) -> None:
    if own != other:
        raise ConfigError(f"{name} is {own}, but the denoiser's is {other}; build the network with for_denoiser.")
