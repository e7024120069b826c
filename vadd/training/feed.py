"""What a trainer reads: rows in an order of its own, or a stream that brings its order along."""

from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from vadd.streams import RowStream
from vadd.training.batches import Batch, BatchOrder, num_rows_of, read_batches
from vadd.training.config import TrainerConfig
from vadd.training.streaming import stream_batches

__all__ = ["Feed"]


class Feed:
    """Batches of either kind of data.

    Args:
        data: what :func:`~vadd.training.batches.read_batches` takes, or a stream.
        config: with the number and the size of batches, the seed of the order, and ``num_workers``.

    Attributes:
        order: of the rows; None for a stream.
        position: of a stream, behind the batch of the latest update; None for other data.

    Raises:
        ConfigError: if the data are neither.
    """

    def __init__(self, data: Tensor | Mapping[str, Tensor] | Dataset | RowStream, config: TrainerConfig) -> None:
        self.data, self.config = data, config
        self.order: BatchOrder | None = None
        self.position: dict[str, Any] | None = None
        self._behind: dict[str, Any] | None = None  # the latest batch that was asked for
        if isinstance(data, RowStream):
            self.position = data.state_dict()
        else:
            self.order = BatchOrder(num_rows_of(data), config.batch_size, config.seed)

    @property
    def num_rows(self) -> int | None:
        """Rows of the data; None for a stream."""
        return None if self.order is None else self.order.num_rows

    def epoch(self, step: int) -> float | None:
        """How often the data were read after so many updates; None for a stream."""
        return None if self.order is None else step * self.config.batch_size / self.order.num_rows

    def restore(self, position: dict[str, Any] | None) -> None:
        """Take up a stored position.

        Raises:
            CheckpointError: if it is of another stream.
        """
        if isinstance(self.data, RowStream):
            self.data.load_state_dict(position or {})
            self.position = position

    def advance(self) -> None:
        """After the update with the latest batch: one that fails leaves its rows to the next try."""
        self.position = self._behind

    def batches(self, first: int, start: int, num: int, pin_memory: bool) -> Generator[Batch, None, None]:
        """The batches from number ``first`` on, of each the rows from ``start`` to ``start + num``.

        Raises:
            ConfigError, DataError: as :func:`~vadd.training.batches.read_batches` does.
        """
        last, workers = self.config.num_updates, self.config.num_workers
        options: Any = {"start": start, "num": num, "pin_memory": pin_memory}
        if isinstance(self.data, RowStream):
            self.restore(self.position)  # the stream itself may have read ahead
            batches = stream_batches(self.data, last - first, self.config.batch_size, read_ahead=workers > 0, **options)
            for batch, self._behind in batches:
                yield batch
        elif self.order is not None:
            yield from read_batches(self.data, self.order, first, last, num_workers=workers, **options)
