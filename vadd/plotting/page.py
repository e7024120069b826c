"""What all pictures share: a page, its measures and its layout in rows and columns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from vadd.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLOCK", "DPI", "LINE", "MARGIN", "SPACE", "Page", "check_columns", "new_figure"]

DPI = 160
BLOCK = 1.7  # all lengths in inches: about the width of a block of images,
SPACE = 0.13  # space between blocks,
LINE = 0.32  # height of a line of titles, and width of the row titles,
MARGIN = 0.12  # margin of the picture


class Page:
    """A figure on which blocks of cells and text are placed in inches from its top left corner."""

    def __init__(self, width: float, height: float, scale: float) -> None:
        self.width, self.height = (round(size * DPI) / DPI for size in (width, height))
        self.figure = new_figure(self.width, self.height)
        self.scale = scale

    def image(self, left: float, top: float, values: Tensor, *, cmap: str = "gray", vmax: float = 1.0) -> None:
        """Place a matrix, one cell each value, coloured from 0 to ``vmax``; or one of red, green and blue up to 1."""
        height, width = (size * self.scale for size in values.shape[:2])
        left, top = (round(place * DPI) / DPI for place in (left, top))
        bottom = self.height - top - height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.imshow(values.numpy(), cmap=cmap, vmin=0, vmax=vmax, interpolation="nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color="#cccccc", linewidth=0.5, visible=cmap != "gray")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 10,
        weight: str = "normal",
        ha: str = "center",
        rotation: int = 0,
    ) -> None:
        """Place text, centred vertically, and horizontally unless ``ha`` says otherwise."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size,
            weight=weight,
            ha=ha,
            va="center",
            rotation=rotation,
        )


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install matplotlib.") from error
    # Not through pyplot: no display is needed, and no global state is touched.
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def check_columns(rows: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """The column titles that all rows share."""
    columns = [list(blocks) for blocks in rows.values()]
    if not columns or not columns[0] or any(names != columns[0] for names in columns):
        raise ConfigError(f"rows must be one or more, all with the same columns, got columns {columns}.")
    return columns[0]
