r"""Noise schedules: the probability :math:`\alpha_t` that a token is still unmasked at time ``t``.

All schedules satisfy :math:`\alpha_0 = 1` and :math:`\alpha_1 = 0` exactly, so no bound needs a
correction at its ends.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd._checks import require_number
from vadd.errors import ConfigError
from vadd.registry import register

__all__ = [
    "CosineSchedule",
    "GeometricSchedule",
    "LinearSchedule",
    "NoiseSchedule",
    "PolynomialSchedule",
]


class NoiseSchedule(nn.Module, ABC):
    r"""Decreasing :math:`\alpha_t` on ``[0, 1]``.

    Subclasses implement :meth:`alpha`, :meth:`alpha_dot` and :meth:`inverse` for tensors of any
    shape. The other methods follow from these in double precision; a subclass overrides
    :meth:`mask_probability` and :meth:`time_of` where it has formulas without cancellation.
    """

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""Probability :math:`\alpha_t` that a token is kept; exactly 1 at ``t=0`` and 0 at ``t=1``."""

    @abstractmethod
    def alpha_dot(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""Derivative :math:`\dot\alpha_t \le 0`."""

    @abstractmethod
    def inverse(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""The time at which :math:`\alpha_t` has the given value in ``[0, 1]``."""

    def mask_probability(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r""":math:`1 - \alpha_t`, accurate near ``t = 0`` where a float32 subtraction is not."""
        return (1 - self.alpha(t.double())).to(t.dtype)

    def time_of(self, mask_probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""The time at which :math:`1 - \alpha_t` has the given value in ``[0, 1]``."""
        return self.inverse(1 - mask_probability.double()).to(mask_probability.dtype)

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""Rate of unmasking :math:`w(t) = -\dot\alpha_t / (1 - \alpha_t)`, in 1/time.

        Infinite at ``t = 0``: pair it with a quantity that vanishes there.
        """
        return -self.alpha_dot(t) / self.mask_probability(t)


@register
class LinearSchedule(NoiseSchedule):
    r""":math:`\alpha_t = 1 - t`, the schedule of MDLM and VADD; :math:`w(t) = 1/t`."""

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - t

    def mask_probability(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return t

    def alpha_dot(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.ones_like(t)

    def inverse(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - alpha

    def time_of(self, mask_probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return mask_probability


@register
class PolynomialSchedule(NoiseSchedule):
    r""":math:`\alpha_t = 1 - t^p`; :math:`w(t) = p/t`.

    Args:
        power: the exponent ``p > 0``; 1 is the linear schedule.

    Raises:
        ConfigError: unless ``power`` is a positive number.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        require_number("power", power, above=True, error=ConfigError)
        self.power = float(power)

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # Near t = 1 the subtraction 1 - t**p loses digits and expm1 does not.
        return -torch.expm1(self.power * torch.log(t))

    def mask_probability(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (t.double() ** self.power).to(t.dtype)  # a float32 exponent is off by 1e-6 for small t

    def alpha_dot(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -self.power * t ** (self.power - 1)

    def inverse(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.exp(torch.log1p(-alpha) / self.power)

    def time_of(self, mask_probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (mask_probability.double() ** (1 / self.power)).to(mask_probability.dtype)

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.power / t  # the quotient of the definition underflows to 0/0 for small t

    def extra_repr(self) -> str:
        return f"power={self.power}"


@register
class CosineSchedule(NoiseSchedule):
    r""":math:`\alpha_t = 1 - \sin(\pi t / 2)`, the masking rate of MaskGIT and MD4's cosine schedule."""

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._exact_ends(2 * torch.sin(math.pi / 4 * (1 - t)) ** 2, 1 - t)

    def _exact_ends(self, value: Tensor, argument: Tensor) -> Tensor:
        """Replace the rounding of trigonometric functions at 0 and 1 by the exact values."""
        return torch.where((argument <= 0) | (argument >= 1), argument, value)

    def mask_probability(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._exact_ends(torch.sin(math.pi / 2 * t), t)

    def alpha_dot(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def inverse(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        time = 1 - 4 / math.pi * torch.asin(torch.sqrt(alpha / 2))
        return 1 - self._exact_ends(1 - time, alpha)

    def time_of(self, mask_probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        time = 2 / math.pi * torch.asin(mask_probability)
        return self._exact_ends(time, mask_probability)


@register
class GeometricSchedule(NoiseSchedule):
    r"""Geometric noise :math:`\sigma_t = \sigma_{min}^{1-t} \sigma_{max}^t`, rescaled to exact ends.

    :math:`\alpha_t = (e^{-\sigma_t} - e^{-\sigma_{max}}) / (e^{-\sigma_{min}} - e^{-\sigma_{max}})`. The
    geometric schedule of MDLM and MD4 is the numerator's first term alone, which reaches neither
    1 nor 0.

    Args:
        sigma_min: noise level at ``t = 0``, positive.
        sigma_max: noise level at ``t = 1``, larger than ``sigma_min`` and below 700.

    Raises:
        ConfigError: if a noise level is not as described.
    """

    def __init__(self, sigma_min: float = 1e-3, sigma_max: float = 20.0) -> None:
        super().__init__()
        for name, sigma in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
            require_number(name, sigma, 0.0, 700.0, above=True, below=True, error=ConfigError)
        if not sigma_min < sigma_max:
            raise ConfigError(f"sigma_min must lie below sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}.")
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self._log_ratio = math.log(self.sigma_max / self.sigma_min)
        # 1 - alpha_t = expm1(-(sigma_t - sigma_min)) / expm1(-(sigma_max - sigma_min))
        self._scale = math.expm1(self.sigma_min - self.sigma_max)

    def _excess(self, t: Tensor) -> Tensor:
        """sigma_t - sigma_min, without cancellation."""
        return self.sigma_min * torch.expm1(t * self._log_ratio)

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # exp(-e) - exp(-E) = -exp(-e) expm1(e - E) with e, E the excesses at t and at 1; the
        # difference e - E vanishes exactly at t = 1 because it is computed from t - 1.
        remaining = self.sigma_max * torch.expm1((t - 1) * self._log_ratio)
        value = torch.exp(-self._excess(t)) * torch.expm1(remaining) / self._scale
        return torch.where(t == 0, torch.ones_like(t), value.clamp(max=1))

    def mask_probability(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        value = (torch.expm1(-self._excess(t.double())) / self._scale).to(t.dtype)
        return torch.where(t == 1, torch.ones_like(t), value.clamp(max=1))

    def alpha_dot(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        excess = self._excess(t)
        return torch.exp(-excess) * (self.sigma_min + excess) * self._log_ratio / self._scale

    def inverse(self, alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.time_of(1 - alpha.double()).to(alpha.dtype)

    def time_of(self, mask_probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        excess = -torch.log1p(mask_probability.double() * self._scale)
        time = (torch.log1p(excess / self.sigma_min) / self._log_ratio).to(mask_probability.dtype)
        return torch.where(mask_probability == 1, torch.ones_like(time), time.clamp(max=1))

    def extra_repr(self) -> str:
        return f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
