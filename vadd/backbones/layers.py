"""Building blocks shared by the networks: adaptive norms, their conditioning, the transformer trunk."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.layout import Layout, check_sites
from vadd.errors import ConfigError, DtypeError, ShapeError
from vadd.types import Flags, Latents, Times, Tokens

__all__ = ["AdaptiveNorm", "Conditioning", "Rotary", "Trunk"]

#: Scale and shift of one norm, each broadcastable to ``(batch, dim, hidden)``; None for identity.
Modulation = tuple[Tensor, Tensor] | None


def check_sizes(**sizes: int | None) -> None:
    """Raise :class:`ConfigError` unless every size given is a positive integer."""
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"{name} must be a positive integer, got {size!r}.")


def as_dropout(probability: float) -> nn.Dropout:
    """A dropout layer, after checking its probability."""
    if not 0 <= probability < 1:
        raise ConfigError(f"dropout must lie in [0, 1), got {probability}.")
    return nn.Dropout(probability)


def check_length(tokens: Tensor, num_tokens: int | None, why: str) -> None:
    """Raise :class:`ShapeError` unless the sequences have the length that the network is made for."""
    if num_tokens is not None and tokens.shape[1] != num_tokens:
        raise ShapeError(
            f"sequences must have num_tokens={num_tokens} tokens ({why}), got {tokens.shape[1]}; "
            "pad them with is_padding or build the network with another num_tokens."
        )


def check_latent(z: Tensor, latent_shape: torch.Size) -> None:
    """Raise :class:`ShapeError` unless ``z`` has the latent's shape after the batch axis."""
    if z.shape[1:] != latent_shape:
        expected = ", ".join(str(size) for size in latent_shape)
        raise ShapeError(f"z must have shape (batch, {expected}), got {tuple(z.shape)}.")


def initialize(module: nn.Module, std: float = 0.02) -> None:
    """Truncated-normal weights and zero biases for all linear and embedding layers below ``module``."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)


def initialize_fan_in(module: nn.Module) -> None:
    """Normal weights that keep the variance of the input, and zero biases, for linear layers."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
            nn.init.zeros_(part.bias)


class AdaptiveNorm(nn.LayerNorm):
    """Layer norm whose output is scaled and shifted by a modulation, and at target positions.

    Args:
        hidden_size: size of the last axis.
        reads_target: learn a further scale and shift, applied where ``target`` is one.
    """

    def __init__(self, hidden_size: int, *, reads_target: bool = False) -> None:
        super().__init__(hidden_size)
        if reads_target:
            self.target_scale = nn.Parameter(torch.empty(hidden_size).normal_(std=0.02))
            self.target_shift = nn.Parameter(torch.empty(hidden_size).normal_(std=0.02))

    def forward(
        self,
        input: Float[Tensor, "batch dim hidden"],
        modulation: Modulation = None,
        target: Float[Tensor, "batch dim 1"] | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        y = super().forward(input)
        if modulation is not None:
            scale, shift = modulation
            y = torch.addcmul(shift, y, scale)
        if target is not None:
            y = torch.addcmul(y, target, torch.addcmul(self.target_shift, y, self.target_scale))
        return y


def time_features(t: Times, size: int, max_frequency: float = 1000.0) -> Float[Tensor, "batch size"]:
    """Sines and cosines of the time at ``size / 2`` geometrically spaced frequencies from one up."""
    # Computed here in the dtype of t: a buffer would lose its digits in a half-precision network.
    top = math.log(max_frequency)
    frequencies = torch.linspace(0, top, size // 2, dtype=t.dtype, device=t.device).exp()
    phase = t[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], -1)


class Source(nn.Module):
    """Embeds one source of conditioning and maps it to all modulations; zero at first."""

    def __init__(self, num_features: int, width: int, num_modulations: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, width)
        self.second = nn.Linear(width, width)
        self.modulation = nn.Linear(width, num_modulations)
        # The source has to arrive at full strength, as the last layer starts at zero.
        initialize_fan_in(self)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Float[Tensor, "batch *positions features"]) -> Float[Tensor, "batch _ modulations"]:
        # Latents and times stay in float32 where the network is in half precision.
        y = F.silu(self.first(x.to(self.first.weight.dtype)))
        modulation = self.modulation(F.silu(self.second(y)))
        return modulation[:, None] if x.ndim == 2 else modulation


