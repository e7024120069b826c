"""Scales and shifts of adaptive norms, from latent, time and class label."""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.layers import Modulation, check_sizes, initialize_fan_in
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.types import Latents, Times

__all__ = ["Conditioning", "time_features"]


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
        # On a GPU looking would wait; there the embedding itself refuses them.
        if condition.device.type == "cpu" and not torch.compiler.is_compiling() and condition.numel():
            low, high = condition.min(), condition.max()
            if low < 0 or high > self.num_classes:
                raise DomainError(
                    f"condition must hold labels from 0 to {self.num_classes - 1}, or {self.num_classes} for no label, "
                    f"got {low} to {high}."
                )
        return condition
