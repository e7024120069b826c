"""Pictures of a model of images: samples, what the latent does, and training."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd import RecognitionGuide, VADDModel
from vadd.metrics import nearest_neighbours
from vadd.plotting import image_grid
from vadd.samplers.base import Jump, SamplerState
from vadd.samplers.latent_draw import draw as draw_latents
from vadd.samplers.run import SamplerRun

sys.path.insert(0, str(Path(__file__).resolve().parent))
import image_results  # noqa: E402
from image_data import Data, Preset  # noqa: E402

LINES = 5
BETWEEN = 7  # images of an interpolation, and of a traversal
TRAVERSED = 3.0  # standard deviations to either side
ENCODED = 256  # training images that say which components of the latent are in use
CHUNK = 5000


@dataclass(frozen=True)
class GivenLatents:
    """A latent policy: the same given latents at every step."""

    z: Tensor

    def __call__(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        """The state with these latents."""
        return replace(state, z=self.z, origin=(0,))


def write_pictures(
    folder: Path,
    name: str,
    model: VADDModel,
    guide: RecognitionGuide,
    data: Data,
    preset: Preset,
    args: argparse.Namespace,
) -> None:
    """Write samples, and what the latent does where there is one."""
    write_samples(folder / "samples.png", name, model, data, preset, args)
    if model.has_latent:
        write_latents(folder, name, model, guide, data, min(10, max(preset.steps)), args.seed)


def write_samples(
    path: Path, name: str, model: VADDModel, data: Data, preset: Preset, args: argparse.Namespace
) -> None:
    """Samples by number of steps beside real images, and their nearest training images."""
    shape, num_levels = data.train.image_shape, data.train.num_levels
    samples = {steps: image_results.draw(model, LINES**2, steps, preset, args).cpu() for steps in preset.steps}
    neighbours = {
        f"{name}, {_steps(steps)}": (
            samples[steps].reshape(-1, *shape),
            data.train.images[nearest_training_images(samples[steps], data)].long(),
        )
        for steps in (preset.steps[0], preset.steps[-1])
    }
    image_grid(
        path,
        {name: {_steps(steps): x.reshape(-1, *shape) for steps, x in samples.items()}},
        num_levels=num_levels,
        reference=("real test images", data.test.images[: LINES**2].long()),
        neighbours=neighbours,
        title=f"{data.name}: samples by number of steps",
        per_row=LINES,
    )


def nearest_training_images(samples: Tensor, data: Data) -> Tensor:
    """Rows of the training images that are closest to samples, in pixels; all are searched, some at a time."""
    rows, distances = [], []
    for start in range(0, len(data.train), CHUNK):
        part = data.train.tokens[start : start + CHUNK].long()
        row = nearest_neighbours(samples, part)[:, 0]
        rows.append(start + row)
        distances.append((samples - part[row]).double().norm(dim=-1))
    best = torch.stack(distances).argmin(0)
    return torch.stack(rows).gather(0, best[None])[0]


def write_latents(
    folder: Path, name: str, model: VADDModel, guide: RecognitionGuide, data: Data, num_steps: int, seed: int
) -> None:
    """Latents and masks apart, interpolations between test images, and single components moved."""
    shape, num_levels, device = data.train.image_shape, data.train.num_levels, model.null_latent.device
    x_0 = data.test.tokens[: 2 * LINES].long().to(device)

    def columns(latents: Sequence[Tensor]) -> Tensor:
        """One call a column with the same noise: an image of a line differs from its neighbour by the latent alone."""
        options = {"num_steps": num_steps, "seed": seed, "progress": False}
        samples = [model.sample(len(z), latents=GivenLatents(z), **options) for z in latents]
        return torch.stack(samples, 1).flatten(0, 1).cpu().reshape(-1, *shape)

    def write(kind: str, blocks: dict[str, Tensor], title: str, per_row: int) -> None:
        title = f"{title}, {_steps(num_steps)}"
        options: dict[str, Any] = {"num_levels": num_levels, "title": title, "per_row": per_row}
        image_grid(folder / f"{kind}.png", {name: blocks}, **options, block_width=0.42 * per_row)

    with torch.no_grad():
        hidden = torch.full_like(x_0[:LINES], model.process.mask_id)
        ones = torch.ones(LINES, device=device)
        generator = torch.Generator(device).manual_seed(seed)
        z = draw_latents(model.prior(hidden, ones), generator)
        in_use = guide.encode(data.train.tokens[:ENCODED].long().to(device)).mean
        encoded = guide.encode(x_0).mean
    same_z = model.sample(
        LINES**2,
        num_steps=num_steps,
        seed=seed,
        progress=False,
        latents=GivenLatents(z.repeat_interleave(LINES, 0)),
    )
    blocks = {
        "a line: one z, other masks": same_z.cpu().reshape(-1, *shape),
        "a line: the same masks, other z": columns([row.expand_as(z) for row in z]),
    }
    write("latents", blocks, "Latent and masks", LINES)

    first, last = encoded[:LINES], encoded[LINES:]
    middle = columns([torch.lerp(first, last, w) for w in torch.linspace(0, 1, BETWEEN).tolist()])
    ends = data.test.images[: 2 * LINES].long()
    lines = middle.unflatten(0, (LINES, BETWEEN))
    whole = torch.cat([ends[:LINES, None], lines, ends[LINES:, None]], 1).flatten(0, 1)
    write("interpolation", {"first and last of a line: real": whole}, "Interpolation", BETWEEN + 2)

    flat = in_use.flatten(1)
    spread = flat.std(0)
    units = spread.topk(min(LINES, len(spread))).indices
    moved = []
    for k in torch.linspace(-TRAVERSED, TRAVERSED, BETWEEN).tolist():
        values = encoded[:1].flatten(1).repeat(len(units), 1)
        values[torch.arange(len(units)), units] = flat.mean(0)[units] + k * spread[units]
        moved.append(values.reshape(-1, *encoded.shape[1:]))
    write("traversal", {"a line: one component of z": columns(moved)}, "Traversals", BETWEEN)


def _steps(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"
