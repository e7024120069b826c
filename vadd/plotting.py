"""Pictures of samples and of training. Needs matplotlib, which is imported when a picture is made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from vadd.errors import ConfigError, DomainError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["image_grid", "training_curves"]

Images = Shaped[Tensor, "_ height width"]

_COLOURS = ("#c4501b", "#1f5a99", "#3a7d44", "#7a4b9d", "#8a6d1f", "#4a4a4a")
_SEPARATOR = 0.85  # grey of the lines between images, 1 is white
_DPI = 160
_BLOCK = 1.7  # all lengths in inches: about the width of a block of images,
_SPACE = 0.13  # space between blocks,
_LINE = 0.32  # height of a line of titles, and width of the row titles,
_MARGIN = 0.12  # margin of the picture


def image_grid(
    path: str | Path,
    rows: Mapping[str, Mapping[str, Images]],
    *,
    num_levels: int,
    reference: tuple[str, Images] | None = None,
    neighbours: Mapping[str, tuple[Images, Images]] | None = None,
    title: str = "",
    per_row: int = 5,
) -> None:
    """Write a picture that compares models row by row and, say, step counts column by column.

    Args:
        path: file to write; its ending chooses the format, for example ``.png``.
        rows: for each row title (a model) a mapping from column title (``"1 step"``) to images,
            grey levels in ``[0, num_levels)``, drawn as ink on paper. All rows have the same
            columns. A block shows at most ``per_row**2`` images.
        num_levels: number of grey levels, one scale for the whole picture.
        reference: title and images of a tall block at the left, with which all rows are compared.
        neighbours: for each title a pair ``(samples, nearest)`` of equal shapes, shown below the
            blocks in two lines: samples, and under each its nearest training image. As many as
            fit into the width.
        title: title of the picture.
        per_row: images side by side in a block.

    Raises:
        ConfigError: if matplotlib is missing, or rows have different columns or none.
        ShapeError: if images do not all have the same height and width, or pairs do not match.
        DomainError: if a pixel is no grey level.
    """
    columns = _check_columns(rows)
    pairs = dict(neighbours or {})
    shown = [images for blocks in rows.values() for images in blocks.values()]
    shown += [images for pair in pairs.values() for images in pair] + ([reference[1]] if reference else [])
    _check_images(shown, num_levels)
    if per_row < 1:
        raise ConfigError(f"per_row must be at least 1, got {per_row}.")
    for name, (samples, nearest) in pairs.items():
        if samples.shape != nearest.shape:
            raise ShapeError(
                f"neighbours of {name!r} must be pairs of one sample and one image, got shapes "
                f"{tuple(samples.shape)} and {tuple(nearest.shape)}."
            )

    grids = [
        [_mosaic(images[: per_row**2], per_row, num_levels) for images in blocks.values()]
        for blocks in rows.values()
    ]
    # A whole number of dots a pixel, or the lines between images come out unequal.
    scale = max(1, round(_BLOCK * _DPI / grids[0][0].shape[1])) / _DPI
    block = grids[0][0].shape[1] * scale
    height_of = [max(len(grid) for grid in row) * scale for row in grids]
    blocks_height = sum(height_of) + _SPACE * (len(grids) - 1)
    blocks_left = _MARGIN + (block if reference else 0) + _LINE
    width = blocks_left + len(columns) * (block + _SPACE) - _SPACE + _MARGIN
    blocks_top = _MARGIN + _LINE * (2 if title else 1)
    cell_height, cell_width = (size + 1 for size in shown[0].shape[1:])  # with the separating line
    strips = {}
    for name, (samples, nearest) in pairs.items():
        num = min(len(samples), int((width - 2 * _MARGIN) / (cell_width * scale)))
        strips[name] = _mosaic(torch.cat([samples[:num], nearest[:num]]), num, num_levels)
    strips_height = sum(_LINE + _SPACE + len(strip) * scale for strip in strips.values())

    page = _Page(width, blocks_top + blocks_height + strips_height + _MARGIN, scale)
    page.text(_MARGIN, _MARGIN + _LINE / 3, title, size=12, weight="bold", ha="left")
    if reference:
        fitting = int((blocks_height + 1e-6) / (cell_height * scale))
        page.text(_MARGIN + block / 2, blocks_top - _LINE / 2, reference[0])
        page.image(_MARGIN, blocks_top, _mosaic(reference[1][: per_row * fitting], per_row, num_levels))
    for column, name in enumerate(columns):
        page.text(blocks_left + column * (block + _SPACE) + block / 2, blocks_top - _LINE / 2, name)
    top = blocks_top
    for name, row, height in zip(rows, grids, height_of, strict=True):
        page.text(blocks_left - _LINE / 2, top + height / 2, name, rotation=90, weight="bold")
        for column, grid in enumerate(row):
            page.image(blocks_left + column * (block + _SPACE), top, grid)
        top += height + _SPACE
    for name, strip in strips.items():
        caption = f"{name}: samples, and below each its nearest training image"
        page.text(_MARGIN, top + _LINE / 2, caption, ha="left")
        page.image(_MARGIN, top + _LINE, strip)
        top += _LINE + _SPACE + len(strip) * scale
    page.figure.savefig(path, dpi=_DPI)


def training_curves(
    path: str | Path,
    histories: Mapping[str, Mapping[str, Sequence[int | float]]],
    *,
    unit: str = "nats per image",
    smoothing: float = 0.02,
    title: str = "",
) -> None:
    """Write a picture of the two parts of a training loss, one line a model.

    Args:
        path: file to write; its ending chooses the format.
        histories: for each model the equally long sequences ``"step"``, ``"reconstruction"`` and
            ``"kl"``, all finite.
        unit: unit of both parts.
        smoothing: each point is the mean over the surrounding steps, this share of all of them;
            the values themselves stay visible as a pale line. 0 shows the values only.
        title: title of the picture.

    Raises:
        ConfigError: if matplotlib is missing, or a history is empty or lacks a part.
        ShapeError: if the sequences of a history differ in length.
    """
    for name, history in histories.items():
        _check_history(name, history)
    figure = _figure(9.0, 3.6)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    panels = figure.subplots(1, 2)
    for panel, key, label in zip(
        panels, ("reconstruction", "kl"), ("Reconstruction", "KL divergence"), strict=True
    ):
        for index, (name, history) in enumerate(histories.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            values = torch.as_tensor(history[key], dtype=torch.float64)
            smooth = _running_mean(values, int(smoothing * len(values)) // 2).numpy()
            panel.plot(history["step"], values.numpy(), color=colour, alpha=0.2, linewidth=0.8)
            panel.plot(history["step"], smooth, color=colour, linewidth=1.8, label=name)
        panel.set_title(label, fontsize=11)
        panel.set_xlabel("training step")
        panel.set_ylabel(unit)
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    panels[0].legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=_DPI)


class _Page:
    """A figure on which images and text are placed in inches from its top left corner."""

    def __init__(self, width: float, height: float, scale: float) -> None:
        self.width, self.height = (round(size * _DPI) / _DPI for size in (width, height))
        self.figure = _figure(self.width, self.height)
        self.scale = scale

    def image(self, left: float, top: float, grey: Tensor) -> None:
        height, width = (size * self.scale for size in grey.shape)
        left, top = (round(place * _DPI) / _DPI for place in (left, top))
        bottom = self.height - top - height
        axes = self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )
        axes.imshow(grey.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

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


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install matplotlib.") from error
    # Not through pyplot: no display is needed, and no global state is touched.
    return Figure(figsize=(width, height), facecolor="white")


def _mosaic(images: Tensor, per_row: int, num_levels: int) -> Float[Tensor, "height width"]:
    """Images in rows, one pixel apart, as brightness in ``[0, 1]``; empty places are white."""
    grey = 1 - images.detach().cpu().double() / (num_levels - 1)
    framed = F.pad(grey, (0, 1, 0, 1), value=_SEPARATOR)
    num_empty = -len(images) % per_row
    framed = torch.cat([framed, framed.new_ones(num_empty, *framed.shape[1:])])
    lines = framed.unflatten(0, (-1, per_row)).transpose(1, 2).flatten(2).flatten(0, 1)
    return F.pad(lines, (1, 0, 1, 0), value=_SEPARATOR)


def _running_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over the values at most ``radius`` places away; the window is cut at both ends."""
    sums = F.pad(values.cumsum(0), (1, 0))
    index = torch.arange(len(values))
    first, last = (index - radius).clamp(min=0), (index + radius + 1).clamp(max=len(values))
    return (sums[last] - sums[first]) / (last - first)


