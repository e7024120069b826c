"""Batches of a stream, each with the position behind it."""

import queue
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

from vadd.errors import DataError, VADDError
from vadd.streams import RowStream
from vadd.training.batches import Batch, collate

__all__ = ["stream_batches"]

_AHEAD = 2  # batches


def stream_batches(
    stream: RowStream,
    num_batches: int,
    batch_size: int,
    *,
    start: int = 0,
    num: int | None = None,
    read_ahead: bool = False,
    pin_memory: bool = False,
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """The next batches of a stream, and the position behind each: from there the stream goes on with the next one.

    Every process reads all rows of the stream and keeps its own, as rows that are packed depend on those before them.

    Args:
        stream: rows, as :func:`~vadd.training.batches.read_batches` takes them; read by nobody else.
        num_batches: how many.
        batch_size: rows of a batch, over all processes.
        start, num: the rows of a batch that are wanted; default all.
        read_ahead: whether a thread reads the next two batches in the meantime. The stream's own position is then ahead
            of the one that comes with a batch.
        pin_memory: whether batches are in page-locked memory.

    Raises:
        ConfigError: if rows are of another form, or those of a batch have different keywords.
        DataError: if a row cannot be read, or the stream ends.
    """
    batches = _read(stream, num_batches, batch_size, start, batch_size - start if num is None else num, pin_memory)
    return _ahead(batches) if read_ahead else batches


def _read(
    stream: RowStream, num_batches: int, batch_size: int, start: int, num: int, pin_memory: bool
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    try:
        rows = iter(stream)
        for _ in range(num_batches):
            read: list[Any] = list(islice(rows, batch_size))
            if len(read) < batch_size:
                raise DataError(f"the stream ended after {len(read)} of a batch's {batch_size} rows: it has to go on.")
            batch = collate(read[start : start + num])
            if pin_memory:
                batch = {name: value.pin_memory() for name, value in batch.items()}
            yield batch, stream.state_dict()
    except VADDError:
        raise
    except Exception as error:
        raise DataError(f"the data cannot be read: {type(error).__name__}: {error}") from error


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same, read by a thread; it ends with the iterator."""
    read: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
    is_over = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not is_over.is_set():
            try:
                return read.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put("batch", batch)
                if is_over.is_set():
                    return
            put("end", None)
        except BaseException as error:  # raised where the batch is wanted
            put("error", error)

    thread = threading.Thread(target=work, name="vadd-stream", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = read.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        is_over.set()
        thread.join()
