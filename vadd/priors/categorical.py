"""The prior of discrete latents."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior, as_nonempty_shape, padded_rows
from vadd.priors.conditional import one_hot_categorical
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["CategoricalPrior"]


@register
class CategoricalPrior(LatentPrior):
    """Independent groups of one-hot categories, whatever ``x_t``.

    A draw holds floats, with a single one in the last axis. Discrete latents in variational models: van den Oord et
    al., "Neural Discrete Representation Learning", arXiv 1711.00937; in groups of categories: Hafner et al.,
    "Mastering Atari with Discrete World Models", arXiv 2010.02193.

    Args:
        latent_shape: ``(groups, categories)``, or ``(categories,)`` for one group. With as many groups as
            tokens there is one a position, and those at padding stay uniform.
        is_learned: learn the probabilities, from uniform ones; otherwise they stay uniform.

    Raises:
        ConfigError: unless there is a group with at least two categories.
    """

    logits: Tensor

    def __init__(self, latent_shape: int | Sequence[int], *, is_learned: bool = True) -> None:
        super().__init__()
        self.latent_shape = shape = as_nonempty_shape(latent_shape)
        if shape[-1] < 2:
            raise ConfigError(f"latent_shape must end in at least 2 categories, got {tuple(shape)}.")
        if is_learned:
            self.logits = nn.Parameter(torch.zeros(shape))
        else:
            self.register_buffer("logits", torch.zeros(shape), persistent=False)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        logits = self.logits.expand(x_t.shape[0], *self.latent_shape)
        is_padded = padded_rows(is_padding, self.latent_shape)
        return one_hot_categorical(logits if is_padded is None else logits.masked_fill(is_padded, 0.0))
