"""Pages that show what a latent does. :func:`vadd.evaluation.latent_pages` makes the images."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from vadd.errors import ConfigError, ShapeError
from vadd.plotting.images import Images, check_images, mosaic
from vadd.plotting.page import DPI, LINE, MARGIN, Page

__all__ = ["image_table", "interpolation_page", "latent_mask_page", "traversal_page"]

ImageTable = Shaped[Tensor, "rows columns height width *channels"]

_CELL = 0.6  # inches of an image, at least
_LETTER = 0.08  # inches of a letter of the titles, about


def image_table(
    path: str | Path,
    images: ImageTable,
    *,
    num_levels: int,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> None:
    """Write a picture with one image in each cell of a table.

    Args:
        path: file to write; its ending chooses the format.
        images: levels in ``[0, num_levels)``, grey (with or without an axis for it) or of three channels.
        num_levels: number of levels.
        rows, columns: titles, one each.
        title: title of the picture.

    Raises:
        ConfigError: if matplotlib is missing, or there are not as many titles as rows and columns.
        ShapeError, DomainError: on images that are not as described.
    """
    if images.ndim not in (5, 4) or 0 in images.shape:
        raise ShapeError(
            "images must have shape (rows, columns, height, width) or (rows, columns, height, width, 3), all at least "
            f"1, got {tuple(images.shape)}."
        )
    if (len(rows), len(columns)) != tuple(images.shape[:2]):
        raise ConfigError(
            f"expected a title for each of {images.shape[0]} rows and {images.shape[1]} columns, got {len(rows)} and "
            f"{len(columns)}."
        )
    flat: Images = images.flatten(0, 1)
    check_images([flat], num_levels)
    picture = mosaic(flat, len(columns), num_levels)
    scale = max(1, round(_CELL * DPI / images.shape[3])) / DPI
    height, width = (size * scale for size in picture.shape[:2])
    cell_height, cell_width = ((size + 1) * scale for size in images.shape[2:4])
    left = 2 * MARGIN + _LETTER * max(map(len, rows))
    top = MARGIN + LINE * (2 if title else 1)
    needed = max(left + width, _LETTER * 1.2 * len(title)) + MARGIN
    page = Page(needed, top + height + MARGIN, scale)
    page.text(MARGIN, MARGIN + LINE / 3, title, size=12, weight="bold", ha="left")
    page.image(left, top, picture)
    for row, name in enumerate(rows):
        page.text(left - MARGIN / 2, top + (row + 0.5) * cell_height, name, size=8, ha="right")
    for column, name in enumerate(columns):
        page.text(left + (column + 0.5) * cell_width, top - LINE / 2, name, size=8)
    page.figure.savefig(path, dpi=DPI)


def interpolation_page(
    path: str | Path, images: ImageTable, weights: Sequence[int | float], *, num_levels: int
) -> None:
    """One line a pair of latents: from the first to the second in the steps of ``weights``.

    Args:
        path, num_levels: as for :func:`image_table`.
        images: shape ``(pairs, points, height, width)`` or with channels.
        weights: of the second latent, one a point.

    Raises:
        ConfigError, ShapeError, DomainError: as for :func:`image_table`.
    """
    rows = [f"pair {k + 1}" for k in range(len(images))]
    columns = [f"{weight:.2g}" for weight in weights]
    image_table(path, images, num_levels=num_levels, rows=rows, columns=columns, title="Between two latents")


def traversal_page(
    path: str | Path, images: ImageTable, units: Sequence[str], values: Sequence[int | float], *, num_levels: int
) -> None:
    """One line a unit of the latent, which takes one value after the other while the others stay.

    Args:
        path, num_levels: as for :func:`image_table`.
        images: shape ``(units, values, height, width)`` or with channels.
        units: their names.
        values: in standard deviations from the unit's mean.

    Raises:
        ConfigError, ShapeError, DomainError: as for :func:`image_table`.
    """
    columns = [f"{value:+.2g} sd" for value in values]
    image_table(path, images, num_levels=num_levels, rows=units, columns=columns, title="Most active units")


def latent_mask_page(path: str | Path, images: ImageTable, *, num_levels: int) -> None:
    """Latents against masks: a row shares its latent, a column its masks and the noise of its tokens.

    What stays the same along a row comes from the latent, what stays the same down a column from the masks.

    Args:
        path, num_levels: as for :func:`image_table`.
        images: shape ``(latents, draws, height, width)`` or with channels.

    Raises:
        ConfigError, ShapeError, DomainError: as for :func:`image_table`.
    """
    if images.ndim < 2:
        raise ShapeError(f"images must have shape (latents, draws, height, width), got {tuple(images.shape)}.")
    rows, columns = ([f"{name} {k + 1}" for k in range(n)] for name, n in zip("zm", images.shape[:2], strict=True))
    image_table(path, images, num_levels=num_levels, rows=rows, columns=columns, title="Latents z against masks m")
