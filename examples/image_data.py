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

sys.path.insert(0, str(Path(__file__).resolve().parent))
from runs import Size  # noqa: E402

NUM_CLASSES = 10
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
    """

    name: str
    train: ImageTokens
    validation: ImageTokens
    test: ImageTokens
    classified: tuple[ImageTokens, ImageTokens] | None
    unit: str
    mirrored: bool = False


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
