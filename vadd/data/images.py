"""Images as token sequences: the form that all image data sets of the library have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int, Integer
from torch import Tensor
from torch.nn import functional as F

from vadd._checks import is_integer, require_integer
from vadd.data.image_dataset import ImageDataset
from vadd.errors import DomainError, DtypeError, ShapeError

__all__ = ["ImageShape", "ImageTokens", "make_image_tokens"]

#: Height and width, and the number of channels of colour images.
ImageShape = tuple[int, int] | tuple[int, int, int]

_STORED = (torch.int64, torch.uint8)


@dataclass(frozen=True)
class ImageTokens:
    """Images as rows of tokens: pixels in row-major order, all channels of a pixel side by side.

    :func:`make_image_tokens` makes them from arrays of images.

    Attributes:
        tokens: levels in ``[0, num_levels)``, shape ``(num, height * width * channels)``: ``int64``, as objectives read
            them, or ``uint8``, an eighth of the memory, from which :meth:`dataset` makes ``int64`` batch by batch.
        labels: class of each image, ``int64``; None where there are none.
        image_shape: ``(height, width)`` or ``(height, width, channels)``.
        num_levels: number of levels, the vocabulary size.

    Raises:
        ShapeError: if the sizes do not fit together, or there is no image.
        DtypeError: if tokens are neither ``int64`` nor ``uint8``, or labels not ``int64``.
        DomainError: if a token is no level.
    """

    tokens: Integer[Tensor, "num dim"]
    labels: Int[Tensor, " num"] | None
    image_shape: ImageShape
    num_levels: int

    def __post_init__(self) -> None:
        shape = tuple(self.image_shape)
        if len(shape) not in (2, 3) or not all(map(is_integer, shape)):
            raise ShapeError(f"image_shape must be (height, width) or (height, width, channels), got {shape}.")
        require_integer("num_levels", self.num_levels, minimum=2)
        if self.tokens.dtype not in _STORED:
            raise DtypeError(f"tokens must be int64 or uint8, got {self.tokens.dtype}.")
        dim = torch.Size(shape).numel()
        if self.tokens.ndim != 2 or self.tokens.shape[1] != dim or len(self.tokens) == 0:
            raise ShapeError(
                f"tokens must have shape (num, {dim}) for images of shape {shape}, num at least 1, got "
                f"{tuple(self.tokens.shape)}."
            )
        low, high = (int(value) for value in torch.aminmax(self.tokens))
        if low < 0 or high >= self.num_levels:
            raise DomainError(f"tokens must be levels in [0, {self.num_levels}), got values from {low} to {high}.")
        if self.labels is not None and self.labels.dtype != torch.int64:
            raise DtypeError(f"labels must be int64, got {self.labels.dtype}.")
        if self.labels is not None and self.labels.shape != self.tokens.shape[:1]:
            raise ShapeError(f"labels must have shape ({len(self)},), one an image, got {tuple(self.labels.shape)}.")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def images(self) -> Integer[Tensor, "num height width *channels"]:
        """The tokens in the shape of images; shares their memory."""
        return self.tokens.reshape(-1, *self.image_shape)

    def select(self, rows: slice | Sequence[int] | Int[Tensor, " rows"]) -> "ImageTokens":
        """Some of the images, with their labels."""
        labels = None if self.labels is None else self.labels[rows]
        return ImageTokens(self.tokens[rows], labels, self.image_shape, self.num_levels)

    def dataset(self, *, mirrored: bool = False, with_labels: bool = False) -> ImageDataset:
        """A map-style data set for :class:`~vadd.training.Trainer`; its items hold ``int64`` tokens as ``x_0``.

        Args:
            mirrored: adds every image flipped from left to right: rows ``num`` to ``2 num``. It has the law of random
                flips, but an epoch shows both sides of each image, so that no randomness decides what a row holds.
            with_labels: adds the label as ``condition``.

        Raises:
            ShapeError: if labels are wanted and there are none.
        """
        if with_labels and self.labels is None:
            raise ShapeError("with_labels needs labels, and these images have none.")
        return ImageDataset(self.tokens, self.labels if with_labels else None, self.image_shape, mirrored)


def make_image_tokens(
    images: Any,
    labels: Any = None,
    *,
    num_levels: int,
    value_range: tuple[int | float, int | float] | None = None,
    channels: Literal["last", "first"] = "last",
    pad: int = 0,
    dtype: torch.dtype = torch.int64,
) -> ImageTokens:
    """Tokens of any images: checked, quantized on request, framed, and laid out.

    Args:
        images: array or tensor of shape ``(num, height, width)``, or with channels.
        labels: integers, shape ``(num,)``.
        num_levels: number of levels of a pixel, the vocabulary size.
        value_range: lowest and highest value that a pixel can have, for quantization to ``num_levels`` steps of equal
            width: ``(0, 255)`` of bytes, ``(0, 1)`` of floats. None: the values are levels already.
        channels: whether channels are the last axis, or the one before height.
        pad: pixels of level 0 added on each of the four sides.
        dtype: of the tokens, ``torch.int64`` or ``torch.uint8`` (up to 256 levels).

    Raises:
        ShapeError, DtypeError, DomainError: on images, labels or options that are not as described.
    """
    pixels = _as_tensor("images", images)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ShapeError(
            "images must have shape (num, height, width), (num, height, width, channels) or, with channels='first', "
            f"(num, channels, height, width), all at least 1, got {tuple(pixels.shape)}."
        )
    if channels not in ("last", "first"):
        raise DomainError(f"channels must be 'last' or 'first', got {channels!r}.")
    require_integer("num_levels", num_levels, minimum=2)
    if not is_integer(pad, 0):
        raise DomainError(f"pad must be a number of pixels, at least 0, got {pad!r}.")
    if dtype not in _STORED or (dtype == torch.uint8 and num_levels > 256):
        raise DtypeError(f"dtype must be torch.int64, or torch.uint8 for up to 256 levels, got {dtype}.")
    if pixels.ndim == 4 and channels == "first":
        pixels = pixels.movedim(1, -1)
    levels = _as_levels(pixels, num_levels) if value_range is None else _quantize(pixels, num_levels, value_range)
    levels = levels.to(dtype)
    if pad:
        frame = (pad,) * 4 if levels.ndim == 3 else (0, 0, *(pad,) * 4)
        levels = F.pad(levels, frame)
    shape: Any = tuple(levels.shape[1:])
    return ImageTokens(levels.flatten(1), _as_labels(labels), shape, num_levels)


def _as_tensor(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(f"{name} must be a tensor or an array of numbers, got {type(values).__name__}.") from error


def _as_labels(labels: Any) -> Tensor | None:
    if labels is None:
        return None
    values = _as_tensor("labels", labels)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise DtypeError(f"labels must be integers, got {values.dtype}.")
    return values.long()


def _as_levels(pixels: Tensor, num_levels: int) -> Tensor:
    if pixels.is_floating_point() or pixels.is_complex():
        raise DtypeError(
            f"images must hold integer levels, got {pixels.dtype}; give value_range, (0, 1) for example, to quantize."
        )
    low, high = (int(value) for value in torch.aminmax(pixels))
    if low < 0 or high >= num_levels:
        raise DomainError(
            f"images must hold levels in [0, {num_levels}), got values from {low} to {high}; give value_range, "
            "(0, 255) for bytes, to quantize."
        )
    return pixels


def _quantize(pixels: Tensor, num_levels: int, value_range: tuple[int | float, int | float]) -> Tensor:
    low, high = value_range
    if not -float("inf") < low < high < float("inf"):
        raise DomainError(f"value_range must be finite with low < high, got {value_range}.")
    if pixels.is_complex() or pixels.dtype == torch.bool:
        raise DtypeError(f"images to quantize must hold real numbers, got {pixels.dtype}; bools are levels already.")
    if not bool(((pixels >= low) & (pixels <= high)).all()):
        raise DomainError(
            f"images must lie in value_range [{low}, {high}], got values from {float(pixels.min()):.6g} to "
            f"{float(pixels.max()):.6g}."
        )
    if pixels.is_floating_point():
        steps = ((pixels.double() - low) * (num_levels / (high - low))).floor().long()
        return steps.clamp(max=num_levels - 1)  # the highest value belongs to the last step
    if not (float(low).is_integer() and float(high).is_integer()):
        raise DomainError(f"value_range of integer images must be integers, got {value_range}.")
    return ((pixels.long() - int(low)) * num_levels).div(int(high) - int(low) + 1, rounding_mode="floor")
