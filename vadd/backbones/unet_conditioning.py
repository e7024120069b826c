"""How latent, time and class label reach the residual blocks of a U-Net."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.conditioning import Conditioning
from vadd.backbones.layers import Modulation, check_latent
from vadd.backbones.layout import Layout
from vadd.backbones.unet_layers import Map, Shape, to_map
from vadd.types import Latents, Times

__all__ = ["BlockConditioning"]


class BlockConditioning(nn.Module):
    """Scale and shift of every residual block, from latent, time and class.

    Their embeddings, next to each other, enter one linear layer, which starts at zero. A latent with one vector a
    pixel or patch modulates each cell of a level by the mean over the pixels that the cell stands for.

    Args:
        latent_shape: shape of the latent; ``(0,)`` for none.
        patches: see :class:`~vadd.backbones.layout.Layout`, for the pixels.
        shape: sizes of the levels.
        levels: level of each block.
        reads_time, num_classes, modulation_size: see :class:`~vadd.backbones.conditioning.Conditioning`.
    """

    def __init__(
        self,
        latent_shape: torch.Size,
        patches: Sequence[int] | None,
        shape: Shape,
        levels: Sequence[int],
        *,
        reads_time: bool,
        num_classes: int | None,
        modulation_size: int,
    ) -> None:
        super().__init__()
        self.latent_shape, self.levels, self.sides = latent_shape, list(levels), shape.sides
        height, width = shape.sides[0]
        self.layout = Layout(latent_shape, height * width, patches)
        self.widths = [shape.widths[level] for level in levels]
        self.sources = Conditioning(
            1,
            sum(self.widths),
            latent_size=self.layout.size,
            reads_time=reads_time,
            num_classes=num_classes,
            modulation_size=modulation_size,
        )
        shares = None if self.layout.num_sites is None else self.layout.spread(torch.eye(self.layout.num_sites)[None])
        for level in range(len(shape.sides)):
            if shares is not None and level:
                maps = to_map(shares.unflatten(1, shape.sides[level - 1]))
                shares = F.avg_pool2d(maps, 2, ceil_mode=True).flatten(2).transpose(1, 2)
            self.register_buffer(f"shares_{level}", None if shares is None else shares[0], persistent=False)

    def forward(self, t: Times, z: Latents | None, condition: Tensor | None) -> list[Modulation]:
        """One scale and shift a block, broadcastable to its map."""
        if z is not None:
            check_latent(z, self.latent_shape)
            z = z if self.layout.num_sites is not None else z.flatten(1)
        (total,) = self.sources(t, z, condition)
        if total is None:
            return [None] * len(self.widths)
        parts = (part.split(self.widths, -1) for part in total)
        return [
            (self._to_map(scale, level), self._to_map(shift, level))
            for level, scale, shift in zip(self.levels, *parts, strict=True)
        ]

    def _to_map(self, x: Float[Tensor, "batch sites width"], level: int) -> Map:
        shares = self.get_buffer(f"shares_{level}")
        if shares is None or x.shape[1] == 1:
            return x.transpose(1, 2)[..., None]
        return torch.einsum("bsw,ps->bwp", x, shares.to(x.dtype)).unflatten(2, self.sides[level])
