"""Pictures of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.plotting.page import BLOCK, DPI, LINE, MARGIN, SPACE, Page, check_columns

__all__ = ["Images", "check_images", "image_grid", "mosaic"]

Images = Shaped[Tensor, "_ height width *channels"]

_SEPARATOR = 0.85  # grey of the lines between images, 1 is white


def image_grid(
    path: str | Path,
    rows: Mapping[str, Mapping[str, Images]],
    *,
    num_levels: int,
    reference: tuple[str, Images] | None = None,
    neighbours: Mapping[str, tuple[Images, Images]] | None = None,
    title: str = "",
    per_row: int = 5,
    block_width: float = BLOCK,
) -> None:
    """Write a picture that compares models row by row and, say, step counts column by column.

    Args:
        path: file to write; its ending chooses the format, for example ``.png``.
        rows: for each row title (a model) a mapping from column title (``"1 step"``) to images,
            levels in ``[0, num_levels)``: of grey, drawn as ink on paper, or on a fourth axis of red, green
            and blue, drawn as light; one of length 1 is grey, too. All rows have the same columns. A block shows at
            most ``per_row**2`` images.
        num_levels: number of levels, one scale for the whole picture.
        reference: title and images of a tall block at the left, with which all rows are compared.
        neighbours: for each title a pair ``(samples, nearest)`` of equal shapes, shown below the
            blocks in two lines: samples, and under each its nearest training image. As many as
            fit into the width.
        title: title of the picture.
        per_row: images side by side in a block.
        block_width: about the width of a block, in inches.

    Raises:
        ConfigError: if matplotlib is missing, or rows have different columns or none.
        ShapeError: if images do not all have the same height, width and channels, or pairs do not match.
        DomainError: if a pixel is no level.
    """
    columns = check_columns(rows)
    pairs = dict(neighbours or {})
    shown = [images for blocks in rows.values() for images in blocks.values()]
    shown += [images for pair in pairs.values() for images in pair] + ([reference[1]] if reference else [])
    check_images(shown, num_levels)
    if per_row < 1 or not 0 < block_width < float("inf"):
        raise ConfigError(
            f"per_row must be at least 1 and block_width a positive number, got {per_row} and {block_width}."
        )
    for name, (samples, nearest) in pairs.items():
        if samples.shape != nearest.shape:
            raise ShapeError(
                f"neighbours of {name!r} must be pairs of one sample and one image, got shapes "
                f"{tuple(samples.shape)} and {tuple(nearest.shape)}."
            )

    grids = [
        [mosaic(images[: per_row**2], per_row, num_levels) for images in blocks.values()] for blocks in rows.values()
    ]
    # A whole number of dots a pixel, or the lines between images come out unequal.
    scale = max(1, round(block_width * DPI / grids[0][0].shape[1])) / DPI
    block = grids[0][0].shape[1] * scale
    height_of = [max(len(grid) for grid in row) * scale for row in grids]
    blocks_height = sum(height_of) + SPACE * (len(grids) - 1)
    blocks_left = MARGIN + (block if reference else 0) + LINE
    width = blocks_left + len(columns) * (block + SPACE) - SPACE + MARGIN
    blocks_top = MARGIN + LINE * (2 if title else 1)
    cell_height, cell_width = (size + 1 for size in shown[0].shape[1:3])  # with the separating line
    strips = {}
    for name, (samples, nearest) in pairs.items():
        num = min(len(samples), int((width - 2 * MARGIN) / (cell_width * scale)))
        strips[name] = mosaic(torch.cat([samples[:num], nearest[:num]]), num, num_levels)
    strips_height = sum(LINE + SPACE + len(strip) * scale for strip in strips.values())

    page = Page(width, blocks_top + blocks_height + strips_height + MARGIN, scale)
    page.text(MARGIN, MARGIN + LINE / 3, title, size=12, weight="bold", ha="left")
    if reference:
        fitting = int((blocks_height + 1e-6) / (cell_height * scale))
        page.text(MARGIN + block / 2, blocks_top - LINE / 2, reference[0])
        page.image(MARGIN, blocks_top, mosaic(reference[1][: per_row * fitting], per_row, num_levels))
    for column, name in enumerate(columns):
        page.text(blocks_left + column * (block + SPACE) + block / 2, blocks_top - LINE / 2, name)
    top = blocks_top
    for name, row, height in zip(rows, grids, height_of, strict=True):
        page.text(blocks_left - LINE / 2, top + height / 2, name, rotation=90, weight="bold")
        for column, grid in enumerate(row):
            page.image(blocks_left + column * (block + SPACE), top, grid)
        top += height + SPACE
    for name, strip in strips.items():
        caption = f"{name}: samples, and below each its nearest training image"
        page.text(MARGIN, top + LINE / 2, caption, ha="left")
        page.image(MARGIN, top + LINE, strip)
        top += LINE + SPACE + len(strip) * scale
    page.figure.savefig(path, dpi=DPI)


def mosaic(images: Tensor, per_row: int, num_levels: int) -> Float[Tensor, "height width *channels"]:
    """Images in rows, one pixel apart, as brightness in ``[0, 1]``; empty places are white."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    share = images.detach().cpu().double() / (num_levels - 1)
    is_colour = images.ndim == 4
    colours = (0, 0) * is_colour  # an axis that is not padded
    framed = F.pad(share if is_colour else 1 - share, (*colours, 0, 1, 0, 1), value=_SEPARATOR)
    num_empty = -len(images) % per_row
    framed = torch.cat([framed, framed.new_ones(num_empty, *framed.shape[1:])])
    lines = framed.unflatten(0, (-1, per_row)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return F.pad(lines, (*colours, 1, 0, 1, 0), value=_SEPARATOR)


def check_images(blocks: Sequence[Tensor], num_levels: int) -> None:
    """Raise unless all blocks hold images of one size and kind."""
    if num_levels < 2:
        raise ConfigError(f"num_levels must be at least 2, got {num_levels}.")
    for images in blocks:
        is_kind = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
        if not is_kind or len(images) == 0 or images.shape[1:] != blocks[0].shape[1:]:
            raise ShapeError(
                "images must have shape (num, height, width), (num, height, width, 1) or (num, height, width, 3), at "
                f"least one in each block, all of one size, got {tuple(images.shape)} beside {tuple(blocks[0].shape)}."
            )
        if not bool(((images >= 0) & (images <= num_levels - 1)).all()):
            raise DomainError(
                f"pixels must be levels in [0, {num_levels}), got values from {float(images.min()):g} "
                f"to {float(images.max()):g}."
            )
