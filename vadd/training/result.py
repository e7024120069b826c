"""What training returns."""

from dataclasses import dataclass
from typing import Literal

from vadd.guide import RecognitionGuide
from vadd.model import VADDModel

__all__ = ["TrainingResult"]


@dataclass(frozen=True)
class TrainingResult:
    """How training ended.

    Attributes:
        model, guide: the trained pair, its moving average where there is one, in evaluation mode.
        step: updates done.
        stopped: ``"finished"``, or ended early by ``"time"`` or a ``"signal"``.
        skipped: updates skipped because the gradient was not finite.
        seconds: time of this call.
        exit_code: for ``sys.exit``: 0, or 128 plus the signal's number as shells expect.
    """

    model: VADDModel
    guide: RecognitionGuide
    step: int
    stopped: Literal["finished", "time", "signal"]
    skipped: int
    seconds: float
    exit_code: int
