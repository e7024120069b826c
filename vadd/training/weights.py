"""Where the weights of a run lie, and their moving average."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives import DiffusionELBO
from vadd.training.parallel import Processes

__all__ = ["Replicated", "Weights", "make_weights", "moving_average"]


class Weights(ABC):
    """The weights of model, guide and prior in training.

    Attributes:
        pair: model and guide.
        loss: the objective over them; it takes a drawn batch.
    """

    pair: nn.ModuleList
    loss: nn.Module

    @abstractmethod
    def sync(self, is_last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of one part of a batch."""

    def clip(self, optimizer: Optimizer, limit: float | None) -> Tensor:
        """Clip the gradient to a norm, None for no limit; its norm before."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)

    @abstractmethod
    def updated(self) -> None:
        """After an update: the average follows."""

    @abstractmethod
    def gather(self) -> None:
        """Make :attr:`averaged` that of now; all processes together."""

    @property
    @abstractmethod
    def averaged(self) -> tuple[VADDModel, RecognitionGuide]:
        """The moving average of the pair, the pair itself where there is none."""

    def release(self) -> tuple[VADDModel, RecognitionGuide]:
        """The averaged pair to hand out: it can be trained on, where the pair in training could."""
        model, guide = self.averaged
        for own, trained in zip(nn.ModuleList([model, guide]).parameters(), self.pair.parameters(), strict=True):
            own.requires_grad_(trained.requires_grad)
        return model, guide

    @abstractmethod
    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Pair, average and optimizer with whole tensors; all processes together, only the main one's counts."""

    @abstractmethod
    def load(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        """Take up a state, whoever made it.

        Raises:
            RuntimeError, ValueError, KeyError, TypeError: if it is one of other modules or another optimizer.
        """


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Moves an exponential average towards the weights, given how many it has seen: a function for ``AveragedModel``.

    The decay rises to its value, as ``(1 + n) / (10 + n)`` after ``n`` updates, so that the average forgets the first
    weights also where updates are few (as TensorFlow's ``ExponentialMovingAverage`` does with ``num_updates``).
    """

    def move(average: Any, current: Any, num_averaged: Any) -> None:
        n = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(average, current, num_averaged)

    return move


class Replicated(Weights):
    """Whole weights in every process."""

    def __init__(
        self, model: VADDModel, guide: RecognitionGuide, objective: DiffusionELBO, processes: Processes
    ) -> None:
        self.processes = processes
        self.pair = nn.ModuleList([model, guide])
        self.loss = processes.accelerator.prepare_model(objective(model, guide))  # all processes start alike
        self.average: AveragedModel | None = None
        decay = processes.config.ema_decay
        if decay is not None:
            self.average = AveragedModel(self.pair, multi_avg_fn=moving_average(decay))
            self.average.requires_grad_(False)

    def sync(self, is_last: bool) -> AbstractContextManager[None]:
        return self.processes.sync(self.loss, is_last)

    def updated(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.pair)

    def gather(self) -> None:
        pass

    @property
    def averaged(self) -> tuple[VADDModel, RecognitionGuide]:
        pair: Any = self.pair if self.average is None else self.average.module
        return pair[0], pair[1]

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        return {
            "pair": self.pair.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        self.pair.load_state_dict(state["pair"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])


def make_weights(model: VADDModel, guide: RecognitionGuide, objective: DiffusionELBO, processes: Processes) -> Weights:
    """Sharded over the processes where the settings say so and there are several.

    Raises:
        ConfigError: if the pair cannot be sharded.
    """
    if processes.config.shard and processes.num > 1:
        from vadd.training.sharding import Sharded  # torch.distributed may be missing where it is not needed

        return Sharded(model, guide, objective, processes)
    return Replicated(model, guide, objective, processes)
