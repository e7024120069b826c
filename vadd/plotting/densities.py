"""Pictures of laws of two tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vadd.errors import DomainError, ShapeError
from vadd.plotting.page import BLOCK, DPI, LINE, MARGIN, SPACE, Page, check_columns

__all__ = ["density_grid"]

Density = Float[Tensor, "first second"]


def density_grid(
    path: str | Path,
    rows: Mapping[str, Mapping[str, Density]],
    *,
    reference: tuple[str, Density],
    title: str = "",
) -> None:
    """Write a picture of laws of two tokens: the true one, and those of models row by row.

    The first token runs to the right and the second upwards. The colour is the square root of the
    probability, so that stray samples show, on one scale for the whole picture that ends at the
    reference's largest value.

    Args:
        path: file to write; its ending chooses the format.
        rows: for each row title (a model) a mapping from column title (``"1 step"``) to
            probabilities, first token along the rows. All rows have the same columns.
        reference: title and probabilities of the block at the left, with which all rows are compared.
        title: title of the picture.

    Raises:
        ConfigError: if matplotlib is missing, or rows have different columns or none.
        ShapeError: if the probabilities do not all have the same shape.
        DomainError: if a probability is negative or not a number.
    """
    columns = check_columns(rows)
    name, truth = reference
    _check_densities([truth, *(p for blocks in rows.values() for p in blocks.values())])
    width_cells, height_cells = truth.shape
    scale = max(1, round(BLOCK * DPI / width_cells)) / DPI
    width, height = width_cells * scale, height_cells * scale
    left = MARGIN + width + SPACE + LINE
    top = MARGIN + LINE * (2 if title else 1)
    page = Page(
        left + len(columns) * (width + SPACE) - SPACE + MARGIN,
        top + len(rows) * (height + SPACE) - SPACE + MARGIN,
        scale,
    )
    page.text(MARGIN, MARGIN + LINE / 3, title, size=12, weight="bold", ha="left")
    limit = float(truth.max().sqrt())

    def draw(x: float, y: float, p: Tensor) -> None:
        page.image(x, y, p.detach().cpu().sqrt().T.flip(0), cmap="Blues", vmax=limit)

    page.text(MARGIN + width / 2, top - LINE / 2, name)
    draw(MARGIN, top, truth)
    for column, heading in enumerate(columns):
        page.text(left + column * (width + SPACE) + width / 2, top - LINE / 2, heading)
    for name, blocks in rows.items():
        page.text(left - LINE / 2, top + height / 2, name, size=9, rotation=90, weight="bold")
        for column, p in enumerate(blocks.values()):
            draw(left + column * (width + SPACE), top, p)
        top += height + SPACE
    page.figure.savefig(path, dpi=DPI)


def _check_densities(densities: Sequence[Tensor]) -> None:
    for p in densities:
        if p.ndim != 2 or p.numel() == 0 or p.shape != densities[0].shape:
            raise ShapeError(
                "probabilities must be matrices, all of one shape, got "
                f"{tuple(p.shape)} beside {tuple(densities[0].shape)}."
            )
        if not bool((p >= 0).all()):
            raise DomainError(f"probabilities must not be negative, got values from {float(p.min()):g}.")
