"""Names of the model and guide in Pyro's parameter store."""

import itertools
from typing import Any

from pyro.nn import PyroModule

__all__ = ["UniquelyNamedModule"]

_count = itertools.count()


class UniquelyNamedModule(PyroModule):
    """A root Pyro module under a name of its own, also after copying and unpickling.

    Pyro's store finds parameters by name. Two roots of one name would share parameters: the second
    model would silently not be trained, and a copy would read the original's parameters.
    """

    def __init__(self) -> None:
        super().__init__(self._fresh_name())

    @classmethod
    def _fresh_name(cls) -> str:
        return f"{cls.__name__.lower()}_{next(_count)}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copying and unpickling end here.
        super().__setstate__(state)
        object.__setattr__(self, "_pyro_name", self._fresh_name())
