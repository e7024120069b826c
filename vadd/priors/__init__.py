"""Priors over the latent, ``p(z | x_t, t)``."""

from vadd.priors.base import LatentPrior
from vadd.priors.categorical import CategoricalPrior
from vadd.priors.conditional import ConditionalCategoricalPrior, ConditionalPrior
from vadd.priors.flow import FlowPrior
from vadd.priors.mixture import MixturePrior
from vadd.priors.normal import StandardNormalPrior
from vadd.priors.trunk import TrunkPrior
from vadd.priors.vamp import SharesRecognition, VampPrior
from vadd.priors.zuko import ZukoPrior

__all__ = [
    "CategoricalPrior",
    "ConditionalCategoricalPrior",
    "ConditionalPrior",
    "FlowPrior",
    "LatentPrior",
    "MixturePrior",
    "SharesRecognition",
    "StandardNormalPrior",
    "TrunkPrior",
    "VampPrior",
    "ZukoPrior",
]
