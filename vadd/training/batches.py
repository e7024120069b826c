"""Which rows make up which batch, and reading them: the position in the data is the number of the update."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from vadd._checks import require_integers
from vadd.errors import ConfigError, DataError, VADDError
from vadd.training.noise import key, keyed_generator

__all__ = ["Batch", "BatchOrder", "collate", "read_batches"]

#: The tokens of some sequences as ``x_0``, and ``is_frozen``, ``is_padding`` and ``condition`` where there are any.
Batch = dict[str, Tensor]

_FIELDS = ("x_0", "is_frozen", "is_padding", "condition")


class BatchOrder:
    """The endless stream of rows in which every epoch is a new order of all of them.

    Batch ``k`` is the rows from ``k * batch_size`` on, across the borders of epochs: no row is left out, and
    neither the number of processes nor an interruption changes what a batch holds.

    Args:
        num_rows: of the data set.
        batch_size: rows of a batch, over all processes.
        seed: of the orders.

    Raises:
        DomainError: if there are no rows, or none in a batch.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        require_integers(num_rows=num_rows, batch_size=batch_size)
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._orders: dict[int, Tensor] = {}

    def rows(self, batch: int, start: int = 0, num: int | None = None) -> list[int]:
        """Row numbers ``start`` to ``start + num`` of a batch; default all."""
        first = batch * self.batch_size + start
        last = first + (self.batch_size - start if num is None else num)
        return [int(self._order(k // self.num_rows)[k % self.num_rows]) for k in range(first, last)]

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k >= epoch - 1}
            generator = keyed_generator("cpu", self.seed, "order", epoch)
            self._orders[epoch] = torch.randperm(self.num_rows, generator=generator)
        return self._orders[epoch]


class _OwnRows:
    """Row numbers of this process with the seed of their batch, batch after batch: a batch sampler of torch."""

    def __init__(self, order: BatchOrder, first: int, last: int, start: int, num: int) -> None:
        self.order, self.batches, self.start, self.num = order, range(first, last), start, num

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            rows = self.order.rows(batch, self.start, self.num)
            yield [(key(self.order.seed, "rows", batch, self.start), row) for row in rows]

    def __len__(self) -> int:
        return len(self.batches)


class _Seeded(Dataset):
    """Rows of a data set that may be changed at random: the noise of a batch follows its number."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, keyed: list[tuple[int, int]]) -> Any:
        pyro.set_rng_seed(keyed[0][0] % 2**32)
        rows = [row for _, row in keyed]
        return self.data.__getitems__(rows) if hasattr(self.data, "__getitems__") else [self.data[row] for row in rows]


def read_batches(
    data: Tensor | Mapping[str, Tensor] | Dataset,
    order: BatchOrder,
    first: int,
    last: int,
    *,
    start: int = 0,
    num: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches from ``first`` to before ``last``, of each the rows from ``start`` on.

    Args:
        data: tokens of shape ``(rows, dim)``; a mapping of ``x_0`` and further keywords of the objective to tensors; or
            a map-style data set whose items are tokens or such mappings.
        order: which rows a batch holds.
        first, last: numbers of batches.
        start, num: the rows of a batch that are wanted; default all.
        num_workers: processes that read ahead from a data set.
        pin_memory: whether they read into page-locked memory.

    Raises:
        ConfigError: if the data are of another form, or rows of a batch have different keywords.
        DataError: if a row cannot be read, or a reading process dies.
    """
    num = order.batch_size - start if num is None else num
    tensors = {"x_0": data} if isinstance(data, Tensor) else data
    if isinstance(tensors, Mapping):
        check_names(tensors)
        for batch in range(first, last):
            rows = torch.tensor(order.rows(batch, start, num))
            yield {name: value[rows.to(value.device)] for name, value in tensors.items()}
        return
    sampler = _OwnRows(order, first, last, start, num)
    loader = DataLoader(
        _Seeded(tensors),
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType] - any iterable of lists will do
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=keyed_generator("cpu", order.seed, "workers", first),
    )
    batches, readers = _start(loader)
    for _ in range(first, last):
        try:
            batch = next(batches)
        except StopIteration:
            return
        except VADDError:
            raise
        except Exception as error:
            raise DataError(f"the data cannot be read: {_deaths(readers)}{type(error).__name__}: {error}") from error
        yield batch


def collate(rows: Sequence[Any]) -> Batch:
    """A batch of rows, of tokens or of mappings with the same keywords.

    Raises:
        ConfigError: if a row is of another form than that, or than the first.
    """
    named = [{"x_0": row} if isinstance(row, Tensor | np.ndarray) else row for row in rows]
    for row in named:
        check_names(row)
        if row.keys() != named[0].keys():
            raise ConfigError(
                f"rows of the data must have the same keywords, but only some have "
                f"{', '.join(sorted(row.keys() ^ named[0].keys()))}: give every row them, or none."
            )
    return default_collate(named)


def _start(loader: DataLoader) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Batches, and the processes that read them.

    Where one of them dies ``next`` alone raises: it looks after them every 5 seconds.
    torch's signal handler would raise at once, wherever the program is: in the middle of an update, or of a snapshot.
    """
    number = getattr(signal, "SIGCHLD", None)
    before = None if number is None else signal.getsignal(number)
    others = multiprocessing.active_children()
    batches = iter(loader)
    readers = [process for process in multiprocessing.active_children() if process not in others]
    if number is not None and threading.current_thread() is threading.main_thread():
        if _is_of_torch(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL if before is None or _is_of_torch(before) else before)
    return batches, readers


def _deaths(readers: list[BaseProcess]) -> str:
    """Which of them ended. Their death shows in several ways, as a refused connection too."""
    for reader in readers:
        reader.join(0.1)
    codes = [str(reader.exitcode) for reader in readers if reader.exitcode is not None]
    return f"a process that reads them died (exit code {', '.join(codes)}): " if codes else ""


def _is_of_torch(handler: Any) -> bool:
    return getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling"


def num_rows_of(data: Tensor | Mapping[str, Tensor] | Dataset) -> int:
    """Number of sequences.

    Raises:
        ConfigError: if the data have no length, or tensors of different lengths or unknown names.
    """
    if isinstance(data, Tensor):
        return len(data)
    if isinstance(data, Mapping):
        check_names(data)
        lengths = {name: len(value) for name, value in data.items()}
        if len(set(lengths.values())) != 1:
            raise ConfigError(f"the tensors of data must have one length, got {lengths}.")
        return next(iter(lengths.values()))
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise ConfigError(
            f"data must be tokens, a mapping of tensors or a map-style data set with a length, got "
            f"{type(data).__name__}; an iterable one has no rows that could be shuffled and found again after a resume "
            "(a vadd.streams.RowStream has, such as vadd.text.stream.TextStream)."
        )
    return len(data)  # pyright: ignore[reportArgumentType]


def check_names(batch: Any) -> None:
    """Refuse what is no mapping of the objective's keywords."""
    is_mapping = isinstance(batch, Mapping)
    if not is_mapping or "x_0" not in batch or set(batch) - set(_FIELDS):
        got = sorted(map(str, batch)) if is_mapping else type(batch).__name__
        raise ConfigError(f"data must be tokens, or mappings of x_0 and any of {', '.join(_FIELDS[1:])}; got {got}.")
