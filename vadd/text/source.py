"""Documents read one after the other from a position that can be stored."""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from vadd.errors import ConfigError, DataError, VADDError

__all__ = ["Source"]


class Source:
    """Reads texts from any place in an iterable, and again where that fails.

    A position is None for the start, the iterable's own state where it has one, and otherwise the number of documents
    before it, which are then read and passed over.

    Args:
        documents: an iterable of texts, or of mappings with ``text``, that begins anew each time.
        retries: how often to read again after an error.
        pause: seconds before the first retry; doubled for each further one.

    Raises:
        ConfigError: if the documents are one text, or can be read only once.
    """

    def __init__(self, documents: Iterable[Any], *, retries: int = 0, pause: float = 1.0) -> None:
        if isinstance(documents, str | Iterator) or not hasattr(documents, "__iter__"):
            raise ConfigError(
                "documents must be texts that can be read from their start again and again, as a list or a data set "
                f"can; got {type(documents).__name__}."
            )
        self.documents, self.retries, self.pause = documents, retries, pause
        self._has_state = hasattr(documents, "state_dict") and hasattr(documents, "load_state_dict")
        self._texts: Iterator[Any] | None = None
        self._number = 0
        self._at: Any = None

    def position(self) -> Any:
        """Behind the latest document."""
        return self._at

    def read(self, position: Any, num: int) -> list[str]:
        """The texts behind a position: ``num``, or as many as there are.

        Raises:
            DataError: if reading fails once more than it is retried, or a document is no text.
        """
        failures = 0
        while True:
            try:
                if self._texts is None or self._at != position:
                    self._seek(position)
                texts = [_text_of(item) for item in islice(self._texts or (), num)]
                self._number += len(texts)
                self._at = self._own_state() if self._has_state else self._number
                return texts
            except VADDError:
                self._texts = None
                raise
            except Exception as error:  # of the network, of the disk, of whatever reads
                self._texts = None
                if failures == self.retries:
                    raise DataError(
                        f"the documents cannot be read: {type(error).__name__}: {error}. Reading goes on where it "
                        "stopped when it is tried again."
                    ) from error
                time.sleep(self.pause * 2**failures)
                failures += 1

    def _seek(self, position: Any) -> None:
        documents: Any = self.documents
        self._texts = None
        if self._has_state:
            documents.load_state_dict(copy.deepcopy(position))
        self._texts = iter(documents)
        self._number = 0
        if not self._has_state and position is not None:
            self._number = sum(1 for _ in islice(self._texts, position))
            if self._number < position:
                raise DataError(
                    f"there are {self._number} documents, fewer than the {position} that were read before: give the "
                    "same ones."
                )
        self._at = position

    def _own_state(self) -> Any:
        documents: Any = self.documents
        return documents.state_dict()


def _text_of(item: Any) -> str:
    text = item.get("text") if isinstance(item, Mapping) else item
    if not isinstance(text, str):
        got = sorted(item) if isinstance(item, Mapping) and "text" not in item else type(text).__name__
        raise DataError(f"a document must be text, or a mapping with text under 'text'; got {got}.")
    return text
