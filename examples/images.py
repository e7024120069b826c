"""What the examples on images share: sizes, options, networks, training, and one run from pixels to a report.

A data set of your own is a ``Data`` of three :class:`~vadd.data.ImageTokens` and a ``Preset``; then
``images.run(data, preset, args)``, as ``binarized_mnist_svi.py`` and ``cifar10_svi.py`` do it.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import (
    EmptyRecognition,
    PatchDiTDenoiser,
    PatchDiTRecognition,
    UNetDenoiser,
    UNetRecognition,
)
from vadd.errors import ConfigError, DataError
from vadd.plotting import image_grid, training_curves
from vadd.recipes import Pair, Recipe, get_recipe
from vadd.reporting import write_report
from vadd.schedules import LinearSchedule
from vadd.training import (
    BoundValidation,
    SamplePictures,
    Trainer,
    TrainerConfig,
    TrainingResult,
    read_metrics,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
import image_pictures  # noqa: E402
import image_results  # noqa: E402
from image_data import NUM_CLASSES, Data, Preset, SomeWithoutLabel, rows_of  # noqa: E402


def add_options(parser: argparse.ArgumentParser, presets: Mapping[str, Preset], out: str) -> None:
    """The options of both examples."""
    add = parser.add_argument
    root = os.environ.get("VADD_DATA", "data")
    add("--data-root", type=Path, default=Path(root), help="folder of the images; default $VADD_DATA or ./data")
    add("--download", action="store_true", help="fetch images that are missing, through torchvision")
    add("--preset", choices=tuple(presets), default="cpu", help="size of the run")
    add("--recipe", choices=("default", "paper"), default="default", help="how VADD is trained")
    add("--baseline", choices=("mdm",), help="train the masked diffusion model without a latent instead")
    add("--backbone", choices=("unet", "patch-dit"), default="unet")
    add("--conditional", action="store_true", help="train on class labels, a tenth of the rows without")
    add("--guidance", type=float, default=1.0, help="weight of classifier-free guidance when sampling")
    add("--num-updates", type=int, help="instead of the preset's")
    add("--minutes", type=float, help="of training in this call; the next one goes on")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path(out), help="folder for the results")
    add("--again", action="store_true", help="train anew instead of going on from what is in --out")
    add("--trackers", nargs="*", default=(), choices=("tensorboard", "wandb"))
    add("--fid", action="store_true", help="measure FID by Inception features, which need their weights")
    add("--quiet", action="store_true", help="no progress bars")


def load_or_explain(load: Callable[[], Data], hint: str) -> Data:
    """The data, or the end of the program with one message that says what to do."""
    try:
        return load()
    except DataError as error:
        raise SystemExit(f"error: {error}\nOn the command line: {hint}") from None


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Of the model that was asked for."""
    return get_recipe(args.baseline or args.recipe)


def build(data: Data, preset: Preset, args: argparse.Namespace) -> Pair:
    """Model and guide; the default recipe's recognition network has half the denoiser's width."""
    recipe = recipe_of(args)
    images = data.train
    is_unet = args.backbone == "unet"
    options = dict(preset.unet if is_unet else preset.patch_dit)
    options["num_classes"] = NUM_CLASSES if args.conditional else None
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
        light = {width: options[width] // 2} if recipe.name == "default" else {}
        recognition = make_recognition(images.image_shape, images.num_levels, latent_size, **trunk | light)
    return recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), images.num_levels))


def run_folder(data: Data, preset: Preset, args: argparse.Namespace) -> Path:
    """Of all that belongs to a run; other settings make another one."""
    head = getattr(args, "head", None)
    parts = [data.name, args.preset, recipe_of(args).name, args.backbone, *([head] if head else [])]
    parts += ["conditional"] * args.conditional + ["mirrored"] * data.mirrored
    return args.out / "-".join([*parts, str(_num_updates(preset, args)), f"seed{args.seed}"])


def _num_updates(preset: Preset, args: argparse.Namespace) -> int:
    return preset.num_updates if args.num_updates is None else args.num_updates


