"""Headers and tensors from files that may be damaged or belong to something else."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vadd.errors import CheckpointError
from vadd.storage.files import sha256

__all__ = ["Fields", "check_fields", "check_version", "is_sha256", "read_json", "read_tensors"]

#: For each field of a header, whether a value is of the right kind.
Fields = Mapping[str, Callable[[Any], bool]]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; raises :class:`CheckpointError` if it cannot be read or holds something else."""
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; save or download it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not the header of a checkpoint.")
    return header


def check_version(header: dict[str, Any], path: Path, known: int) -> None:
    """Raise :class:`CheckpointError` unless the header is of the format version that is known."""
    if "format_version" not in header:
        raise CheckpointError(f"{path} is not the header of a checkpoint.")
    version = header["format_version"]
    if type(version) is not int or version != known:
        is_newer = type(version) is int and version > known
        remedy = "update vadd" if is_newer else "load it with the version of vadd that wrote it"
        raise CheckpointError(f"{path} has format version {version!r}, this version of vadd reads {known}; {remedy}.")


def check_fields(header: dict[str, Any], path: Path, fields: Fields) -> None:
    """Raise :class:`CheckpointError` unless every field is there and of the right kind."""
    for name, is_right in fields.items():
        if not is_right(header.get(name)):
            raise CheckpointError(
                f"{path} is damaged: its field {name} holds {header.get(name)!r}; save or download it again."
            )


def read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose content has the expected hash.

    Raises:
        CheckpointError: if it is missing, has another content, or is no such file.
    """
    again = "save or download all files again."
    try:
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path} is damaged or belongs to another checkpoint, as after an interrupted save: its sha256 differs "
                f"from the one that was stored beside it; {again}"
            )
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint in {path.parent}: {path.name} is missing; {again}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {again}") from error


def is_sha256(value: Any) -> bool:
    """Whether it is a hash in hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
