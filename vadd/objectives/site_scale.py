"""The effect handler that weights the sites of model and guide alike."""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["ScaleSites"]


class ScaleSites(Messenger):
    """Multiply the scale of named sample sites, one factor a row.

    Enclosing both traces of an ELBO with one handler keeps their weights equal; a scale on one side
    alone is silently wrong. Unlike ``pyro.poutine.scale`` it allows zeros.
    """

    def __init__(self, scales: dict[str, Tensor]) -> None:
        super().__init__()
        self.scales = scales

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        factor = self.scales.get(msg["name"])
        if factor is not None:
            msg["scale"] = msg["scale"] * factor
