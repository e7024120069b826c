"""What is trained on, and how large a run is."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vadd.backbones import UNET_PRESETS
from vadd.data import ImageTokens

NUM_CLASSES = 10
NO_LABEL_SHARE = 10  # one of so many rows is trained on without its label


@dataclass(frozen=True)
class Preset:
    """How large a run is.

    Attributes:
        unet, patch_dit: options of the two kinds of networks.
        latent_size: components of the latent.
        num_updates, batch_size, learning_rate, ema_decay, precision, minutes: of training; see ``TrainerConfig``.
        num_train: the first training images alone; None for all.
        num_validation: of the training images, held out for validation and the choice of each jump's latent.
        num_refit: training images that the prior is fitted to anew, where the recipe does so.
        num_rows: test images on which bounds are evaluated.
        num_latents: latents inside the bounds' logarithms.
        num_draws: masks of each image, for bounds that take few network calls a draw.
        num_jumps: most jumps visited in a draw of a finite-step bound, where each jump's latent is its own.
        steps: numbers of sampling steps.
        num_samples: samples for each of them.
        rows_per_call: images that run through a network together, in evaluation.
        classifier_epochs: passes of the classifier over its training images.
    """

    unet: Mapping[str, Any]
    patch_dit: Mapping[str, Any]
    latent_size: int
    num_updates: int
    batch_size: int
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    precision: str = "no"
    minutes: float | None = None
    num_train: int | None = None
    num_validation: int = 1000
    num_refit: int = 10_000
    num_rows: int = 256
    num_latents: int = 8
    num_draws: int = 4
    num_jumps: int = 16
    steps: tuple[int, ...] = (1, 2, 4, 8, 10, 20, 30, 50, 100)
    num_samples: int = 1000
    rows_per_call: int = 64
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
    decided = ("image_shape", "vocab_size", "latent_shape")
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
