"""Compiling the networks of a pair."""

from typing import Any

import torch

from vadd.guide import RecognitionGuide
from vadd.model import VADDModel

__all__ = ["compile_networks"]


def compile_networks(model: VADDModel, guide: RecognitionGuide) -> None:
    """Compile denoiser and recognition network by ``torch.compile``, in place; parameters keep their names."""
    denoiser: Any = model.denoiser
    if hasattr(denoiser, "features"):  # what the model calls; the head runs at some of the positions alone
        denoiser.features = torch.compile(denoiser.features)
    else:
        denoiser.compile()
    guide.recognition.compile()
