"""The examples as modules."""

import importlib.util
import sys
from pathlib import Path

__all__ = ["EXAMPLES", "module_of"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def module_of(name):
    """An example by its name, loaded once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
