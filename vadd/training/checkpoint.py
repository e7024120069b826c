"""Checkpoints: tensors in safetensors, everything else in JSON. Loading executes nothing that was stored."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import nn

from vadd.errors import CheckpointError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.storage import pretrained
from vadd.storage.files import put_in_place, save_tensors, sha256, write_text
from vadd.storage.pair import FIELDS, Blueprint, check_notes, check_pair, describe_pair, tensors_of
from vadd.storage.reading import Fields, check_fields, check_version, is_sha256, read_json, read_tensors

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 1
_HEADER = pretrained.CHECKPOINT
_FIELDS: Fields = {**FIELDS, "sha256": is_sha256}


class Checkpoint(NamedTuple):
    """A model, its guide, and what was noted beside them."""

    model: VADDModel
    guide: RecognitionGuide
    notes: dict[str, Any]


def save_checkpoint(
    folder: str | Path, model: VADDModel, guide: RecognitionGuide, *, notes: dict[str, Any] | None = None
) -> Path:
    """Write model and guide to ``folder``, replacing an earlier checkpoint there; one process at a time.

    Args:
        folder: created if missing.
        model, guide: the pair; their parts must be registered (:func:`vadd.registry.register`), or
            be passed to :func:`load_checkpoint` again.
        notes: JSON-ready values kept beside them (data set, step, figures).

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
        ConfigError: if model and guide do not fit together, or a part shares a network that is not the one of this
            pair: its weights would be lost.
    """
    folder = Path(folder)
    check_pair(model, guide)
    check_notes(notes, allow_nan=True)  # an unattended run is not to end on a figure that is NaN
    header = {"format_version": FORMAT_VERSION, **describe_pair(model, guide), "notes": notes or {}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "weights.partial"
        save_tensors({**tensors_of(model, "model."), **tensors_of(guide, "guide.")}, partial)
        digest = sha256(partial)
        weights = folder / _weights_name(digest)
        put_in_place(partial, weights)
        # The header names its weights by their content, so replacing it is the one step that
        # turns the old checkpoint into the new one.
        write_text(folder / _HEADER, json.dumps({**header, "sha256": digest}, indent=2))
        for old in folder.glob("weights-*.safetensors"):
            if old != weights:
                old.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint to {folder}: {error}") from error
    return folder


def load_checkpoint(folder: str | Path, **parts: nn.Module) -> Checkpoint:
    """Read a checkpoint; model and guide come in evaluation mode.

    Args:
        folder: where :func:`save_checkpoint`, or :meth:`VADDModel.save_pretrained
            <vadd.model.VADDModel.save_pretrained>` with a guide, wrote it.
        **parts: ``denoiser=``, ``prior=``, ``schedule=`` or ``recognition=``, for parts of classes that are
            not registered; they are given the stored weights.

    Raises:
        CheckpointError: if files are missing, damaged or of another format, or the weights do not
            fit the parts.
        ConfigError: if parts that were passed do not fit together.
    """
    folder = Path(folder)
    path = folder / _HEADER
    if not path.is_file():
        if (folder / pretrained.CONFIG).is_file():
            return Checkpoint(*pretrained.load_pair(VADDModel, RecognitionGuide, folder, parts))
        raise CheckpointError(f"no checkpoint in {folder}: {_HEADER} is missing.")
    header = read_json(path)
    check_version(header, path, FORMAT_VERSION)
    check_fields(header, path, _FIELDS)
    blueprint = Blueprint(header, path, parts)
    stored = read_tensors(folder / _weights_name(header["sha256"]), header["sha256"])
    tensors = {
        name: {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
        for name in ("model", "guide")
    }
    model, guide = blueprint.pair(VADDModel, RecognitionGuide, tensors)
    return Checkpoint(model, guide, header["notes"])


def _weights_name(digest: str) -> str:
    return f"weights-{digest[:16]}.safetensors"
