"""Handwritten digits with and without a latent: few-step samples side by side.

Trains the plain masked diffusion model (MDM) and VADD on scikit-learn's 8x8 digits with the same
backbone, number of updates and optimizer, and writes pictures, a table, JSON and checkpoints to
``outputs/digits``. Run ``python examples/digits_svi.py``; after an interruption the same command goes on,
and takes what was trained to the end as it is (``--again`` trains anew). ``--recipe paper`` trains VADD as
published, ``--smoke`` finishes in seconds.
"""

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyro
import torch

from vadd import MaskingProcess
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.data import DigitTokens, load_digits_tokens
from vadd.evaluation import diagnose_latent, log_likelihood_bound
from vadd.metrics import DigitClassifier, frechet_distance, nearest_neighbours, prdc, train_digit_classifier
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
    load_checkpoint,
    read_metrics,
    save_checkpoint,
)

STEP_COUNTS = (1, 2, 4, 8, 64)
# The last training digits are not trained on: the default recipe chooses each jump's latent with them.
NUM_VALIDATION = 137


def build(data: DigitTokens, recipe: Recipe, latent_size: int) -> Pair:
    """Model and guide; the recipe "mdm" has no latent."""
    num_tokens = data.train.shape[1]
    latent_size = 0 if recipe.name == "mdm" else latent_size
    size = {"hidden_size": 256, "depth": 2, "embedding_size": 4}
    denoiser = MLPDenoiser(
        data.num_levels, num_tokens, latent_size, feature_size=8, dropout=0.4, modulation_size=64, **size
    )
    if recipe.name == "default":
        size["hidden_size"] //= 2  # a light recognition network is enough there
    recognition = (
        MLPRecognition(data.num_levels, num_tokens, latent_size, dropout=0.1, **size)
        if latent_size
        else EmptyRecognition()
    )
    return recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), data.num_levels))


def run_folder(name: str, recipe: Recipe, args: argparse.Namespace) -> Path:
    """Of a model's training; another number of updates or KL schedule is another run."""
    kl_warmup = recipe.kl_warmup if args.kl_warmup is None else args.kl_warmup
    return args.out / "runs" / f"{name.lower()}-{recipe.name}-kl{kl_warmup:g}-{args.num_updates}"


def train(name: str, data: DigitTokens, recipe: Recipe, args: argparse.Namespace) -> TrainingResult:
    """Optimize the recipe's objective, from where an earlier run stopped; the moving average of the weights."""
    folder = run_folder(name, recipe, args)
    if args.again:
        shutil.rmtree(folder, ignore_errors=True)
    if args.kl_warmup is not None:
        recipe = replace(recipe, kl_warmup=args.kl_warmup)
    pyro.set_rng_seed(args.seed)
    model, guide = build(data, recipe, args.latent_size)
    validation = data.train[-NUM_VALIDATION:]

    def draw(path: Path, samples: dict[str, torch.Tensor]) -> None:
        images = {label: x.reshape(-1, *data.image_shape) for label, x in samples.items()}
        image_grid(path, {name: images}, num_levels=data.num_levels)

    often = {"minutes": args.minutes, "validate_every": 500, "save_every": 500}
    update = {"seed": args.seed, "weight_decay": 1.0, "clip_norm": 5.0, "ema_decay": 0.995}
    trainer = Trainer(
        model,
        guide,
        recipe.objective(model.process),
        data.train[:-NUM_VALIDATION],
        TrainerConfig(args.num_updates, args.batch_size, **update, **often),
        kl_schedule=recipe.kl_schedule(args.num_updates),
        validation=BoundValidation(validation, num_steps=(1, 4), num_latents=4 if model.has_latent else 1),
        callbacks=[SamplePictures(500, draw, num_steps=(1, 4))],
        folder=folder,
        trackers=("csv", *args.trackers),
        progress=not args.quiet,
    )
    result = trainer.fit()
    if result.stopped == "signal":
        raise SystemExit(result.exit_code)
    options = {"training": data.train[:-NUM_VALIDATION], "num_steps": STEP_COUNTS[:-1]}
    recipe.finish(result.model.cpu(), result.guide.cpu(), validation, **options)
    return result


def add_training_options(parser: argparse.ArgumentParser, num_updates: int) -> None:
    """What :func:`train` reads, beside the folder ``out``."""
    parser.add_argument("--num-updates", type=int, default=num_updates, help="updates of each model")
    parser.add_argument("--minutes", type=float, help="of training a model; the next run goes on")
    parser.add_argument("--again", action="store_true", help="train anew instead of going on from what is in --out")
    parser.add_argument("--trackers", nargs="*", default=(), choices=("tensorboard", "wandb"))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--latent-size", type=int, default=16, help="size of VADD's latent")
    parser.add_argument(
        "--kl-warmup", type=float, help="updates over which the KL weight rises to 1, as a share; default the recipe's"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def judge(
    samples: list[torch.Tensor], heldout: torch.Tensor, classifier: DigitClassifier
) -> dict[str, dict[str, float]]:
    """Fréchet distance and PRDC in the classifier's features: mean and spread over sets of samples."""
    real = classifier.features(heldout)
    rows = []
    for sample in samples:
        fake = classifier.features(sample)
        rows.append({"frechet": frechet_distance(real, fake), **prdc(real, fake)._asdict()})
    table = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}
    return {
        "mean": {key: float(value.mean()) for key, value in table.items()},
        "sd": {key: float(value.std()) if len(value) > 1 else 0.0 for key, value in table.items()},
    }


