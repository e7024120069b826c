"""A mixture of normals as prior."""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import diagonal_normal
from vadd.errors import DomainError, ShapeError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts, padded_rows
from vadd.registry import register
from vadd.types import Distribution, Flags, Latents, Times, Tokens

__all__ = ["MixturePrior"]


@register
class MixturePrior(LatentPrior):
    r"""Mixture of diagonal normals :math:`\sum_k w_k N(m_k, \operatorname{diag} s_k^2)`, whatever ``x_t``.

    With ``d`` components of the latent the means start as draws of variance ``1 / (1 + d)`` and all variances as
    ``d / (1 + d)``: on average over the draws that has the moments of ``N(0, I)`` and costs standard normal
    posteriors about a nat more, while the mixture components are far enough apart to part. To start on given latents
    instead, call :meth:`start_at`.

    The KL divergence of a posterior from a mixture has no closed form: objectives estimate it from their draw.

    Args:
        latent_shape: shape of one sequence's latent. Where it is ``(dim, d)``, one vector a position, those at padding
            are standard normal.
        num_components: mixture components.
        learns_weights: whether the weights are learned; otherwise they stay equal.

    Raises:
        ConfigError: if the latent is empty, or ``num_components`` no positive integer.

    References:
        Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders",
        arXiv 1611.02648; Tomczak and Welling, arXiv 1705.07120, compare it with the VampPrior.
    """

    logits: Tensor

    def __init__(
        self, latent_shape: int | Sequence[int], num_components: int = 16, *, learns_weights: bool = True
    ) -> None:
        super().__init__()
        self.latent_shape = shape = as_nonempty_shape(latent_shape)
        check_counts(num_components=num_components)
        share = 1 / (1 + shape.numel())
        self.loc = nn.Parameter(torch.randn(num_components, *shape) * share**0.5)
        self.log_variance = nn.Parameter(torch.full((num_components, *shape), 1 - share).log())
        if learns_weights:
            self.logits = nn.Parameter(torch.zeros(num_components))
        else:
            self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    @torch.no_grad()
    def start_at(self, z: Latents) -> None:
        """Put the means on some of these latents, with their overall variance and equal weights.

        Args:
            z: at least two latents, and as many as mixture components, in random order,
                shape ``(draws, *latent_shape)``.

        Raises:
            ShapeError, DomainError: if they are not of the latent's shape, or too few.
        """
        num_components = self.loc.shape[0]
        if z.shape[1:] != self.latent_shape:
            raise ShapeError(f"z must have shape (draws, {', '.join(map(str, self.latent_shape))}), got {z.shape}.")
        if len(z) < max(2, num_components):
            raise DomainError(f"z must hold at least {max(2, num_components)} latents, got {len(z)}.")
        self.loc.copy_(z[:num_components])
        self.log_variance.copy_(z.var(0).clamp(min=1e-6).log().expand(self.loc.shape))
        self.logits.zero_()

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        is_padded = padded_rows(is_padding, self.latent_shape)
        if is_padded is None:
            normals = diagonal_normal(self.loc, self.log_variance).base_dist
            return _AlikeMixture.of(self.logits, normals, x_t.shape[0])
        shape = (x_t.shape[0], *self.loc.shape)
        loc, log_variance = (
            value.expand(shape).masked_fill(is_padded[:, None], 0.0) for value in (self.loc, self.log_variance)
        )
        # One normal for each row and mixture component; its axes of the latent are the event.
        base = diagonal_normal(loc, log_variance).base_dist
        return mixture(self.logits, base.to_event(len(self.latent_shape)))


class _AlikeMixture(dist.MixtureSameFamily):
    """Mixture of diagonal normals that is the same in every row: two matrix products give all densities.

    Copies of another batch shape know nothing of that, and compute densities as any mixture does.
    """

    #: Log-weights ``(components,)``, locations and scales ``(components, latent)``, in float64.
    _parameters: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def of(cls, logits: Tensor, normals: dist.Normal, batch: int) -> "_AlikeMixture":
        """The mixture of normals of shape ``(components, *latent_shape)``, for ``batch`` rows."""
        weights, components = _rows(logits, normals.to_event(normals.loc.ndim - 1).expand((batch, len(logits))))
        self = cls(weights, components, validate_args=False)
        self._parameters = (
            logits.double().log_softmax(-1),
            normals.loc.double().flatten(1),
            normals.scale.double().flatten(1),
        )
        return self

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self  # a plate asks for the shape that is there
        return super().expand(torch.Size(batch_shape), _instance)

    def log_prob(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "*rows"]:
        if self._parameters is None:
            return super().log_prob(value)
        log_weights, loc, scale = self._parameters
        # In float64, where the squares that cancel leave digits enough.
        z, precision = value.double().flatten(value.ndim - len(self.event_shape)), scale**-2
        distance = z.square() @ precision.T - 2 * z @ (loc * precision).T + (loc.square() * precision).sum(-1)
        log_density = -0.5 * distance - scale.log().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
        dtype = torch.promote_types(value.dtype, self.component_distribution.base_dist.loc.dtype)
        return (log_weights + log_density).logsumexp(-1).to(dtype)


def mixture(logits: Tensor, components: Distribution) -> Distribution:
    """Mixture over the last batch axis of ``components``, shape ``(batch, components)``, in float32 or wider."""
    return dist.MixtureSameFamily(*_rows(logits, components), validate_args=False)


def _rows(logits: Tensor, components: Distribution) -> tuple[Distribution, Distribution]:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).expand(components.batch_shape)
    return dist.Categorical(logits=logits, validate_args=False), components
