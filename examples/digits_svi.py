"""Handwritten digits with and without a latent: few-step samples side by side.

Trains the plain masked diffusion model (MDM) and VADD on scikit-learn's 8x8 digits with the same
backbone, number of updates and optimizer, and writes pictures, a table, JSON and checkpoints to
``outputs/digits``. Run ``python examples/digits_svi.py``; ``--recipe paper`` trains VADD as published,
``--smoke`` finishes in seconds.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from pyro.infer import SVI
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.data import DigitTokens, load_digits_tokens
from vadd.evaluation import diagnose_latent, log_likelihood_bound
from vadd.metrics import DigitClassifier, frechet_distance, nearest_neighbours, prdc, train_digit_classifier
from vadd.plotting import image_grid, training_curves
from vadd.recipes import Pair, Recipe, get_recipe
from vadd.reporting import write_report
from vadd.schedules import LinearSchedule
from vadd.training import load_checkpoint, save_checkpoint

STEP_COUNTS = (1, 2, 4, 8, 64)
NUM_VALIDATION = (
    137  # the last training digits, not trained on: the default recipe chooses each jump's latent with them
)


class Trained(NamedTuple):
    """A trained pair (its moving average) and how the training went."""

    model: VADDModel
    guide: RecognitionGuide
    history: dict[str, list[float]]
    seconds: float


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


def train(name: str, data: DigitTokens, recipe: Recipe, args: argparse.Namespace) -> Trained:
    """Optimize the recipe's objective with Pyro's SVI; return the exponential moving average of the weights."""
    pyro.set_rng_seed(args.seed)
    if args.kl_warmup is not None:
        recipe = replace(recipe, kl_warmup=args.kl_warmup)
    model, guide = build(data, recipe, args.latent_size)
    pair = torch.nn.ModuleList([model, guide])
    average = AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    loss = recipe.objective(model.process)
    optimizer = pyro.optim.AdamW({"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 1.0}, clip_args={"clip_norm": 5.0})
    svi = SVI(model, guide, optimizer, loss=loss)
    kl_weight = recipe.kl_schedule(args.num_updates)
    history: dict[str, list[float]] = {"step": [], "reconstruction": [], "kl": []}
    start = time.perf_counter()
    with tqdm(range(args.num_updates), desc=name, disable=args.quiet, mininterval=1.0) as bar:
        for step in bar:
            loss.kl_weight = kl_weight(step)
            rows = torch.randint(len(data.train) - NUM_VALIDATION, (args.batch_size,))
            svi.step(data.train[rows])
            average.update_parameters(pair)
            if step % 10 == 0 and loss.last_terms is not None:
                history["step"].append(step)
                history["reconstruction"].append(loss.last_terms.reconstruction.item())
                history["kl"].append(loss.last_terms.kl.item())
                terms = {key: f"{history[key][-1]:.1f}" for key in ("reconstruction", "kl")}
                bar.set_postfix(terms, refresh=False)
    model, guide = average.module.eval()
    recipe.finish(model, guide, data.train[-NUM_VALIDATION:], num_steps=STEP_COUNTS[:-1])
    return Trained(model, guide, history, time.perf_counter() - start)


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
    parser.add_argument("--num-updates", type=int, default=2500, help="updates of each model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--latent-size", type=int, default=16, help="size of VADD's latent")
    parser.add_argument("--recipe", choices=("default", "paper"), default="default", help="how VADD is trained")
    parser.add_argument(
        "--kl-warmup", type=float, help="updates over which the KL weight rises to 1, as a share; default the recipe's"
    )
    parser.add_argument("--num-latents", type=int, default=16, help="latents inside the bounds' logarithms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_latents = 20, 2
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)

    data = load_digits_tokens()
    classifier = train_digit_classifier(data.train, data.train_labels, seed=args.seed)
    accuracy = classifier.accuracy(data.heldout, data.heldout_labels)
    trained = {
        "MDM": train("MDM", data, get_recipe("mdm"), args),
        "VADD": train("VADD", data, get_recipe(args.recipe), args),
    }

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

    write_pictures(args.out, data, trained, pictures)
    report = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("out", "report", "quiet")},
        "training_seconds": {name: round(result.seconds, 1) for name, result in trained.items()},
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
    trained: dict[str, Trained],
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
    training_curves(
        out / "curves.png",
        {name: result.history for name, result in trained.items()},
        title="Training on digits: the two terms of the objective",
    )


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
