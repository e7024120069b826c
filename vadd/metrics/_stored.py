"""A trained network as two files, ``STEM.safetensors`` and ``STEM.json``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vadd.errors import CheckpointError, ConfigError
from vadd.storage.files import put_in_place, save_tensors, sha256, write_text

_VERSION = 1
_Network = TypeVar("_Network", bound=nn.Module)


def save_network(
    network: nn.Module, arguments: Sequence[str], folder: str | Path, stem: str, notes: dict[str, Any] | None
) -> Path:
    """Write weights and the constructor's arguments, attributes of those names.

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    partial = folder / f"{stem}.safetensors.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, partial)
        values = {name: getattr(network, name) for name in arguments}
        header = {"format_version": _VERSION, "arguments": values, "sha256": sha256(partial), "notes": notes or {}}
        text = json.dumps(header, indent=2, allow_nan=False) + "\n"
        put_in_place(partial, folder / f"{stem}.safetensors")
        write_text(folder / f"{stem}.json", text)  # last: with other weights the hash does not fit
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        if partial.is_file():
            partial.unlink()
        raise CheckpointError(f"cannot write the {stem} to {folder}: {error}") from error
    return folder


def load_network(
    cls: type[_Network], arguments: Sequence[str], folder: str | Path, stem: str, remedy: str
) -> tuple[_Network, dict[str, Any]]:
    """The network, in evaluation mode on the CPU and without gradients, and its notes; nothing stored is executed.

    Raises:
        CheckpointError: if files are missing (``remedy`` says where they come from), damaged, of another format, or do
            not belong together.
    """
    folder = Path(folder)
    header_file, weights_file = folder / f"{stem}.json", folder / f"{stem}.safetensors"
    try:
        header = json.loads(header_file.read_text(encoding="utf-8"))
        if header["format_version"] != _VERSION:
            raise CheckpointError(
                f"{header_file} has format version {header['format_version']!r}, expected {_VERSION}; load it "
                "with the version of vadd that wrote it."
            )
        values = {name: header["arguments"][name] for name in arguments}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if sha256(weights_file) != header["sha256"]:
            raise CheckpointError(f"{weights_file} is damaged or belongs to another {stem}; save it again.")
        network = cls(**values)
        network.load_state_dict(load_file(weights_file))
        return network.requires_grad_(False).eval(), header["notes"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no {stem} in {folder}: {Path(error.filename).name} is missing; {remedy}.") from error
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the {stem} in {folder} cannot be read: {error}; save it again.") from error
