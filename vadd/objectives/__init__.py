"""Training objectives and KL schedules."""

from vadd.objectives.annealing import ConstantKL, CosineKL, CyclicalKL, LinearKL
from vadd.objectives.delbo import DELBO
from vadd.objectives.elbo import BoundTerms, DiffusionELBO, SiteWeights

__all__ = [
    "DELBO",
    "BoundTerms",
    "ConstantKL",
    "CosineKL",
    "CyclicalKL",
    "DiffusionELBO",
    "LinearKL",
    "SiteWeights",
]
