"""Training objectives and KL schedules."""

from vadd.objectives.annealing import ConstantKL, CosineKL, CyclicalKL, LinearKL
from vadd.objectives.delbo import DELBO
from vadd.objectives.divergence import kl_mode
from vadd.objectives.drawn import DrawnBatch, SiteWeights
from vadd.objectives.elbo import BoundTerms, DiffusionELBO
from vadd.objectives.finite_step import ContinuousTimeELBO, FiniteStepELBO, SharedLatentELBO
from vadd.objectives.mixed import MixedELBO
from vadd.objectives.null_latent import NullLatentELBO
from vadd.objectives.steps import StepLaw

__all__ = [
    "DELBO",
    "BoundTerms",
    "ConstantKL",
    "ContinuousTimeELBO",
    "CosineKL",
    "CyclicalKL",
    "DiffusionELBO",
    "DrawnBatch",
    "FiniteStepELBO",
    "LinearKL",
    "MixedELBO",
    "NullLatentELBO",
    "SharedLatentELBO",
    "SiteWeights",
    "StepLaw",
    "kl_mode",
]
