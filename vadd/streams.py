"""Rows that are read one after the other: data that no memory holds and nobody counts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["RowStream"]


class RowStream(ABC):
    """An endless sequence of rows with a position that can be stored.

    The Trainer takes one as data. The rows behind a position must always be the same, in every process.
    """

    @abstractmethod
    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """The rows from the position on, without end, moving it along; one iterator at a time.

        A row is a mapping of ``x_0`` ``(dim,)``, and any of ``is_frozen``, ``is_padding`` and ``condition``, the
        same in all rows.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position behind the latest row: small, and of JSON's types."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that :meth:`state_dict` gave.

        Raises:
            CheckpointError: if it is of another stream.
        """
