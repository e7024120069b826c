"""What lies in a snapshot's folder: the sizes and hashes of its files, under a hash of the manifest itself."""

import hashlib
import json
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vadd._version import __version__
from vadd.errors import CheckpointError
from vadd.storage.files import sha256, write_text

__all__ = ["FORMAT_VERSION", "MANIFEST", "read_file", "read_manifest", "verify_file", "write_manifest"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_HASH = re.compile("[0-9a-f]{64}")
# Files of the folder and of its sub-folders, never outside.
_NAME = re.compile(r"(\w[\w.-]*/)*\w[\w.-]*")


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest of a folder whose other files are complete; it is durable when this returns.

    Args:
        folder: the snapshot.
        content: JSON-ready, without non-finite numbers; what :func:`read_manifest` returns.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths
    }
    versions = {"vadd": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    header = {"format_version": FORMAT_VERSION, "versions": versions}
    write_text(folder / MANIFEST, _sealed({**header, **content, "files": files}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a snapshot: itself unharmed, and all its files there with their sizes; hashes are not compared.

    Raises:
        CheckpointError: if that is not so, or the format is of another version.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        content = json.loads(data)
        if not isinstance(content, dict) or "format_version" not in content:
            raise CheckpointError(f"{path} is not the manifest of a snapshot, or it is damaged.")
        if content["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {content['format_version']}, this version of vadd reads {FORMAT_VERSION}; "
                "load it with the version of vadd that wrote it."
            )
        content.pop("sha256", None)
        # Every byte counts: the file must be what would be written for its content.
        if data != _sealed(content).encode():
            raise CheckpointError(f"{path} is damaged: its content is not that of its sha256.")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"no snapshot in {folder}: {MANIFEST} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    for name, is_right in _FIELDS.items():
        if name not in content or not is_right(content[name]):
            raise CheckpointError(f"{path} is damaged: its field {name} is missing or of the wrong form.")
    for name in content["files"]:
        _check_size(folder, name, content)
    return content


def verify_file(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    """Compare a file's content with the manifest.

    Raises:
        CheckpointError: if it differs, or the file cannot be read.
    """
    _check_size(folder, name, manifest)
    try:
        digest = sha256(folder / name)
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}") from error
    _check_hash(folder, name, manifest, digest)


def read_file(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """Content of a file, verified as it is read.

    Raises:
        CheckpointError: as :func:`verify_file`.
    """
    _check_size(folder, name, manifest)
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}") from error
    _check_hash(folder, name, manifest, hashlib.sha256(data).hexdigest())
    return data


def _sealed(content: dict[str, Any]) -> str:
    """Text of a manifest, with a hash of the text without it."""
    digest = hashlib.sha256(_text(content).encode()).hexdigest()
    return _text({**content, "sha256": digest}) + "\n"


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False)


def _check_size(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    path = folder / name
    if name not in manifest["files"]:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not name {name}.")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    expected = manifest["files"][name]["size"]
    if size != expected:
        raise CheckpointError(f"{path} is damaged: it has {size} bytes instead of {expected}.")


def _check_hash(folder: Path, name: str, manifest: dict[str, Any], digest: str) -> None:
    if digest != manifest["files"][name]["sha256"]:
        raise CheckpointError(f"{folder / name} is damaged: its sha256 differs from the one in {MANIFEST}.")


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _NAME.fullmatch(name)
        and isinstance(entry, dict)
        and type(entry.get("size")) is int
        and isinstance(entry.get("sha256"), str)
        and bool(_HASH.fullmatch(entry["sha256"]))
        for name, entry in value.items()
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: type(value) is int and value >= 0,
    "score": lambda value: value is None or type(value) is float or isinstance(value, dict),
    "state": lambda value: True,
    "metadata": lambda value: isinstance(value, dict),
    "versions": lambda value: isinstance(value, dict),
    "files": _are_files,
}
