"""The transformer trunk: token embedding, positions, and blocks with adaptive norms."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vadd.backbones.conditioning import Conditioning
from vadd.backbones.layers import (
    AdaptiveNorm,
    Modulation,
    as_dropout,
    check_latent,
    check_length,
    check_sizes,
    initialize,
)
from vadd.backbones.layout import Layout, check_sites
from vadd.errors import ConfigError
from vadd.types import Flags, Latents, Times, Tokens

__all__ = ["Rotary", "Trunk"]


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
    """Pre-norm transformer block: self-attention and a feed-forward layer with ratio 4.

    With ``recompute`` what norms and activation give is made anew in the backward pass; no matrix product is repeated,
    for a checkpoint stops at the last value that it needs, the input of its product. A compiler plans by itself.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, reads_target: bool, dropout: float, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
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
        qkv = self._run(lambda x: self.qkv(self.attention_norm(x, modulations[0], target)), x)
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
        if rotary is None:
            q, k, v = qkv.unbind(2)
        else:
            q, k = rotate(qkv[:, :, :2], *rotary).unbind(2)
            v = qkv[:, :, 2]
            if torch.is_grad_enabled():
                v = v.contiguous()  # a view would keep queries and keys from before the rotation
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=attends)
        x = x + self.dropout(self.attention_out(y.transpose(1, 2).flatten(2)))
        y = self._run(lambda x: self.feed_in(self.feed_norm(x, modulations[1], target)), x)
        return x + self.dropout(self._run(lambda y: self.feed_out(F.gelu(y)), y))

    def _run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, x, use_reentrant=False)
        return function(x)


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
        recompute: whether norms and activations are computed again in the backward pass, to save memory.
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
        recompute: bool = False,
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
        options = {"reads_target": reads_target, "dropout": dropout, "recompute": recompute}
        blocks = [Block(hidden_size, num_heads, **options) for _ in range(depth)]
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
