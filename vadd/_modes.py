"""In which modes networks and checks run, and weights that are tried out."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import pyro
import torch
from torch import nn

__all__ = ["are_checks_on", "checks_on", "evaluating", "restored_on_error"]

#: Of this thread, so that two of them may use one model.
_CHECKS = ContextVar("_CHECKS", default=True)


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
def restored_on_error(module: nn.Module) -> Iterator[None]:
    """Give the module its weights and buffers back where an error ends what is done inside."""
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    try:
        yield
    except BaseException:
        module.load_state_dict(before)
        raise


def are_checks_on() -> bool:
    """Whether values are checked, where a process says that they are at all."""
    return _CHECKS.get()


@contextmanager
def checks_on(is_on: bool, *, of_pyro: bool = False) -> Iterator[None]:
    """Whether values of tokens and losses are checked inside, by processes that check them at all.

    Each check makes the host wait for a GPU; on a CPU looking at values makes nobody wait.

    Args:
        is_on: whether; False around it stays.
        of_pyro: whether Pyro's own checks go off too, in all threads.
    """
    token = _CHECKS.set(is_on and _CHECKS.get())
    try:
        with pyro.validation_enabled(False) if of_pyro and not is_on else nullcontext():
            yield
    finally:
        _CHECKS.reset(token)
