"""Protocols that stand for the model and the guide, in every version of Python."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from vadd import RecognitionGuide
from vadd._protocols import ByAttributes
from vadd.backbones import EmptyRecognition
from vadd.samplers.run import SampledModel
from vadd.storage.pair import StoredGuide, StoredModel
from vadd.testing import tiny_model


@runtime_checkable
class WithParts(Protocol, metaclass=ByAttributes):
    part: Any
    buffer: torch.Tensor

    def call(self) -> Any: ...


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(1, 1)
        self.register_buffer("buffer", torch.zeros(1))

    def call(self):
        return None


def test_submodules_and_buffers_are_members():
    whole = Whole()
    assert isinstance(whole, WithParts)
    for name in ("part", "buffer"):
        less = Whole()
        delattr(less, name)
        assert not isinstance(less, WithParts)
    whole.call = None  # there, whatever it is
    assert isinstance(whole, WithParts)
    assert not isinstance(Whole, WithParts)
    assert not isinstance(nn.Linear(1, 1), WithParts)


def test_model_and_guide_are_what_is_stored_and_sampled():
    model, guide = tiny_model(2, 3, latent_dim=0), RecognitionGuide(EmptyRecognition())
    assert isinstance(model, StoredModel)
    assert isinstance(model, SampledModel)
    assert isinstance(guide, StoredGuide)
    assert not isinstance(guide, StoredModel | SampledModel)
    assert not isinstance(model, StoredGuide)
