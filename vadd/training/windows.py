"""Metrics of training, averaged from one line of the log to the next."""

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vadd.objectives import DiffusionELBO

if TYPE_CHECKING:
    from vadd.training.trainer import Trainer

__all__ = ["Window"]


class Window:
    """Sums the terms of the updates since the last line, without waiting for the device.

    Attributes:
        is_first: whether no update was seen yet.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.is_first = True
        self._reset(trainer.step)

    def _reset(self, step: int) -> None:
        self._terms: Tensor | None = None
        self._num = 0
        self._step, self._start = step, time.perf_counter()

    def add(self, objective: DiffusionELBO, loss: Tensor) -> None:
        """Take in one part of a batch."""
        terms = objective.last_terms
        if terms is None:  # an objective that does not keep them
            values = torch.stack([loss.detach().float()] + 2 * [loss.new_tensor(torch.nan, dtype=torch.float)])
        else:
            values = torch.stack([loss.detach().float(), terms.reconstruction.float(), terms.kl.float()])
        self._terms = values if self._terms is None else self._terms + values
        self._num += 1
        self.is_first = False

    def close(self, trainer: "Trainer") -> dict[str, float]:
        """The metrics since the last line, the same in all processes, and a new start."""
        assert self._terms is not None
        loss, reconstruction, kl = trainer.processes.mean(self._terms / self._num).tolist()
        seconds = time.perf_counter() - self._start
        metrics = {
            "loss": loss,
            "reconstruction": reconstruction,
            "kl": kl,
            "kl_weight": trainer.objective.kl_weight,
            "grad_norm": float(trainer.grad_norm),
            "learning_rate": float(trainer.optimizer.param_groups[0]["lr"]),
            "sequences_per_second": (trainer.step - self._step) * trainer.config.batch_size / seconds,
            "skipped": float(trainer.skipped),
        }
        self._reset(trainer.step)
        return metrics
