"""A prior that reads ``x_t`` with the denoiser's trunk."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadd.backbones.base import diagonal_normal
from vadd.backbones.sharing import SharesDenoiser
from vadd.errors import ConfigError, ShapeError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["TrunkPrior"]


@register
class TrunkPrior(SharesDenoiser, LatentPrior):
    """Diagonal normal ``p(z | x_t, t)``, read off the denoiser's context by a small head.

    The context is computed at the latent zero, as there is no latent yet. So a draw costs a pass through the
    trunk, and a sampling step about twice that of a prior that does not read ``x_t``. The head's last layer
    starts at zero: then the prior is exactly ``N(0, I)``. The denoiser's trunk is trained through the prior too.

    :class:`~vadd.model.VADDModel` attaches the prior to its denoiser.

    Args:
        latent_shape: shape of one sequence's latent.
        context_size: ``denoiser.context_size``.
        hidden_size: width of the head.
        per_position: read one vector a position off the context at that position; the latent's shape is
            ``(num_tokens, d)``, and padding is standard normal. Otherwise the context is averaged over
            the positions with data.

    Raises:
        ConfigError: on sizes that are not positive, an empty latent, or one of the wrong number of axes.
        ShapeError: on a call, if the denoiser's context does not have ``context_size`` entries, or the positions of the
            latent.
    """

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        context_size: int,
        *,
        hidden_size: int = 256,
        per_position: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = shape = as_nonempty_shape(latent_shape)
        check_counts(context_size=context_size, hidden_size=hidden_size)
        if per_position and len(shape) != 2:
            raise ConfigError(f"latent_shape must be (num_tokens, d) with per_position, got {tuple(shape)}.")
        self.per_position = per_position
        self.inner = nn.Linear(context_size, hidden_size)
        self.outer = nn.Linear(hidden_size, 2 * (shape[-1] if per_position else shape.numel()))
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        context = self.shared_context(x_t, t, is_padding=is_padding, condition=condition)
        if context.shape[-1] != self.inner.in_features:
            raise ShapeError(
                f"context_size is {self.inner.in_features}, but the denoiser's context has {context.shape[-1]} entries."
            )
        if self.per_position and context.shape[1] != self.latent_shape[0]:
            raise ShapeError(
                f"the latent has {self.latent_shape[0]} positions, the denoiser's context {context.shape[1]}."
            )
        if not self.per_position:
            context = _mean_over_data(context, is_padding)
        output = self.outer(F.silu(self.inner(context)))
        if self.per_position and is_padding is not None:
            output = output.masked_fill(is_padding[..., None], 0.0)
        loc, log_variance = output.chunk(2, -1)
        shape = (x_t.shape[0], *self.latent_shape)
        return diagonal_normal(loc.reshape(shape), log_variance.reshape(shape))


def _mean_over_data(context: Tensor, is_padding: Tensor | None) -> Tensor:
    """Mean over the positions with data, shape ``(batch, hidden)``; zero where there are none."""
    if is_padding is None or context.shape[1] == 1:  # one context for all positions
        return context.mean(1)
    has_data = (~is_padding[..., None]).to(context.dtype)
    return torch.where(is_padding[..., None], 0.0, context).sum(1) / has_data.sum(1).clamp(min=1)
