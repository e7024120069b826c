"""Correlated distributions in the shape of a latent."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints, kl_divergence, register_kl

from vadd.errors import ShapeError

__all__ = ["Reshaped"]


class Reshaped(TorchDistribution):
    r"""A distribution whose draws are given another shape, with the same number of components.

    Its KL divergence to independent normals is a formula, if the distribution has a mean, a variance and an entropy:

    .. math:: KL(r, p) = -H(r) - E_r \log p, \quad
       E_r \log p = \sum_i \log N(m_i; \mu_i, \sigma_i^2) - v_i / 2 \sigma_i^2.

    Args:
        base_dist: a distribution over real arrays, reparameterized if this one is to be.
        event_shape: the shape of a draw.

    Raises:
        ShapeError: if the number of components differs.
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType] - a property of the base class

    def __init__(
        self, base_dist: TorchDistributionMixin, event_shape: Sequence[int], *, validate_args: bool | None = None
    ) -> None:
        event_shape = torch.Size(event_shape)
        if base_dist.event_shape.numel() != event_shape.numel():
            raise ShapeError(
                f"event_shape must have as many components as the distribution, {tuple(base_dist.event_shape)}, "
                f"got {tuple(event_shape)}."
            )
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the distribution is reparameterized."""
        return self.base_dist.has_rsample

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real arrays of the shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Reshaped":
        return Reshaped(self.base_dist.expand(batch_shape), self.event_shape, validate_args=self._validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*sample_batch_event"]:
        return self._shape(self.base_dist.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*sample_batch_event"]:
        return self._shape(self.base_dist.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Float[Tensor, "*value_batch_event"]) -> Float[Tensor, "*value_batch"]:
        """Log-density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        lead = value.shape[: value.ndim - len(self.event_shape)]
        return self.base_dist.log_prob(value.reshape(*lead, *self.base_dist.event_shape))

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """Mean of each component."""
        return self._shape(self.base_dist.mean)

    @property
    def variance(self) -> Float[Tensor, "*batch_event"]:
        """Variance of each component."""
        return self._shape(self.base_dist.variance)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy in nats."""
        return self.base_dist.entropy()

    def _shape(self, value: Tensor) -> Tensor:
        lead = value.shape[: value.ndim - len(self.base_dist.event_shape)]
        return value.reshape(*lead, *self.event_shape)


@register_kl(Reshaped, Independent)
def _kl_to_independent_normals(r: Reshaped, p: Independent) -> Tensor:
    if not isinstance(p.base_dist, Normal) or p.event_shape != r.event_shape:
        raise NotImplementedError
    spread = r.variance / (2 * p.base_dist.scale.square())
    expected = p.log_prob(r.mean) - spread.flatten(-len(r.event_shape)).sum(-1)
    return -r.entropy() - expected


@register_kl(Reshaped, Distribution)
def _kl_of_base(r: Reshaped, p: Distribution) -> Tensor:
    if p.event_shape != r.base_dist.event_shape:
        raise NotImplementedError
    return kl_divergence(r.base_dist, p)  # pyright: ignore[reportArgumentType]