def _check_columns(rows: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    columns = [list(blocks) for blocks in rows.values()]
    if not columns or not columns[0] or any(names != columns[0] for names in columns):
        raise ConfigError(f"rows must be one or more, all with the same columns, got columns {columns}.")
    return columns[0]


def _check_images(blocks: Sequence[Tensor], num_levels: int) -> None:
    if num_levels < 2:
        raise ConfigError(f"num_levels must be at least 2, got {num_levels}.")
    for images in blocks:
        if images.ndim != 3 or len(images) == 0 or images.shape[1:] != blocks[0].shape[1:]:
            raise ShapeError(
                "images must have shape (num, height, width), at least one in each block and all of one "
                f"size, got {tuple(images.shape)} beside {tuple(blocks[0].shape)}."
            )
        if not bool(((images >= 0) & (images <= num_levels - 1)).all()):
            raise DomainError(
                f"pixels must be grey levels in [0, {num_levels}), got values from {float(images.min()):g} "
                f"to {float(images.max()):g}."
            )


def _check_history(name: str, history: Mapping[str, Sequence[int | float]]) -> None:
    missing = [key for key in ("step", "reconstruction", "kl") if key not in history]
    if missing:
        raise ConfigError(f"the history of {name!r} lacks {', '.join(missing)}.")
    lengths = {key: len(history[key]) for key in ("step", "reconstruction", "kl")}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise ShapeError(f"the sequences of {name!r} must have one length, at least 1, got {lengths}.")
