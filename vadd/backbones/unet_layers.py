"""Building blocks of the U-Nets: residual blocks of convolutions, and the two paths."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.layers import Modulation, as_dropout, check_sizes, initialize_fan_in
from vadd.errors import ConfigError

__all__ = ["ChannelNorm", "Decoder", "Encoder", "Map", "Shape", "enlarged", "initialize_convolutions", "to_map"]

#: A feature map ``(batch, channels, height, width)``, as convolutions want it.
Map = Float[Tensor, "batch _ _ _"]


def initialize_convolutions(module: nn.Module) -> None:
    """Normal weights that keep the variance of the input, and zero biases, for convolutions and linear layers."""
    initialize_fan_in(module)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def to_map(x: Float[Tensor, "batch height width size"]) -> Map:
    """Pixels last to channels first: a view in the memory format ``torch.channels_last``."""
    return x.permute(0, 3, 1, 2)


class Shape:
    """Sizes of a U-Net's levels, and which of them attend.

    Args:
        height, width: size of the image.
        channels: width at full resolution.
        multipliers: width of each level in units of ``channels``; each level after the first halves the sides,
            rounding up.
        depth: residual blocks of a level; the path back up has one more.
        attention_at: longer sides of the levels with attention.
        num_heads: attention heads.

    Raises:
        ConfigError: if the sizes do not fit together.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        channels: int,
        multipliers: Sequence[int],
        depth: int,
        attention_at: Sequence[int],
        num_heads: int,
    ) -> None:
        check_sizes(channels=channels, depth=depth, num_heads=num_heads)
        if not multipliers:
            raise ConfigError("multipliers is empty; (1,) is a network of one resolution.")
        for multiplier in multipliers:
            check_sizes(multipliers=multiplier)
        self.sides = [(height, width)]
        for _ in multipliers[1:]:
            if max(self.sides[-1]) == 1:
                raise ConfigError(
                    f"multipliers has {len(multipliers)} levels, but an image of {height} by {width} is a single "
                    f"pixel after {len(self.sides)}; leave some out."
                )
            height, width = (height + 1) // 2, (width + 1) // 2
            self.sides.append((height, width))
        longer = [max(side) for side in self.sides]
        if unknown := set(attention_at) - set(longer):
            raise ConfigError(f"attention_at must hold sides of the levels, {longer}, got {sorted(unknown)}.")
        self.depth = depth
        self.widths = [channels * multiplier for multiplier in multipliers]
        self.heads = [num_heads if side in attention_at else None for side in longer]
        self.middle_heads = num_heads
        for level_width, heads in zip(self.widths, [*self.heads[:-1], num_heads], strict=True):
            if heads is not None and level_width % heads:
                raise ConfigError(
                    f"num_heads={heads} must divide the width of every level that attends, got {level_width}; "
                    "the last level always does."
                )

    @property
    def bottom_size(self) -> int:
        """Values in a map of the last level."""
        height, width = self.sides[-1]
        return self.widths[-1] * height * width

    @property
    def down(self) -> list[int]:
        """Level of each block of the path down, the two in the middle included."""
        last = len(self.widths) - 1
        return [level for level in range(last + 1) for _ in range(self.depth)] + [last, last]

    @property
    def up(self) -> list[int]:
        """Level of each block of the path up."""
        return [level for level in reversed(range(len(self.widths))) for _ in range(self.depth + 1)]


class ChannelNorm(nn.GroupNorm):
    """Group norm in float32 or wider whose output is scaled and shifted by a modulation.

    Up to 32 groups of at least four channels: with fewer, what a channel says of the whole image would be lost.
    """

    def __init__(self, channels: int) -> None:
        groups = max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 4))
        super().__init__(groups, channels)

    def forward(self, input: Map, modulation: Modulation = None) -> Map:
        dtype = torch.promote_types(input.dtype, torch.float32)
        with torch.autocast(input.device.type, enabled=False):
            y = F.group_norm(input.to(dtype), self.num_groups, self.weight.to(dtype), self.bias.to(dtype), eps=self.eps)
            if modulation is not None:
                scale, shift = modulation
                y = torch.addcmul(shift.to(dtype), y, scale.to(dtype))
        return y.to(input.dtype)


