"""Handwritten digits that come with scikit-learn: real data without a download."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vadd.errors import ConfigError, DataError

__all__ = ["DigitTokens", "load_digits_tokens"]

_NUM_IMAGES = 1797
_NUM_CLASSES = 10


@dataclass(frozen=True)
class DigitTokens:
    """Digits as token sequences, pixels in row-major order, with a split that never changes.

    Attributes:
        train: training images, ``int64`` grey levels in ``[0, num_levels)``.
        train_labels: the digit of each training image.
        heldout: images kept for evaluation.
        heldout_labels: the digit of each held-out image.
        image_shape: height and width in pixels.
        num_levels: number of grey levels, the vocabulary size.
        num_classes: number of labels.
    """

    train: Int[Tensor, "num_train dim"]
    train_labels: Int[Tensor, " num_train"]
    heldout: Int[Tensor, "num_heldout dim"]
    heldout_labels: Int[Tensor, " num_heldout"]
    image_shape: tuple[int, int] = (8, 8)
    num_levels: int = 17
    num_classes: int = _NUM_CLASSES


def load_digits_tokens(*, num_heldout: int = 360, seed: int = 0) -> DigitTokens:
    """Load 1,797 images of 8x8 pixels with 17 grey levels, 0 (paper) to 16 (ink).

    The split is stratified: every digit has the same share of both parts, up to rounding. Both
    parts come from the same 13 writers, so held-out results say nothing about new hands.

    Args:
        num_heldout: number of images in the held-out part, between 10 and 1,787.
        seed: seed of the split. Figures are comparable only for the same seed and size.

    Raises:
        ConfigError: if ``num_heldout`` leaves a digit without an image in one of the parts.
        DataError: if scikit-learn is missing, or its data are not the expected ones.

    References:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998 (its test part).
    """
    if not _NUM_CLASSES <= num_heldout <= _NUM_IMAGES - _NUM_CLASSES:
        raise ConfigError(
            f"num_heldout must lie between {_NUM_CLASSES} and {_NUM_IMAGES - _NUM_CLASSES}, got {num_heldout}."
        )
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError("the digits need scikit-learn: pip install scikit-learn.") from error

    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    if pixels.shape != (_NUM_IMAGES, 64) or float(pixels.min()) != 0 or float(pixels.max()) != 16:
        raise DataError(
            f"expected {_NUM_IMAGES} images of 64 pixels from 0 to 16, got shape {tuple(pixels.shape)} with "
            f"values from {float(pixels.min()):g} to {float(pixels.max()):g}; reinstall scikit-learn."
        )
    train_rows, heldout_rows = train_test_split(
        range(_NUM_IMAGES), test_size=num_heldout, stratify=labels, random_state=seed
    )
    tokens, labels = pixels.long(), labels.long()
    return DigitTokens(tokens[train_rows], labels[train_rows], tokens[heldout_rows], labels[heldout_rows])
