"""Networks: denoisers and recognition networks."""

from vadd.backbones.base import Denoiser, EmptyRecognition, FeatureDenoiser, Recognition, diagonal_normal
from vadd.backbones.dit import DIT_PRESETS, DiTDenoiser, DiTRecognition
from vadd.backbones.layout import block_patches, grid_patches
from vadd.backbones.mlp import MLPDenoiser, MLPRecognition
from vadd.backbones.patch_dit import PatchDiTDenoiser, PatchDiTRecognition
from vadd.backbones.pixels import DiscretizedLogisticHead, PixelEmbedding
from vadd.backbones.shared import EmbeddingRecognition, SharedRecognition
from vadd.backbones.sharing import SharesDenoiser
from vadd.backbones.unet import UNET_PRESETS, UNetDenoiser
from vadd.backbones.unet_recognition import UNetRecognition

__all__ = [
    "DIT_PRESETS",
    "UNET_PRESETS",
    "Denoiser",
    "DiTDenoiser",
    "DiTRecognition",
    "DiscretizedLogisticHead",
    "EmbeddingRecognition",
    "EmptyRecognition",
    "FeatureDenoiser",
    "MLPDenoiser",
    "MLPRecognition",
    "PatchDiTDenoiser",
    "PatchDiTRecognition",
    "PixelEmbedding",
    "Recognition",
    "SharedRecognition",
    "SharesDenoiser",
    "UNetDenoiser",
    "UNetRecognition",
    "block_patches",
    "diagonal_normal",
    "grid_patches",
]
