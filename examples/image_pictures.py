"""Pictures of a model of images: samples, what the latent does, and training."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from vadd import RecognitionGuide, VADDModel
from vadd.evaluation import latent_pages
from vadd.metrics import nearest_neighbours
from vadd.plotting import image_grid, interpolation_page, latent_mask_page, traversal_page

sys.path.insert(0, str(Path(__file__).resolve().parent))
import image_results  # noqa: E402
from image_data import Data, Preset, rows_of  # noqa: E402

LINES = 5
ENCODED = 256  # training images that say which components of the latent are in use
CHUNK = 5000


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
        write_latents(folder, model, guide, data, min(10, max(preset.steps)), args)


def write_samples(
    path: Path, name: str, model: VADDModel, data: Data, preset: Preset, args: argparse.Namespace
) -> None:
    """Samples by number of steps beside real images, and their nearest training images."""
    samples = {steps: image_results.draw(model, LINES**2, steps, preset, args).cpu() for steps in preset.steps}
    neighbours = {
        f"{name}, {title_of(steps)}": (
            to_images(samples[steps], data),
            to_images(nearest_training_images(samples[steps], data), data),
        )
        for steps in (preset.steps[0], preset.steps[-1])
    }
    image_grid(
        path,
        {name: {title_of(steps): to_images(x, data) for steps, x in samples.items()}},
        num_levels=data.train.num_levels,
        reference=("real test images", to_images(data.test.tokens[: LINES**2].long(), data)),
        neighbours=neighbours,
        title=f"{data.name}: samples by number of steps",
        per_row=LINES,
    )


def to_images(tokens: Tensor, data: Data) -> Tensor:
    """Tokens as images to look at: grey, red-green-blue, or for other numbers of channels these side by side."""
    images = tokens.reshape(*tokens.shape[:-1], *data.train.image_shape)
    if len(data.train.image_shape) == 2 or images.shape[-1] in (1, 3):
        return images
    return images.transpose(-1, -2).flatten(-2)


def nearest_training_images(samples: Tensor, data: Data) -> Tensor:
    """Of all training images, mirrored ones too where these are trained on, the closest to each sample, in pixels."""
    best, distance = torch.zeros_like(samples), torch.full((len(samples),), torch.inf, dtype=torch.float64)
    for start in range(0, len(data.train), CHUNK):
        part = data.train.tokens[start : start + CHUNK].long()
        for candidates in (part, _mirrored(part, data)) if data.mirrored else (part,):
            found = candidates[nearest_neighbours(samples, candidates)[:, 0]]
            there = (samples - found).double().norm(dim=-1)
            best[there < distance] = found[there < distance]
            distance = torch.minimum(distance, there)
    return best


def _mirrored(tokens: Tensor, data: Data) -> Tensor:
    return tokens.reshape(-1, *data.train.image_shape).flip(2).flatten(1)


def write_latents(
    folder: Path, model: VADDModel, guide: RecognitionGuide, data: Data, num_steps: int, args: argparse.Namespace
) -> None:
    """Latents and masks apart, interpolations between training images, and single components moved."""
    rows = {name: x.to(model.null_latent.device) for name, x in rows_of(data.train, ENCODED, args).items()}
    units = min(LINES, model.latent_shape.numel())
    pages = latent_pages(model, guide, **rows, num_steps=num_steps, num_units=units, seed=args.seed)

    def table(tokens: Tensor) -> Tensor:
        return to_images(tokens.cpu(), data)

    levels = {"num_levels": data.train.num_levels}
    latent_mask_page(folder / "latents.png", table(pages.latents_by_masks), **levels)
    interpolation_page(folder / "interpolation.png", table(pages.interpolations), pages.weights.tolist(), **levels)
    names = [f"z {unit}" for unit in pages.units]
    traversal_page(folder / "traversal.png", table(pages.traversals), names, pages.values.tolist(), **levels)


def title_of(steps: int) -> str:
    """A column's title."""
    return f"{steps} step{'s' if steps > 1 else ''}"