class Conditioning(nn.Module):
    """Scales and shifts of all adaptive norms of a network, from latent, time and class label.

    Each source has its own small embedding and one linear layer for all norms, zero-initialized:
    at first every scale is exactly one and every shift zero, whatever the source. The modules of
    an absent source do not exist.

    Args:
        num_norms: number of norms to modulate.
        hidden_size: width of the norms.
        latent_size: size of the latent's last axis after flattening; 0 for none.
        reads_time: whether the time is a source.
        num_classes: number of class labels; None for none. The label ``num_classes`` means
            "no label", and stands in where no condition is given.
        modulation_size: width of the embeddings.
    """

    def __init__(
        self,
        num_norms: int,
        hidden_size: int,
        *,
        latent_size: int = 0,
        reads_time: bool = False,
        num_classes: int | None = None,
        modulation_size: int = 128,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, modulation_size=modulation_size)
        if modulation_size % 2:
            raise ConfigError(f"modulation_size must be even, got {modulation_size}.")
        self.num_norms, self.num_classes, self.width = num_norms, num_classes, modulation_size
        width, size = modulation_size, 2 * num_norms * hidden_size
        self.latent = Source(latent_size, width, size) if latent_size else None
        self.time = Source(width, width, size) if reads_time else None
        self.label, self.label_embedding = None, None
        if num_classes is not None:
            self.label_embedding = nn.Embedding(num_classes + 1, width)
            self.label = Source(width, width, size)

    def forward(self, t: Times, z: Latents | None, condition: Tensor | None) -> list[Modulation]:
        """One scale and shift a norm, shapes ``(batch, 1, hidden)`` or one for each vector of ``z``.

        Args:
            t: times, shape ``(batch,)``.
            z: latent, shape ``(batch, latent_size)``, one vector a position,
                ``(batch, dim, latent_size)``, or a patch; not read without a latent.
            condition: class labels, shape ``(batch,)``, ``int64``, or None.
        """
        labels = self._labels(t, condition)
        parts = []
        if self.latent is not None and z is not None:
            parts.append(self.latent(z))
        if self.time is not None:
            parts.append(self.time(time_features(t, self.width)))
        if self.label is not None and self.label_embedding is not None:
            parts.append(self.label(self.label_embedding(labels)))
        if not parts:
            return [None] * self.num_norms
        total = functools.reduce(torch.add, parts)
        scale, shift = total.unflatten(-1, (2, self.num_norms, -1)).unbind(-3)
        return list(zip((1 + scale).unbind(-2), shift.unbind(-2), strict=True))

    def _labels(self, t: Tensor, condition: Tensor | None) -> Tensor | None:
        if self.num_classes is None:
            if condition is not None:
                raise ConfigError(
                    "condition was given to a network that reads none; build it with num_classes=..., or "
                    "leave condition out."
                )
            return None
        if condition is None:
            return torch.full(t.shape, self.num_classes, dtype=torch.int64, device=t.device)
        if condition.dtype != torch.int64:
            raise DtypeError(f"condition must hold int64 class labels, got {condition.dtype}.")
        if condition.shape != t.shape:
            raise ShapeError(
                f"condition must have shape {tuple(t.shape)}, one label a row, got {tuple(condition.shape)}."
            )
        return condition


