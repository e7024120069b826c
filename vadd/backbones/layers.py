"""Building blocks shared by the networks: adaptive norms, initialization, checks of sizes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from vadd._checks import require_integers
from vadd.errors import ConfigError, ShapeError

__all__ = [
    "AdaptiveNorm",
    "Modulation",
    "as_dropout",
    "check_latent",
    "check_length",
    "check_sizes",
    "initialize",
    "initialize_fan_in",
]

#: Scale and shift of one norm, each broadcastable to ``(batch, dim, hidden)``; None for identity.
Modulation = tuple[Tensor, Tensor] | None


def check_sizes(**sizes: int | None) -> None:
    """Raise :class:`ConfigError` unless every size given, those that are not None, is a positive integer."""
    require_integers(error=ConfigError, **{name: size for name, size in sizes.items() if size is not None})


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
            _draw_truncated_normal(part.weight, std)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)


@torch.no_grad()
def _draw_truncated_normal(weight: Tensor, std: float) -> None:
    """Within two standard deviations; not by torch, whose values for a seed differ between its versions."""
    if weight.is_meta or isinstance(weight, FakeTensor):  # it has a shape and no values
        return
    weight.normal_(std=std)
    while (is_outside := weight.abs() > 2 * std).any():
        weight.copy_(torch.where(is_outside, torch.empty_like(weight).normal_(std=std), weight))


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
