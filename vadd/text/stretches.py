"""Memory-mapped tokens of documents as one long stretch."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets

__all__ = ["Stretches"]


class Stretches:
    """The tokens of all documents one after the other, read from the disk where they are asked for.

    In memory are the start and the size of each document.

    Args:
        documents: with a column ``tokens`` of lists, and columns of integers.
    """

    def __init__(self, documents: "datasets.Dataset") -> None:
        self.documents = documents
        self._open()

    def _open(self) -> None:
        lists = self.documents.data.column("tokens").chunks
        # Views of the mapped files.
        self._views = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in lists]
        self._borders = np.cumsum([0, *map(len, self._views)])
        self.sizes = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in lists]).astype(np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each document begins in the stretch."""
        return self.sizes.cumsum() - self.sizes

    def column(self, name: str) -> np.ndarray:
        """The numbers of a column, one a document."""
        return self.documents.data.column(name).to_numpy()

    def read(self, start: int, size: int) -> np.ndarray:
        """``size`` tokens from ``start`` on; where it can be, a view of the file."""
        part = int(np.searchsorted(self._borders, start, "right")) - 1
        begin = int(start) - int(self._borders[part])
        found = self._views[part][begin : begin + int(size)]
        pieces = [found]
        missing = int(size) - len(found)
        while missing > 0:
            part += 1
            pieces.append(self._views[part][:missing])
            missing -= len(pieces[-1])
        return found if len(pieces) == 1 else np.concatenate(pieces)

    def __getstate__(self) -> dict[str, Any]:
        """Without the views: another process maps the files anew."""
        return {"documents": self.documents}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.documents = state["documents"]
        self._open()
