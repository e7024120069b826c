"""Files that are either there as a whole or not at all."""

import hashlib
import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["make_durable", "put_in_place", "save_tensors", "sha256", "sync_folder", "write_text"]


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_durable(path: Path) -> None:
    """Wait until a written file is on the disk, whatever happens to the machine afterwards."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(partial: Path, path: Path) -> None:
    """Make a written file durable, then visible under its name in one step."""
    make_durable(partial)
    os.replace(partial, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step; the old one stays until the new one is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    put_in_place(partial, path)


def save_tensors(tensors: dict[str, Tensor], partial: Path) -> None:
    """Write a safetensors file with the permissions of a new file; safetensors itself writes for the owner alone.

    Args:
        tensors: of which no two share memory.
        partial: a file that nobody reads yet; :func:`put_in_place` gives it its name.
    """
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = partial.stat().st_mode & 0o777
    save_file(tensors, partial)
    partial.chmod(mode)
