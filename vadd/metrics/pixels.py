"""Images from tokens."""

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError

__all__ = ["check_images", "to_uint8"]


def to_uint8(
    tokens: Integer[Tensor, "num dim"], image_shape: tuple[int, ...], num_levels: int
) -> UInt8[Tensor, "num height width *channels"]:
    """Images of bytes from rows of levels: level 0 becomes 0, the highest 255, those between the nearest byte.

    Args:
        tokens: levels in ``[0, num_levels)``, pixels in row-major order, channels side by side.
        image_shape: ``(height, width)`` or ``(height, width, channels)``.
        num_levels: number of levels, at least 2.

    Raises:
        ConfigError, ShapeError, DtypeError, DomainError: on tokens or sizes that are not as described.
    """
    check_images(tokens, image_shape, num_levels)
    top = num_levels - 1
    rounded = (tokens.long() * 510 + top).div(2 * top, rounding_mode="floor")
    return rounded.to(torch.uint8).reshape(-1, *image_shape)


def check_images(tokens: Tensor, image_shape: tuple[int, ...], num_levels: int) -> None:
    """Raise unless tokens are rows of levels of images of this shape."""
    if len(image_shape) not in (2, 3) or min(image_shape) < 1 or num_levels < 2:
        raise ConfigError(
            "expected image_shape (height, width) or (height, width, channels) and at least 2 levels, got "
            f"{tuple(image_shape)} and num_levels={num_levels}."
        )
    dim = torch.Size(image_shape).numel()
    if tokens.ndim != 2 or tokens.shape[1] != dim or len(tokens) == 0:
        raise ShapeError(
            f"tokens must have shape (num, {dim}) for images of shape {tuple(image_shape)}, num at least 1, got "
            f"{tuple(tokens.shape)}."
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise DtypeError(f"tokens must be integers, got {tokens.dtype}.")
    low, high = (int(value) for value in torch.aminmax(tokens))
    if low < 0 or high >= num_levels:
        raise DomainError(f"tokens must be levels in [0, {num_levels}), got values from {low} to {high}.")
