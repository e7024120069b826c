"""In which modes networks and checks run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import pyro
import torch
from torch import nn

__all__ = ["checks_on", "evaluating"]


@runtime_checkable
class _Checked(Protocol):
    validate_args: bool


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Run without gradients and with dropout off; restore the modules' modes afterwards."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def checks_on(is_on: bool, *processes: _Checked) -> Iterator[None]:
    """Whether values of tokens and losses are checked inside, where these processes, and Pyro, check them at all.

    Each check makes the host wait for a GPU; on a CPU looking at values makes nobody wait.
    """
    before = [process.validate_args for process in processes]
    try:
        for process in processes:
            process.validate_args = process.validate_args and is_on
        with nullcontext() if is_on else pyro.validation_enabled(False):
            yield
    finally:
        for process, value in zip(processes, before, strict=True):
            process.validate_args = value
