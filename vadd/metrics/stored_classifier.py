"""Trained classifiers as files: distances compare only if they were measured with the same one."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from vadd.errors import CheckpointError, ConfigError
from vadd.metrics.image_classifier import ImageClassifier
from vadd.storage.files import put_in_place, save_tensors, sha256, write_text

__all__ = ["load_image_classifier", "save_image_classifier"]

_HEADER, _WEIGHTS = "classifier.json", "classifier.safetensors"
_VERSION = 1
_ARGUMENTS = ("image_shape", "num_levels", "num_classes", "num_features", "width")


def save_image_classifier(
    classifier: ImageClassifier, folder: str | Path, *, notes: dict[str, Any] | None = None
) -> Path:
    """Write a classifier to ``classifier.safetensors`` and ``classifier.json``; replaces one that is there.

    Args:
        classifier: the classifier.
        folder: created if missing.
        notes: JSON-ready values kept beside it (data set, seed, accuracy).

    Returns:
        The folder.

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    partial = folder / (_WEIGHTS + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, partial)
        arguments = {name: getattr(classifier, name) for name in _ARGUMENTS}
        header = {"format_version": _VERSION, "arguments": arguments, "sha256": sha256(partial), "notes": notes or {}}
        text = json.dumps(header, indent=2, allow_nan=False) + "\n"
        put_in_place(partial, folder / _WEIGHTS)
        write_text(folder / _HEADER, text)  # last: with other weights the hash does not fit
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        if partial.is_file():
            partial.unlink()
        raise CheckpointError(f"cannot write the classifier to {folder}: {error}") from error
    return folder


def load_image_classifier(folder: str | Path) -> tuple[ImageClassifier, dict[str, Any]]:
    """Read what :func:`save_image_classifier` wrote: the classifier, in evaluation mode on the CPU, and its notes.

    Nothing that was stored is executed.

    Raises:
        CheckpointError: if files are missing, damaged, of another format, or do not belong together.
    """
    folder = Path(folder)
    try:
        header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
        if header["format_version"] != _VERSION:
            raise CheckpointError(
                f"{folder / _HEADER} has format version {header['format_version']!r}, expected {_VERSION}; load it "
                "with the version of vadd that wrote it."
            )
        arguments = {name: header["arguments"][name] for name in _ARGUMENTS}
        arguments["image_shape"] = tuple(arguments["image_shape"])
        if sha256(folder / _WEIGHTS) != header["sha256"]:
            raise CheckpointError(f"{folder / _WEIGHTS} is damaged or belongs to another classifier; save it again.")
        classifier = ImageClassifier(**arguments)
        classifier.load_state_dict(load_file(folder / _WEIGHTS))
        return classifier.requires_grad_(False).eval(), header["notes"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no classifier in {folder}: {Path(error.filename).name} is missing; train one with "
            "train_image_classifier and save it with save_image_classifier."
        ) from error
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the classifier in {folder} cannot be read: {error}; save it again.") from error