class Rotary(nn.Module):
    """Rotary position embedding of queries and keys.

    Reference: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    arXiv 2104.09864.

    Args:
        head_size: even size of an attention head.
        num_tokens: length up to which the tables are kept; longer ones are computed when needed.
        base: the longest wavelength is about ``2 pi base`` positions.
    """

    def __init__(self, head_size: int, num_tokens: int, base: float = 10000.0) -> None:
        super().__init__()
        self.tables: Tensor
        self.head_size, self.base = head_size, base
        self.register_buffer("tables", self._compute(num_tokens), persistent=False)

    def _compute(self, length: int, device: torch.device | None = None) -> Tensor:
        """Cosines and signed sines, shape ``(2, length, 1, 1, head_size)``."""
        half = self.head_size // 2
        exponents = torch.arange(half, dtype=torch.float64, device=device) / half
        angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] / self.base**exponents
        cos, sin = angles.cos(), angles.sin()
        table = torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])
        return table[:, :, None, None].float()

    def forward(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The tables :func:`rotate` needs for sequences of ``length``."""
        tables = self.tables
        if length > tables.shape[1]:
            tables = self._compute(length, tables.device)
        cos, sin = tables[:, :length].to(dtype)
        return cos, sin


def rotate(
    x: Float[Tensor, "batch dim parts heads head_size"], cos: Tensor, signed_sin: Tensor
) -> Float[Tensor, "batch dim parts heads head_size"]:
    """Rotate the pairs ``(x_k, x_{k + head_size / 2})`` of each position by its angles."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention and a feed-forward layer with ratio 4."""

    def __init__(self, hidden_size: int, num_heads: int, *, reads_target: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = as_dropout(dropout)
        self.num_heads = num_heads
        self.attention_norm = AdaptiveNorm(hidden_size, reads_target=reads_target)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.feed_norm = AdaptiveNorm(hidden_size, reads_target=reads_target)
        self.feed_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.feed_out = nn.Linear(4 * hidden_size, hidden_size)

    def forward(
        self,
        x: Float[Tensor, "batch dim hidden"],
        modulations: tuple[Modulation, Modulation],
        target: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        attends: Tensor | None,
    ) -> Float[Tensor, "batch dim hidden"]:
        y = self.attention_norm(x, modulations[0], target)
        qkv = self.qkv(y).unflatten(-1, (3, self.num_heads, -1))
        if rotary is None:
            q, k, v = qkv.unbind(2)
        else:
            q, k = rotate(qkv[:, :, :2], *rotary).unbind(2)
            v = qkv[:, :, 2]
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=attends)
        x = x + self.dropout(self.attention_out(y.transpose(1, 2).flatten(2)))
        y = self.feed_in(self.feed_norm(x, modulations[1], target))
        return x + self.dropout(self.feed_out(F.gelu(y)))


class Trunk(nn.Module):
    """Token embedding, positions and transformer blocks with adaptive norms; ends in a norm.

    Args:
        vocab_size: number of clean tokens; the mask token is one more. None for a trunk that is given embedded tokens.
        num_tokens: sequence length; None, for rotary positions, where any length goes.
        latent_shape: shape of the latent that modulates the norms; ``(0,)`` for none.
        patches: with ``latent_shape``, the positions that each vector of the latent modulates; see
            :class:`~vadd.backbones.layout.Layout`.
        reads_target: whether the norms learn a scale and shift for target positions.
        hidden_size, depth, num_heads: width, number of blocks, attention heads.
        positions: ``"rotary"`` or ``"learned"``.
        reads_time, num_classes, modulation_size: see :class:`Conditioning`.
        dropout: probability of dropping a unit of a residual branch, in training mode.
    """

    def __init__(
        self,
        vocab_size: int | None,
        num_tokens: int | None,
        latent_shape: torch.Size,
        *,
        patches: Sequence[int] | None = None,
        reads_target: bool,
        hidden_size: int,
        depth: int,
        num_heads: int,
        positions: str,
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
            num_heads=num_heads,
        )
        if positions not in ("rotary", "learned"):
            raise ConfigError(f'positions must be "rotary" or "learned", got {positions!r}.')
        if positions == "learned" and num_tokens is None:
            raise ConfigError('positions="learned" needs num_tokens; positions="rotary" does not.')
        if hidden_size % num_heads:
            raise ConfigError(f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads}.")
        head_size = hidden_size // num_heads
        if positions == "rotary" and head_size % 2:
            raise ConfigError(f"rotary positions need an even hidden_size / num_heads, got {head_size}.")
        self.latent_shape = latent_shape
        self.layout = Layout(latent_shape, num_tokens, patches)
        self.fixed_length = num_tokens if positions == "learned" else None

        self.embedding = None if vocab_size is None else nn.Embedding(vocab_size + 1, hidden_size)
        self.rotary = Rotary(head_size, num_tokens or 1024) if positions == "rotary" else None
        self.positions = None
        if positions == "learned" and num_tokens is not None:
            self.positions = nn.Parameter(torch.empty(num_tokens, hidden_size).normal_(std=0.02))
        blocks = [Block(hidden_size, num_heads, reads_target=reads_target, dropout=dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = AdaptiveNorm(hidden_size, reads_target=reads_target)
        initialize(self)
        with torch.no_grad():
            for block in blocks:
                block.attention_out.weight.mul_((2 * depth) ** -0.5)
                block.feed_out.weight.mul_((2 * depth) ** -0.5)
        self.conditioning = Conditioning(
            2 * depth + 1,
            hidden_size,
            latent_size=self.layout.size,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
        )

    def forward(
        self,
        tokens: Tokens | Float[Tensor, "batch dim hidden"],
        t: Times,
        z: Latents | None = None,
        *,
        target: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim hidden"]:
        check_length(tokens, self.fixed_length, "learned positions")
        check_sites(tokens, self.layout)
        if z is not None:
            check_latent(z, self.latent_shape)
            z = z if self.layout.num_sites is not None else z.flatten(1)
        modulations = self.conditioning(t, z, condition)
        if z is not None and self.layout.num_sites is not None:
            modulations = [m and (self.layout.spread(m[0]), self.layout.spread(m[1])) for m in modulations]
        x = tokens if self.embedding is None else self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions
        flags = None if target is None else target[..., None].to(x.dtype)
        attends = None
        if is_padding is not None:
            # A row of padding alone attends to itself: its output means nothing, but is finite.
            attends = (~is_padding | is_padding.all(-1, keepdim=True))[:, None, None]
        rotary = None if self.rotary is None else self.rotary(tokens.shape[1], compute_dtype(x))
        for i, block in enumerate(self.blocks):
            x = block(x, (modulations[2 * i], modulations[2 * i + 1]), flags, rotary, attends)
        return self.norm(x, modulations[-1], flags)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the output of a linear layer for input ``x``, which autocast may change."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