def main(argv: list[str] | None = None) -> None:
    """Train both models, sample, judge, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/digits"), help="folder for the results")
    parser.add_argument("--report", type=Path, help="folder for digits.json; default that of the pictures")
    add_training_options(parser, num_updates=2500)
    parser.add_argument("--recipe", choices=("default", "paper"), default="default", help="how VADD is trained")
    parser.add_argument("--num-latents", type=int, default=16, help="latents inside the bounds' logarithms")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_latents = 20, 2
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)

    data = load_digits_tokens()
    classifier = train_digit_classifier(data.train, data.train_labels, seed=args.seed)
    accuracy = classifier.accuracy(data.heldout, data.heldout_labels)
    recipes = {"MDM": get_recipe("mdm"), "VADD": get_recipe(args.recipe)}
    trained = {name: train(name, data, recipe, args) for name, recipe in recipes.items()}

    # As many rows on each side as are held out, so that all distances carry the same bias.
    num_rows, num_sets = len(data.heldout), 3
    floor = [data.train[i * num_rows : (i + 1) * num_rows] for i in range(num_sets)]
    rows = [{"model": "real data", "steps": None, **judge(floor, data.heldout, classifier)}]
    pictures: dict[str, dict[str, torch.Tensor]] = {}
    generator = torch.Generator().manual_seed(args.seed)
    for name, result in trained.items():
        pictures[name] = {}
        for steps in STEP_COUNTS:
            samples = [result.model.sample(num_rows, num_steps=steps, generator=generator) for _ in range(num_sets)]
            bound = log_likelihood_bound(
                result.model,
                result.guide,
                data.heldout,
                bound="finite-step",
                num_steps=steps,
                num_latents=args.num_latents if result.model.has_latent else 1,
                seed=args.seed,
            )
            row = {"nats": bound.nats, "nats_stderr": bound.stderr, "bounds": bound.bounds}
            rows.append({"model": name, "steps": steps, **judge(samples, data.heldout, classifier), **row})
            label = f"{steps} step{'s' if steps > 1 else ''}"
            pictures[name][label] = samples[0][:25].reshape(-1, *data.image_shape)
        save_checkpoint(args.out / f"checkpoint-{name.lower()}", result.model, result.guide, notes={"data": "digits"})

    curves = {}
    for name, recipe in recipes.items():
        metrics = read_metrics(run_folder(name, recipe, args))
        curves[name] = {"step": metrics["kl"]["step"]}
        curves[name].update({term: metrics[term]["value"] for term in ("reconstruction", "kl")})
    write_pictures(args.out, data, curves, pictures)
    report = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("out", "report", "quiet")},
        "updates": {name: result.step for name, result in trained.items()},
        "training_seconds": {name: round(result.seconds, 1) for name, result in trained.items()},  # of this call
        "classifier_heldout_accuracy": accuracy,
        "metric": f"features of a small classifier trained on the training digits; {num_rows} rows a side, {num_sets} "
        "sets of samples; 'real data' compares training rows with held-out ones",
        "latent": str(diagnose_latent(trained["VADD"].model, trained["VADD"].guide, data.heldout)),
        "rows": rows,
    }
    path = write_report("digits", report, seed=args.seed, folder=args.report or args.out)
    print_table(rows)

    # A checkpoint loads without the code that made it.
    restored = load_checkpoint(args.out / "checkpoint-vadd").model.eval()
    restored.sample(1, num_steps=1)
    print(f"\n{report['latent']}")
    print(f"wrote samples.png, curves.png and two checkpoints to {args.out}/, and {path}")
    print(f"total {time.perf_counter() - start:.0f} s; classifier accuracy on held-out digits {accuracy:.3f}")


def write_pictures(
    out: Path,
    data: DigitTokens,
    curves: dict[str, dict[str, list]],
    pictures: dict[str, dict[str, torch.Tensor]],
) -> None:
    """Samples beside real digits and nearest training neighbours; training curves."""
    neighbours = {}
    for name, label in (("MDM", "2 steps"), ("VADD", "1 step"), ("VADD", "2 steps")):
        samples = pictures[name][label][:16]
        nearest = nearest_neighbours(samples.flatten(1), data.train)[:, 0]
        neighbours[f"{name}, {label}"] = (samples, data.train[nearest].reshape(-1, *data.image_shape))
    image_grid(
        out / "samples.png",
        pictures,
        num_levels=data.num_levels,
        reference=("real digits", data.heldout[:50].reshape(-1, *data.image_shape)),
        neighbours=neighbours,
        title="Samples by number of steps: masked diffusion (MDM) and VADD",
    )
    training_curves(out / "curves.png", curves, title="Training on digits: the two terms of the objective")


def print_table(rows: list[dict]) -> None:
    """The table, one row a model and step count."""
    keys = ("frechet", "precision", "recall", "coverage")
    print(f"\n{'model':<10}{'steps':>6}" + "".join(f"{key:>16}" for key in keys) + f"{'bound, nats':>18}")
    for row in rows:
        cells = "".join(f"{row['mean'][key]:>9.2f} ± {row['sd'][key]:.2f}" for key in keys)
        bound = f"{row['nats']:>11.2f} ± {row['nats_stderr']:.2f}" if "nats" in row else ""
        print(f"{row['model']:<10}{row['steps'] or '-':>6}{cells}{bound}")
    print("Fréchet distance in the features of a small digit classifier, and PRDC, on held-out digits;")
    print("bound: upper bound on the negative log-likelihood of the sampler with that many steps.")


if __name__ == "__main__":
    main()
