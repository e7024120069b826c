"""Priors over the latent, ``p(z | x_t, t)``."""

from vadd.priors.base import LatentPrior
from vadd.priors.normal import StandardNormalPrior

__all__ = ["LatentPrior", "StandardNormalPrior"]