def train(data: Data, preset: Preset, args: argparse.Namespace) -> TrainingResult:
    """Optimize the recipe's objective, from where an earlier run stopped; the moving average, ready for sampling."""
    recipe = recipe_of(args)
    num_updates, folder = _num_updates(preset, args), run_folder(data, preset, args)
    if args.again:
        shutil.rmtree(folder, ignore_errors=True)
    pyro.set_rng_seed(args.seed)
    model, guide = build(data, preset, args)
    rows: Any = data.train.dataset(mirrored=data.mirrored, with_labels=args.conditional)
    often = max(num_updates // 10, min(num_updates, 5))
    shown = tuple(steps for steps in (1, 4, 20) if steps <= max(preset.steps))
    trainer = Trainer(
        model,
        guide,
        recipe.objective(model.process),
        SomeWithoutLabel(rows, NUM_CLASSES) if args.conditional else rows,
        TrainerConfig(
            num_updates,
            preset.batch_size,
            seed=args.seed,
            learning_rate=preset.learning_rate,
            weight_decay=0.01,
            ema_decay=preset.ema_decay,
            precision=preset.precision,  # pyright: ignore[reportArgumentType] - checked there
            minutes=preset.minutes if args.minutes is None else args.minutes,
            validate_every=often,
            save_every=min(often, 1000),
        ),
        kl_schedule=recipe.kl_schedule(num_updates),
        validation=BoundValidation(
            **rows_of(data.validation, min(preset.num_rows, preset.num_validation), args),
            num_steps=(1, 4),
            num_latents=min(4, preset.num_latents) if model.has_latent else 1,
            batch_rows=preset.rows_per_call,
        ),
        folder=folder / "training",
        trackers=("csv", *args.trackers),
        progress=not args.quiet,
    )

    def draw(path: Path, samples: dict[str, Tensor]) -> None:
        images = {label: x.reshape(-1, *data.train.image_shape) for label, x in samples.items()}
        image_grid(path, {recipe.name: images}, num_levels=data.train.num_levels)

    labels: dict[str, Any] = (
        {"condition": torch.arange(16, device=trainer.device) % NUM_CLASSES} if args.conditional else {}
    )
    trainer.callbacks.insert(0, SamplePictures(often, draw, num_steps=shown, **labels))
    result = trainer.fit()
    if result.stopped == "signal":
        raise SystemExit(result.exit_code)
    _finish(recipe, result.model, result.guide, data, preset, args)
    return result


def _finish(
    recipe: Recipe, model: VADDModel, guide: RecognitionGuide, data: Data, preset: Preset, args: argparse.Namespace
) -> None:
    device = model.null_latent.device
    training, validation = (
        {name: value.to(device) for name, value in rows_of(images, num, args).items()}
        for images, num in ((data.train, preset.num_refit), (data.validation, preset.num_rows))
    )
    steps = tuple(steps for steps in preset.steps if steps <= 20)  # more of them take the plan of the last
    options = {"num_latents": preset.num_latents, "rows_per_call": preset.rows_per_call}
    recipe.finish(model, guide, validation.pop("x_0"), training=training, num_steps=steps, **options, **validation)


def updates_of(data: Data, preset: Preset, args: argparse.Namespace) -> Callable[[], None]:
    """One update of a fresh pair a call, on the same rows, to see how long it takes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = build(data, preset, args)
    model, guide = (part.to(device) for part in pair)
    objective = recipe_of(args).objective(model.process)
    loss = objective(model, guide)
    parameters = [p for part in pair for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    rows = {name: value.to(device) for name, value in rows_of(data.train, preset.batch_size, args).items()}
    is_half = preset.precision == "bf16"

    def update() -> None:
        drawn = objective.draw(model, **rows)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=is_half):
            value = loss(drawn)
        value.backward()
        optimizer.step()

    return update


def flops_per_update(data: Data, preset: Preset, args: argparse.Namespace, num_rows: int = 4) -> float:
    """Floating-point operations of forward and backward pass, counted on a few rows of a fresh pair."""
    model, guide = build(data, preset, args)
    objective = recipe_of(args).objective(model.process)
    loss = objective(model, guide)
    drawn = objective.draw(model, **rows_of(data.train, num_rows, args))
    with FlopCounterMode(display=False) as counter:
        loss(drawn).backward()
    return counter.get_total_flops() * preset.batch_size / num_rows


def run(data: Data, preset: Preset, args: argparse.Namespace) -> dict[str, Any]:
    """Train, save, evaluate, draw, and write the report; its content."""
    if args.conditional and data.train.labels is None:
        raise SystemExit(f"error: --conditional needs labels, and {data.name} has none.")
    if args.guidance != 1 and not args.conditional:
        raise SystemExit("error: --guidance needs --conditional.")
    if args.fid:  # weights that are missing come up now, not after the training
        try:
            image_results.network_of_features(data, preset, args)
        except (ConfigError, DataError) as error:
            raise SystemExit(f"error: {error}") from None
    start = time.perf_counter()
    name, folder, num_updates = recipe_of(args).name, run_folder(data, preset, args), _num_updates(preset, args)
    result = train(data, preset, args)
    model, guide = result.model, result.guide
    model.save_pretrained(folder / "model", guide=guide, notes={"data": data.name, "update": result.step})
    # Of all calls; a run that was stopped after a few updates has none.
    has_metrics = (folder / "training" / "metrics.csv").exists()
    metrics = read_metrics(folder / "training") if has_metrics else {}
    speed = float(torch.tensor(metrics["sequences_per_second"]["value"]).median()) if metrics else None
    judged = image_results.evaluate(model, guide, data, preset, args)
    image_pictures.write_pictures(folder, name, model, guide, data, preset, args)
    if metrics:
        history = {"step": metrics["kl"]["step"], **{key: metrics[key]["value"] for key in ("reconstruction", "kl")}}
        training_curves(folder / "curves.png", {name: history}, title=f"{data.name}: the two terms of the objective")
    report = {
        "data": data.name,
        "unit": data.unit,
        "model": name,
        "backbone": args.backbone,
        "head": getattr(args, "head", None),
        "conditional": args.conditional,
        "guidance": args.guidance,
        "preset": {"name": args.preset, **asdict(replace(preset, num_updates=num_updates))},
        "updates": result.step,
        "is_finished": result.step == num_updates,
        "parameters": {
            part: sum(p.numel() for p in network.parameters()) for part, network in (("model", model), ("guide", guide))
        },
        "training": {
            "images_per_second": speed,  # median over the log
            "seconds": result.step * preset.batch_size / speed if speed else None,
            "seconds_of_this_call": result.seconds,
            "flops_per_update": flops_per_update(data, preset, args),
        },
        **judged,
    }
    path = write_report("report", report, seed=args.seed, folder=folder, device=model.null_latent.device)
    image_results.print_tables(report)
    print(f"\nwrote the model, pictures and {path}; {time.perf_counter() - start:.0f} s")
    return report
