"""One-hot categorical draws that gradients pass through.

References: Jang et al., "Categorical Reparameterization with Gumbel-Softmax", arXiv 1611.01144; Maddison et al., "The
Concrete Distribution", arXiv 1611.00712.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pyro.distributions import OneHotCategorical
from torch import Tensor

__all__ = ["GumbelOneHot"]


class GumbelOneHot(OneHotCategorical):
    """One-hot categorical distribution whose reparameterized draws are relaxed.

    Density, entropy, KL divergence and :meth:`sample` are those of the discrete distribution; :meth:`rsample` has
    gradients of the relaxed draw ``softmax((logits + Gumbel noise) / temperature)``.

    Args:
        logits: unnormalised log-probabilities, shape ``(*batch, categories)``.
        temperature: of the relaxation; low ones are nearly discrete, with gradients of high variance.
        is_hard: whether draws are one-hot, with the relaxed draw's gradient (straight-through), or
            the relaxed draws themselves.
    """

    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*batch categories"],
        temperature: float,
        *,
        is_hard: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature, self.is_hard = temperature, is_hard
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "GumbelOneHot":
        new = GumbelOneHot.__new__(GumbelOneHot)
        super().expand(torch.Size(batch_shape), new)
        new.temperature, new.is_hard = self.temperature, self.is_hard
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*sample_batch_categories"]:
        logits = self.logits.expand(self._extended_shape(torch.Size(sample_shape)))
        waiting = torch.empty_like(logits).exponential_().clamp(min=torch.finfo(logits.dtype).tiny)  # may be zero
        noise = -waiting.log()
        relaxed = ((logits + noise) / self.temperature).softmax(-1)
        if not self.is_hard:
            return relaxed
        hard = F.one_hot(relaxed.argmax(-1), relaxed.shape[-1]).to(relaxed.dtype)
        return hard + (relaxed - relaxed.detach())
