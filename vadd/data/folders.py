"""Folders for downloads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["new_folder"]


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after an error inside, what was made and is still empty goes again.

    Raises:
        OSError: if it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # the innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # not empty, or never made
                path.rmdir()
        raise
