"""Devices that fast paths are compared on."""

import pytest
import torch

__all__ = ["CUDA", "every_device"]

#: Marks of a case that runs on a GPU alone.
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
