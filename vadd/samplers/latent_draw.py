"""Draws of the latent: seeded, and tempered."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)

from vadd._seeds import seeded
from vadd.distributions import Reshaped
from vadd.errors import ConfigError
from vadd.types import Distribution

__all__ = ["Drawable", "draw", "draw_seeded", "mix_seed", "temper"]


@runtime_checkable
class Drawable(Protocol):
    """What can be drawn from."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor: ...


def draw(distribution: Drawable, generator: torch.Generator | None, sample_shape: torch.Size = torch.Size()) -> Tensor:
    """Sample with the given generator, which distributions do not take: it seeds a forked global state."""
    if generator is None:
        return distribution.sample(sample_shape)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return draw_seeded(distribution, seed, generator.device, sample_shape)


def draw_seeded(
    distribution: Drawable, seed: int, device: torch.device, sample_shape: torch.Size = torch.Size()
) -> Tensor:
    """Sample from a seed, and leave the global state as it was."""
    with seeded(seed, device):
        return distribution.sample(sample_shape)


def mix_seed(seed: int, *key: int) -> int:
    """A seed of 63 bits for a key of integers from -1 on, unlike those of other keys (SplitMix64)."""
    bits = 2**64 - 1
    for part in key:
        seed = (seed + 0x9E3779B97F4A7C15 * (part + 2)) & bits
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & bits
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & bits
        seed ^= seed >> 31
    return seed >> 1


def temper(distribution: Distribution, temperature: float) -> Drawable:
    r"""The distribution at another temperature; 1 leaves it as it is.

    =========================== =================================================================
    distribution                at temperature :math:`\tau`
    =========================== =================================================================
    normal                      standard deviations times :math:`\tau`; the mean at 0
    discrete                    log-probabilities over :math:`\tau`; the most probable value at 0
    flow                        pushes its base at the temperature
    mixture                     components at the temperature, chosen as usual
    =========================== =================================================================

    For normals and flows this is the temperature of Kingma and Dhariwal, "Glow", arXiv 1807.03039.

    Raises:
        ConfigError: for any other distribution.
    """
    d: Any = distribution
    if temperature == 1 or d.event_shape.numel() == 0:
        return d
    _check(d)
    return _Tempered(d, temperature)


def _check(d: Any) -> None:
    while isinstance(d, Independent | Reshaped | TransformedDistribution | MixtureSameFamily):
        d = d.component_distribution if isinstance(d, MixtureSameFamily) else d.base_dist
    if not (
        isinstance(d, Normal | MultivariateNormal | LowRankMultivariateNormal | OneHotCategorical)
        or d.has_enumerate_support
    ):
        raise ConfigError(f"latent_temperature is not defined for a {type(d).__name__}; leave it at 1.")


class _Tempered:
    def __init__(self, distribution: Any, temperature: float) -> None:
        self.distribution, self.temperature = distribution, temperature

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self._draw(self.distribution, torch.Size(sample_shape))

    def _draw(self, d: Any, shape: torch.Size) -> Tensor:
        if isinstance(d, Independent):
            return self._draw(d.base_dist, shape)
        if isinstance(d, Reshaped):
            return self._draw(d.base_dist, shape).reshape(*shape, *d.batch_shape, *d.event_shape)
        if isinstance(d, TransformedDistribution):
            z: Any = self._draw(d.base_dist, shape)
            for transform in d.transforms:
                z = transform(z)
            return z
        if isinstance(d, MixtureSameFamily):
            every = self._draw(d.component_distribution, shape)
            chosen = d.mixture_distribution.sample(shape).reshape(*shape, *d.batch_shape, 1, *[1] * len(d.event_shape))
            axis = len(shape) + len(d.batch_shape)
            return every.gather(axis, chosen.expand(*shape, *d.batch_shape, 1, *d.event_shape)).squeeze(axis)
        if isinstance(d, OneHotCategorical):
            return OneHotCategorical(logits=_cooled(d.logits, self.temperature), validate_args=False).sample(shape)
        if d.has_enumerate_support:
            values = d.enumerate_support()
            logits = _cooled(d.log_prob(values).movedim(0, -1), self.temperature)
            index = torch.distributions.Categorical(logits=logits, validate_args=False).sample(shape)
            spread = values.expand(*shape, *values.shape) if shape else values
            index = index.reshape(*shape, 1, *d.batch_shape, *[1] * len(d.event_shape))
            return spread.gather(len(shape), index.expand(*shape, 1, *d.batch_shape, *d.event_shape)).squeeze(
                len(shape)
            )
        return d.mean + self.temperature * (d.sample(shape) - d.mean)


def _cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature; at 0 only the largest is left."""
    if temperature == 0:
        largest = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        return largest.log()
    return logits / temperature
