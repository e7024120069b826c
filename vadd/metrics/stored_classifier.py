"""Trained classifiers as files: distances compare only if they were measured with the same one."""

from pathlib import Path
from typing import Any

from vadd.metrics._stored import load_network, save_network
from vadd.metrics.image_classifier import ImageClassifier

__all__ = ["load_image_classifier", "save_image_classifier"]

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
    return save_network(classifier, _ARGUMENTS, folder, "classifier", notes)


def load_image_classifier(folder: str | Path) -> tuple[ImageClassifier, dict[str, Any]]:
    """Read what :func:`save_image_classifier` wrote: the classifier, in evaluation mode on the CPU, and its notes.

    Nothing that was stored is executed.

    Raises:
        CheckpointError: if files are missing, damaged, of another format, or do not belong together.
    """
    remedy = "train one with train_image_classifier and save it with save_image_classifier"
    return load_network(ImageClassifier, _ARGUMENTS, folder, "classifier", remedy)
