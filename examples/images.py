"""What the examples on images share: sizes, options, networks, training, and one run from pixels to a report.

A data set of your own is a ``Data`` of three :class:`~vadd.data.ImageTokens` and a ``Preset``; then
``images.run(data, preset, args)``, as ``binarized_mnist_svi.py`` and ``cifar10_svi.py`` do it.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from vadd import MaskingProcess
from vadd.backbones import (
    EmptyRecognition,
    PatchDiTDenoiser,
    PatchDiTRecognition,
    UNetDenoiser,
    UNetRecognition,
)
from vadd.plotting import image_grid, training_curves
from vadd.recipes import Pair
from vadd.reporting import write_report
from vadd.schedules import LinearSchedule
from vadd.training import TrainingResult

sys.path.insert(0, str(Path(__file__).resolve().parent))
import image_pictures  # noqa: E402
import image_results  # noqa: E402
import runs  # noqa: E402
from image_data import Data, Preset, SomeWithoutLabel, rows_of  # noqa: E402
from runs import num_updates_of, recipe_name, recipe_of  # noqa: E402

COUNTED = 4  # rows on which operations are counted


def add_options(parser: argparse.ArgumentParser, presets: Mapping[str, Preset], out: str) -> None:
    """The options of both examples."""
    add = parser.add_argument
    root = os.environ.get("VADD_DATA", "data")
    add("--data-root", type=Path, default=Path(root), help="folder of the images; default $VADD_DATA or ./data")
    add(
        "--download",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fetch images that are missing, through torchvision",
    )
    runs.add_options(parser, tuple(presets), out)
    add("--backbone", choices=("unet", "patch-dit"), default="unet")
    add("--conditional", action="store_true", help="train on class labels, a tenth of the rows without")
    add("--guidance", type=float, default=1.0, help="weight of classifier-free guidance when sampling")
    add("--fid", action="store_true", help="measure FID by Inception features, which need their weights")
    add(
        "--classifier",
        type=Path,
        metavar="FOLDER",
        help="measure distances in the features of the one that benchmarks/train_classifier.py left there",
    )


def build(data: Data, preset: Preset, args: argparse.Namespace) -> Pair:
    """Model and guide; the default recipe's recognition network has half the denoiser's width."""
    recipe = recipe_of(args)
    images = data.train
    is_unet = args.backbone == "unet"
    options = dict(preset.unet if is_unet else preset.patch_dit)
    options["num_classes"] = data.num_classes if args.conditional else None
    if is_unet:  # the paper's latent enters next to the time alone
        options["latent_map"] = recipe.name != "paper"
    latent_size = 0 if recipe.name == "mdm" else preset.latent_size
    own = {"head": args.head} if getattr(args, "head", None) else {}
    make_denoiser, make_recognition = (
        (UNetDenoiser, UNetRecognition) if is_unet else (PatchDiTDenoiser, PatchDiTRecognition)
    )
    denoiser = make_denoiser(images.image_shape, images.num_levels, latent_size, **options, **own)
    if not latent_size:
        recognition: Any = EmptyRecognition()
    else:
        width = "channels" if is_unet else "hidden_size"
        trunk = {name: value for name, value in options.items() if name != "feature_size"}  # that is of the head
        light = {width: options[width] // 2} if recipe.name != "paper" else {}
        recognition = make_recognition(images.image_shape, images.num_levels, latent_size, **trunk | light)
    return recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), images.num_levels))


def run_folder(data: Data, preset: Preset, args: argparse.Namespace) -> Path:
    """Of all that belongs to a run; other settings make another one."""
    head = getattr(args, "head", None)
    parts = [data.name, args.preset, recipe_name(args), args.backbone, *([head] if head else [])]
    parts += ["conditional"] * args.conditional + ["mirrored"] * data.mirrored
    return args.out / "-".join([*parts, str(num_updates_of(preset, args)), f"seed{args.seed}"])


def train(data: Data, preset: Preset, args: argparse.Namespace, folder: Path) -> TrainingResult:
    """Train and finish, from where an earlier run stopped; the moving average, ready for sampling."""
    pyro.set_rng_seed(args.seed)
    pair = build(data, preset, args)
    rows: Any = data.train.dataset(mirrored=data.mirrored, with_labels=args.conditional)
    validation = rows_of(data.validation, preset.num_validation, args)

    def draw(path: Path, samples: dict[str, Tensor]) -> None:
        images = {label: image_pictures.to_images(x, data) for label, x in samples.items()}
        image_grid(path, {recipe_of(args).name: images}, num_levels=data.train.num_levels)

    result = runs.fit(
        pair,
        SomeWithoutLabel(rows, data.num_classes) if args.conditional else rows,
        preset,
        args,
        folder,
        validation=validation,
        draw=draw,
        **({"condition": torch.arange(16) % data.num_classes} if args.conditional else {}),
    )
    runs.finish(result, rows_of(data.train, preset.num_refit, args), validation, preset, args)
    return result


def updates_of(data: Data, preset: Preset, args: argparse.Namespace) -> Callable[[], None]:
    """One update of a fresh pair a call, to see how long it takes."""
    rows = rows_of(data.train, preset.batch_size, args)
    return runs.updates_of(build(data, preset, args), rows, args, runs.precision_of(preset, args))


def run(data: Data, preset: Preset, args: argparse.Namespace) -> dict[str, Any]:
    """Train, save, evaluate, draw, and write the report; its content."""
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    if unlabelled := [name for name, part in parts.items() if part.labels is None and args.conditional]:
        raise SystemExit(
            f"error: --conditional needs labels, and {', '.join(unlabelled)} images of {data.name} have none."
        )
    if args.guidance != 1 and not args.conditional:
        raise SystemExit("error: --guidance needs --conditional.")
    if not 0 <= args.guidance < math.inf:
        raise SystemExit(f"error: --guidance must be a number of at least 0, got {args.guidance}.")
    if args.fid and args.classifier:
        raise SystemExit("error: --fid and --classifier name two networks of features: give one.")
    with runs.explained():
        if args.fid or args.classifier:  # what is missing comes up now, not after the training
            image_results.network_of_features(data, preset, args)
        elif reason := image_results.why_no_classifier(data):
            print(f"note: no distances will be measured: {reason}", file=sys.stderr)
        folder = runs.make_folder(run_folder(data, preset, args), preset, args)
        return _run(data, preset, args, folder)


def _run(data: Data, preset: Preset, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    start, name = time.perf_counter(), recipe_of(args).name
    result = train(data, preset, args, folder)
    model, guide = result.model, result.guide
    model.save_pretrained(folder / "model", guide=guide, notes={"data": data.name, "update": result.step})
    judged = image_results.evaluate(model, guide, data, preset, args)
    image_pictures.write_pictures(folder, name, model, guide, data, preset, args)
    if history := runs.history_of(folder):
        training_curves(folder / "curves.png", {name: history}, title=f"{data.name}: terms of the objective")
    num_updates = num_updates_of(preset, args)
    few = rows_of(data.train, COUNTED, args)
    flops = runs.flops_per_update(build(data, preset, args), few, args) * preset.batch_size / COUNTED
    report = {
        "data": data.name,
        "unit": data.unit,
        "model": name,
        "options": runs.options_of(args),
        "preset": {
            "name": args.preset,
            **asdict(replace(preset, num_updates=num_updates, precision=runs.precision_of(preset, args))),
        },
        "updates": result.step,
        "is_finished": result.step == num_updates,
        "parameters": runs.parameters_of(Pair(model, guide)),
        "training": runs.training_figures(folder, result, preset, flops),
        **judged,
    }
    path = write_report("report", report, seed=args.seed, folder=folder, device=model.null_latent.device)
    image_results.print_tables(report)
    print(f"\nwrote the model, pictures and {path}; {time.perf_counter() - start:.0f} s")
    return report
