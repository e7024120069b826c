"""What is trained on, and how large a run is."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vadd.backbones import UNET_PRESETS
from vadd.data import ImageTokens
from vadd.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from runs import Size  # noqa: E402

NO_LABEL_SHARE = 10  # one of so many rows is trained on without its label


@dataclass(frozen=True)
class Preset(Size):
    """How large a run is, and its networks.

    Attributes:
        unet, patch_dit: options of the two kinds of networks.
        num_train: the first training images alone; None for all.
        classifier_epochs: passes of the classifier over its training images.
    """

    unet: Mapping[str, Any]
    patch_dit: Mapping[str, Any]
    num_train: int | None = None
    classifier_epochs: int = 3


@dataclass(frozen=True)
class Data:
    """Images to train, choose and judge on.

    Attributes:
        name: of the data set and its protocol.
        train, validation, test: disjoint images.
        classified: training and test images with labels, of the same shape, for the classifier whose features distances
            are measured in; None for no distances.
        unit: what the figures count.
        mirrored: whether images flipped from left to right are trained on, too.
        classified_kind: what the classified images are, where they are of another kind than those judged.
        unclassified: why there are none.
        num_classes: of the labels; by default one more than the largest of them, and 0 where there are none.

    Raises:
        DataError: if images are not of one shape and number of levels, a classified one has no label, or a label lies
            outside ``[0, num_classes)``.
    """

    name: str
    train: ImageTokens
    validation: ImageTokens
    test: ImageTokens
    classified: tuple[ImageTokens, ImageTokens] | None
    unit: str
    mirrored: bool = False
    classified_kind: str = ""
    unclassified: str = "there are no labelled images of this kind to train a classifier on"
    num_classes: int = 0

    def __post_init__(self) -> None:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, part in zip(("classified, train", "classified, test"), self.classified or (), strict=False):
            parts[name] = part
            if part.labels is None:
                raise DataError(f"{self.name}: {name} needs labels, one an image, and has none.")
        kind = (self.train.image_shape, self.train.num_levels)
        labels = {name: part.labels for name, part in parts.items() if part.labels is not None}
        if not self.num_classes:  # frozen, so not by assignment
            most = max((int(part.max()) for part in labels.values()), default=-1)
            object.__setattr__(self, "num_classes", most + 1)
        for name, part in parts.items():
            if (part.image_shape, part.num_levels) != kind:
                raise DataError(
                    f"{self.name}: expected images of shape {kind[0]} and {kind[1]} levels, as in train, got "
                    f"{part.image_shape} and {part.num_levels} in {name}."
                )
        for name, part in labels.items():
            if int(part.min()) < 0 or int(part.max()) >= self.num_classes:
                raise DataError(
                    f"{self.name}: labels must lie in [0, {self.num_classes}), got values from {int(part.min())} to "
                    f"{int(part.max())} in {name}; give a larger num_classes, or number the classes from 0."
                )


def split(data: ImageTokens, num: int) -> tuple[ImageTokens, ImageTokens]:
    """All but the last images, and these."""
    return data.select(slice(len(data) - num)), data.select(slice(len(data) - num, len(data)))


def unet_of(name: str) -> dict[str, Any]:
    """The U-Net of a preset of the library, without what the data and the model decide."""
    decided = ("image_shape", "vocab_size", "latent_shape", "latent_map")
    return {option: value for option, value in UNET_PRESETS[name].items() if option not in decided}


class SomeWithoutLabel(Dataset):
    """Every image :data:`NO_LABEL_SHARE` times, once without its label: which it is decides the row, not chance."""

    def __init__(self, images: Any, no_label: int) -> None:
        self.images, self.no_label = images, torch.tensor(no_label)

    def __len__(self) -> int:
        return NO_LABEL_SHARE * len(self.images)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """A batch at once."""
        items = self.images.__getitems__([row % len(self.images) for row in rows])
        return [
            {**item, "condition": self.no_label} if row < len(self.images) else item
            for row, item in zip(rows, items, strict=True)
        ]


def rows_of(images: ImageTokens, num: int, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens of the first images, with their labels as the condition where the model reads them."""
    rows: dict[str, Any] = {"x_0": images.tokens[:num].long()}
    if args.conditional and images.labels is not None:
        rows["condition"] = images.labels[:num]
    return rows
