"""Networks: denoisers and recognition networks."""

from vadd.backbones.base import Denoiser, EmptyRecognition, FeatureDenoiser, Recognition

__all__ = ["Denoiser", "EmptyRecognition", "FeatureDenoiser", "Recognition"]
