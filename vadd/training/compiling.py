"""Compiling the networks of a pair."""

from typing import Any

import torch
from torch import Tensor

from vadd.backbones.base import FeatureDenoiser
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel

__all__ = ["compile_networks"]


def compile_networks(model: VADDModel, guide: RecognitionGuide) -> None:
    """Compile denoiser and recognition network by ``torch.compile``, in place; parameters keep their names."""
    denoiser: Any = model.denoiser
    if isinstance(denoiser, FeatureDenoiser):  # the model calls these; the head runs at some of the positions alone
        denoiser.features = _Compiled(denoiser)
    else:
        denoiser.compile()
    guide.recognition.compile()


class _Compiled:
    """The compiled features of a denoiser; a copy of the denoiser, such as a moving average, has its own."""

    def __init__(self, denoiser: FeatureDenoiser) -> None:
        self.denoiser = denoiser
        self.features = torch.compile(type(denoiser).features)  # a function: copies share it

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.features(self.denoiser, *args, **kwargs)
