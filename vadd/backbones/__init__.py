"""Networks: denoisers and recognition networks."""

from vadd.backbones.base import Denoiser, EmptyRecognition, FeatureDenoiser, Recognition
from vadd.backbones.dit import DiTDenoiser, DiTRecognition
from vadd.backbones.mlp import MLPDenoiser, MLPRecognition

__all__ = [
    "Denoiser",
    "DiTDenoiser",
    "DiTRecognition",
    "EmptyRecognition",
    "FeatureDenoiser",
    "MLPDenoiser",
    "MLPRecognition",
    "Recognition",
]
