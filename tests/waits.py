"""Operations that make the host of a GPU wait for it, noted on any device."""

import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vadd

__all__ = ["Waits"]

WAITING = ("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2", "aten::equal")
PACKAGE = str(Path(vadd.__file__).parent)


class Waits(TorchDispatchMode):
    """Notes the operations that make the host wait, and who calls them; to pick by flags is one, as it counts them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        if name in WAITING or any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.append((name, caller()))
        return func(*args, **(kwargs or {}))


def caller():
    """The innermost function of the package that is running, beneath the annotations' checks."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame and frame.f_code.co_name
