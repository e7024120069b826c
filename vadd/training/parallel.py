"""The processes of a run: who works on which rows, and what they tell each other."""

import atexit
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.training.batches import Batch
from vadd.training.config import TrainerConfig

__all__ = ["Processes", "make_accelerator"]


def make_accelerator(**options: Any) -> Any:
    """An ``accelerate.Accelerator`` whose processes need not use every weight in every step.

    Raises:
        ConfigError: if Accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise ConfigError('training needs Accelerate: pip install "vadd[training]".') from error
    # The prior has no gradient while the KL weight is zero.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    # Masks are drawn in double precision, which Apple's MPS has not. On a CPU Accelerate has to be told so, or it would
    # let processes that torchrun started train apart.
    device = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = device is None or device.type == "mps"
    return Accelerator(cpu=on_cpu, kwargs_handlers=handlers, **options)


class Processes:
    """Shares of a batch, and sums over processes.

    Args:
        accelerator: of Accelerate.
        config: its batch is split evenly.

    Raises:
        ConfigError: if a batch does not split evenly, or Accelerate was told to use what the trainer does itself.
    """

    def __init__(self, accelerator: Any, config: TrainerConfig) -> None:
        self.accelerator, self.config = accelerator, config
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.num: int = accelerator.num_processes
        parts = self.num * config.accumulate
        if config.batch_size % parts:
            raise ConfigError(
                f"batch_size {config.batch_size} cannot be split into {self.num} processes of {config.accumulate} "
                f"parts each: choose a multiple of {parts}."
            )
        if accelerator.mixed_precision != "no":
            raise ConfigError(
                f"Accelerate was launched with mixed_precision={accelerator.mixed_precision!r}: leave it at 'no' and "
                "set precision in TrainerConfig."
            )
        kind = str(accelerator.distributed_type).rpartition(".")[2]
        if kind == "FSDP":
            raise ConfigError(
                "Accelerate was launched for FSDP, which the trainer does itself: launch it for several processes "
                "without FSDP, and set shard=True in TrainerConfig."
            )
        if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
            raise ConfigError(
                f"Accelerate was launched for {kind}, where the trainer does not run: launch it for several CPUs or "
                "GPUs with a copy of the weights each."
            )
        if self.num > 1:
            atexit.register(_end)  # a program that ends with groups of processes open aborts now and then
        self.total = config.batch_size
        self.own = config.batch_size // self.num
        self.part = self.own // config.accumulate

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def start(self) -> int:
        """First row of this process in a batch."""
        return self.rank * self.own

    def gather(self, rows: Batch) -> Batch:
        """The whole batch, in order, of every process's rows, on the device."""
        rows = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
        if self.num == 1:
            return rows
        return {name: self.accelerator.gather(value.contiguous()) for name, value in rows.items()}

    def parts(self) -> Iterable[tuple[int, bool]]:
        """First rows of the parts that this process works off one after the other, and whether it is the last."""
        starts = range(self.start, self.start + self.own, self.part)
        return [(start, start == starts[-1]) for start in starts]

    def sync(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over processes in the last part of a batch alone."""
        return nullcontext() if is_last or self.num == 1 else self.accelerator.no_sync(module)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        return value if self.num == 1 else self.accelerator.reduce(value, "mean")

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes."""
        if self.num == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def from_main(self, value: Any) -> Any:
        """The main process's value, in all."""
        if self.num == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Wait for the others."""
        self.accelerator.wait_for_everyone()


def _end() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
