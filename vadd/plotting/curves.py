"""Pictures of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vadd.errors import ConfigError, ShapeError
from vadd.plotting.page import DPI, new_figure

__all__ = ["training_curves"]

_COLOURS = ("#c4501b", "#1f5a99", "#3a7d44", "#7a4b9d", "#8a6d1f", "#4a4a4a")


def training_curves(
    path: str | Path,
    histories: Mapping[str, Mapping[str, Sequence[int | float]]],
    *,
    unit: str = "nats per image",
    smoothing: float = 0.02,
    title: str = "",
) -> None:
    """Write a picture of the two parts of a training loss, one line a model.

    Where no model has a latent, and so every KL divergence is zero, the reconstruction stands alone.

    Args:
        path: file to write; its ending chooses the format.
        histories: for each model the equally long sequences ``"step"``, ``"reconstruction"`` and
            ``"kl"``, all finite.
        unit: unit of both parts.
        smoothing: each point is the mean over the surrounding steps, this share of all of them;
            the values themselves stay visible as a pale line. 0 shows the values only.
        title: title of the picture. The axes are scaled to what follows the first twentieth of training.

    Raises:
        ConfigError: if matplotlib is missing, or a history is empty or lacks a part.
        ShapeError: if the sequences of a history differ in length.
    """
    for name, history in histories.items():
        _check_history(name, history)
    parts = {"reconstruction": "Reconstruction", "kl": "KL divergence"}
    if not any(any(history["kl"]) for history in histories.values()):
        del parts["kl"]
    figure = new_figure(4.5 * len(parts), 3.6)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for panel, (key, label) in zip(panels, parts.items(), strict=True):
        for index, (name, history) in enumerate(histories.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            values = torch.as_tensor(history[key], dtype=torch.float64)
            smooth = _running_mean(values, int(smoothing * len(values)) // 2).numpy()
            panel.plot(history["step"], values.numpy(), color=colour, alpha=0.2, linewidth=0.8)
            dot = "o" if len(values) == 1 else ""  # no line can be seen
            panel.plot(history["step"], smooth, color=colour, linewidth=1.8, marker=dot, label=name)
        panel.set_title(label, fontsize=11)
        panel.set_xlabel("training step")
        panel.set_ylabel(unit)
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
        # The first steps dwarf the rest: the axis shows what follows them.
        later = [torch.as_tensor(h[key], dtype=torch.float64)[len(h[key]) // 20 :] for h in histories.values()]
        low, high = float(min(v.min() for v in later)), float(max(v.max() for v in later))
        margin = 0.05 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)
    panels[0].legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=DPI)


def _running_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over the values at most ``radius`` places away; the window is cut at both ends."""
    sums = F.pad(values.cumsum(0), (1, 0))
    index = torch.arange(len(values))
    first, last = (index - radius).clamp(min=0), (index + radius + 1).clamp(max=len(values))
    return (sums[last] - sums[first]) / (last - first)


def _check_history(name: str, history: Mapping[str, Sequence[int | float]]) -> None:
    missing = [key for key in ("step", "reconstruction", "kl") if key not in history]
    if missing:
        raise ConfigError(f"the history of {name!r} lacks {', '.join(missing)}.")
    lengths = {key: len(history[key]) for key in ("step", "reconstruction", "kl")}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise ShapeError(f"the sequences of {name!r} must have one length, at least 1, got {lengths}.")