class PixelAttention(nn.Module):
    """Self-attention of all pixels, added to the input."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Map) -> Map:
        y = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class ResidualBlock(nn.Module):
    """Two convolutions, the second after a modulated norm, and attention where ``num_heads`` is given."""

    def __init__(self, channels: int, width: int, num_heads: int | None, dropout: nn.Dropout) -> None:
        super().__init__()
        self.first_norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second_norm = ChannelNorm(width)
        self.dropout = dropout
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        self.attention = nn.Identity() if num_heads is None else PixelAttention(width, num_heads)

    def forward(self, x: Map, modulation: Modulation) -> Map:
        y = self.first(F.silu(self.first_norm(x)))
        y = self.second(self.dropout(F.silu(self.second_norm(y, modulation))))
        return self.attention(self.skip(x) + y)

    def _damp(self, num_blocks: int) -> None:
        """Shrink the branches' last layers at the start, so that the variance does not grow with their number."""
        with torch.no_grad():
            self.second.weight.mul_(num_blocks**-0.5)
            if isinstance(self.attention, PixelAttention):
                self.attention.out.weight.mul_(num_blocks**-0.5)


class Encoder(nn.Module):
    """The path down: at each level an entering convolution and ``depth`` blocks; two blocks in the middle.

    Args:
        in_channels: channels of the input.
        shape: sizes of the levels.
        dropout: probability of dropping a channel's value in a residual branch, in training mode.
    """

    def __init__(self, in_channels: int, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.depth = shape.depth
        drop = as_dropout(dropout)
        widths, last = shape.widths, shape.widths[-1]
        before = [in_channels, *widths[:-1]]
        strides = [1] + [2] * (len(widths) - 1)
        self.entries = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in zip(before, widths, strides, strict=True)
        )
        levels = zip(widths, shape.heads, strict=True)
        blocks = [ResidualBlock(w, w, heads, drop) for w, heads in levels for _ in range(shape.depth)]
        blocks += [ResidualBlock(last, last, shape.middle_heads, drop), ResidualBlock(last, last, None, drop)]
        self.blocks = nn.ModuleList(blocks)
        initialize_convolutions(self)
        for block in blocks:
            block._damp(len(blocks))

    def forward(self, x: Map, modulations: Sequence[Modulation]) -> tuple[Map, list[list[Tensor]]]:
        """The output of the middle, and the maps of each level: of its entry and of its blocks."""
        blocks = iter(zip(self.blocks, modulations, strict=True))
        levels = []
        for entry in self.entries:
            x = entry(x)
            levels.append([x])
            for _ in range(self.depth):
                block, modulation = next(blocks)
                x = block(x, modulation)
                levels[-1].append(x)
        for block, modulation in blocks:
            x = block(x, modulation)
        return x, levels


class Decoder(nn.Module):
    """The path up: at each level ``depth + 1`` blocks, which read the encoder's maps in reverse order.

    Sides are doubled by repetition and cropped to those of the encoder's map.
    """

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        drop = as_dropout(dropout)
        widths = shape.widths[::-1]
        levels = zip(widths, shape.heads[::-1], strict=True)
        blocks = [ResidualBlock(2 * w, w, heads, drop) for w, heads in levels for _ in range(shape.depth + 1)]
        self.blocks = nn.ModuleList(blocks)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.exits = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        initialize_convolutions(self)
        for block in blocks:
            block._damp(len(blocks))

    def forward(self, x: Map, levels: Sequence[Sequence[Tensor]], modulations: Sequence[Modulation]) -> Map:
        blocks = iter(zip(self.blocks, modulations, strict=True))
        for i, maps in enumerate(reversed(levels)):
            if i:
                x = self.exits[i - 1](enlarged(x, 2, maps[0].shape[2:]))
            for skip in reversed(maps):
                block, modulation = next(blocks)
                x = block(torch.cat([x, skip], 1), modulation)
        return x


def enlarged(x: Map, factor: int, sides: Sequence[int]) -> Map:
    """Each value repeated ``factor`` times down and across, cropped to ``sides``."""
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")[..., : sides[0], : sides[1]]
