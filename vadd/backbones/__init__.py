"""Networks: denoisers and recognition networks."""

from vadd.backbones.base import Denoiser, EmptyRecognition, FeatureDenoiser, Recognition
from vadd.backbones.dit import DiTDenoiser, DiTRecognition
from vadd.backbones.layout import block_patches, grid_patches
from vadd.backbones.mlp import MLPDenoiser, MLPRecognition
from vadd.backbones.shared import EmbeddingRecognition, SharedRecognition

__all__ = [
    "Denoiser",
    "DiTDenoiser",
    "DiTRecognition",
    "EmbeddingRecognition",
    "EmptyRecognition",
    "FeatureDenoiser",
    "MLPDenoiser",
    "MLPRecognition",
    "Recognition",
    "SharedRecognition",
    "block_patches",
    "grid_patches",
]
