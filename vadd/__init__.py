"""Discrete diffusion with latent variables, as Pyro programs."""

from vadd import _typecheck  # first: it may install the type checker for all that follows
from vadd._version import __version__
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives import (
    DELBO,
    ContinuousTimeELBO,
    FiniteStepELBO,
    MixedELBO,
    NullLatentELBO,
    SharedLatentELBO,
    StepLaw,
)
from vadd.process import MaskingProcess
from vadd.types import CorruptedBatch

__all__ = [
    "DELBO",
    "ContinuousTimeELBO",
    "CorruptedBatch",
    "FiniteStepELBO",
    "MaskingProcess",
    "MixedELBO",
    "NullLatentELBO",
    "RecognitionGuide",
    "SharedLatentELBO",
    "StepLaw",
    "VADDModel",
    "__version__",
]
del _typecheck
