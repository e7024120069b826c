"""Five densities of the plane on two tokens: the joint law, in one step or a few, counted cell by cell.

Trains the plain masked diffusion model, the paper's recipe and the default on each toy with the same backbone, data
and number of updates, and compares the histograms of their samples with the true one. Run
``python examples/toy2d_svi.py``; after an interruption the same command goes on, and takes what was trained to the
end as it is (``--again`` trains anew). ``--smoke`` finishes in seconds.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from vadd import MaskingProcess
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.data import TOY_LIMITS, TOY_NAMES, discretize, sample_toy, toy_probabilities
from vadd.evaluation import log_likelihood_bound
from vadd.metrics import entropy, factorized, jensen_shannon, pair_histogram, validity
from vadd.plotting import density_grid
from vadd.recipes import Pair, Recipe, get_recipe
from vadd.reporting import write_report
from vadd.schedules import LinearSchedule
from vadd.training import BoundValidation, Trainer, TrainerConfig, TrainingResult, warmup_cosine

STEP_COUNTS = (1, 2, 5, 10)  # published are 1 and 5

# A cell counts as support if it is more probable than this, a fortieth of the share that it would have if
# all of 50x50 cells were equally likely. All toys but the checkerboard have normal noise, hence no cell of
# probability zero; at least 99.8 % of the data fall into the support.
SUPPORT_THRESHOLD = 1e-5

MODELS = {"mdm": "MDM", "paper": "VADD, paper's recipe", "default": "VADD, default recipe"}
LATENT_SIZE = 8


def draw(toy: str, num: int, num_bins: int, seed: int) -> Tensor:
    """Points of a toy as pairs of tokens."""
    points = sample_toy(toy, num, torch.Generator().manual_seed(seed))
    return discretize(points, num_bins, TOY_LIMITS)


def recipe_of(name: str, args: argparse.Namespace) -> Recipe:
    """A recipe with the KL warm-up that was asked for, or its own."""
    recipe = get_recipe(name)
    return recipe if args.kl_warmup is None or name == "mdm" else replace(recipe, kl_warmup=args.kl_warmup)


def build(num_bins: int, recipe: Recipe) -> Pair:
    """Model and guide."""
    size = {"hidden_size": 128, "depth": 2, "embedding_size": 32, "modulation_size": 32}
    latent_size = 0 if recipe.name == "mdm" else LATENT_SIZE
    denoiser = MLPDenoiser(num_bins, 2, latent_size, feature_size=32, **size)
    if recipe.name == "default":
        size["hidden_size"] //= 2  # a light recognition network is enough there
    recognition = MLPRecognition(num_bins, 2, latent_size, **size) if latent_size else EmptyRecognition()
    return recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), num_bins))


def train(toy: str, recipe: Recipe, data: Tensor, args: argparse.Namespace) -> TrainingResult:
    """Optimize the recipe's objective, from where an earlier run stopped; the average of the weights, finished."""
    folder = args.out / "runs" / f"{toy}-{recipe.name}-kl{recipe.kl_warmup:g}-{args.num_updates}"
    if args.again:
        shutil.rmtree(folder, ignore_errors=True)
    pyro.set_rng_seed(args.seed)
    model, guide = build(args.num_bins, recipe)
    validation = draw(toy, args.num_validation, args.num_bins, args.seed + 4)
    often = {"minutes": args.minutes, "validate_every": 500, "save_every": 500}
    update = {"seed": args.seed, "learning_rate": args.learning_rate, "clip_norm": None, "ema_decay": 0.995}
    trainer = Trainer(
        model,
        guide,
        recipe.objective(model.process),
        data,
        TrainerConfig(args.num_updates, args.batch_size, **update, **often),
        schedule=warmup_cosine(args.num_updates),
        kl_schedule=recipe.kl_schedule(args.num_updates),
        validation=BoundValidation(validation[:200], num_steps=(1, 2), num_latents=16 if model.has_latent else 1),
        folder=folder,
        trackers=("csv", *args.trackers),
        progress=not args.quiet,
    )
    result = trainer.fit()
    if result.stopped == "signal":
        raise SystemExit(result.exit_code)
    for part in (result.model, result.guide):
        part.cpu()
    pyro.set_rng_seed(args.seed)
    recipe.finish(result.model, result.guide, validation, training=data, num_steps=STEP_COUNTS)
    return result


def judge(samples: Tensor, truth: Tensor) -> dict[str, float]:
    """Divergence of the samples' histogram from the truth, and the share of samples on its support."""
    histogram = pair_histogram(samples, len(truth))
    return {
        "jsd": jensen_shannon(histogram, truth),
        "validity": validity(histogram, truth, threshold=SUPPORT_THRESHOLD),
    }


def evaluate(
    trained: TrainingResult, truth: Tensor, heldout: Tensor, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Figures of one model at each number of steps, and the histograms for the picture."""
    pair, rows, pictures = (trained.model, trained.guide), [], {}
    generator = torch.Generator().manual_seed(args.seed)
    for steps in STEP_COUNTS:
        sizes = [min(10_000, args.num_samples - i) for i in range(0, args.num_samples, 10_000)]
        parts = [trained.model.sample(size, num_steps=steps, generator=generator) for size in sizes]
        samples = torch.cat(parts)
        # With one step no mask is random; with more, one draw of the masks would leave a wide spread.
        num_draws = 1 if steps == 1 else args.num_draws
        bound = log_likelihood_bound(
            *pair, heldout, bound="finite-step", num_steps=steps, num_latents=64, num_draws=num_draws
        )
        figures = {"bound": bound.nats, "bound_stderr": bound.stderr}
        rows.append({"steps": steps, **judge(samples, truth), **figures})
        pictures[f"{steps} step{'s' if steps > 1 else ''}"] = pair_histogram(samples, len(truth))
    delbo = log_likelihood_bound(*pair, heldout, bound="delbo", num_draws=4 * args.num_draws)
    report = {
        "updates": trained.step,
        "seconds": round(trained.seconds, 1),  # of this call
        "delbo": delbo.nats,
        "delbo_stderr": delbo.stderr,
        "by_steps": rows,
    }
    return report, pictures


def run_toy(toy: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train all models on one toy, evaluate them, draw the picture."""
    truth = toy_probabilities(toy, args.num_bins, num_samples=args.num_truth)
    data = draw(toy, args.num_points, args.num_bins, args.seed + 1)
    heldout = draw(toy, args.num_heldout, args.num_bins, args.seed + 2)
    fresh = draw(toy, args.num_samples, args.num_bins, args.seed + 3)
    product = factorized(truth)
    support = truth > SUPPORT_THRESHOLD
    report: dict[str, Any] = {
        "entropy": entropy(truth),
        "support_share_of_cells": float(support.double().mean()),
        "factorized": {
            "jsd": jensen_shannon(product, truth),
            "validity": validity(product, truth, threshold=SUPPORT_THRESHOLD),
        },
        "fresh_data": judge(fresh, truth),
        "models": {},
    }
    pictures = {}
    for name, title in MODELS.items():
        trained = train(toy, recipe_of(name, args), data, args)
        report["models"][name], pictures[title] = evaluate(trained, truth, heldout, args)
    density_grid(
        args.out / f"{toy}.png",
        pictures,
        reference=("truth", truth),
        title=f"{toy.replace('_', ' ').capitalize()}: {args.num_samples:,} samples by number of steps",
    )
    return report


def main(argv: list[str] | None = None) -> None:
    """Run the toys, and write everything down after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", choices=[*TOY_NAMES, "all"], default="all")
    parser.add_argument("--num-bins", type=int, default=50, help="bins of each coordinate, the vocabulary")
    parser.add_argument("--num-updates", type=int, default=3000, help="updates of each model")
    parser.add_argument("--minutes", type=float, help="of training a model; the next run goes on")
    parser.add_argument("--again", action="store_true", help="train anew instead of going on from what is in --out")
    parser.add_argument("--trackers", nargs="*", default=(), choices=("tensorboard", "wandb"))
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--kl-warmup", type=float, help="share of updates over which the KL weight rises to 1")
    parser.add_argument("--num-points", type=int, default=200_000, help="points to train on")
    parser.add_argument("--num-samples", type=int, default=50_000, help="samples of each model and number of steps")
    parser.add_argument("--num-heldout", type=int, default=1000, help="points on which bounds are evaluated")
    parser.add_argument("--num-validation", type=int, default=500, help="points to choose the gate on")
    parser.add_argument("--num-draws", type=int, default=16, help="masks drawn for each such point")
    parser.add_argument("--num-truth", type=int, default=4_000_000, help="points behind the true histogram")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/toy2d"), help="folder for the pictures")
    parser.add_argument("--report", type=Path, help="folder for toy2d.json; default that of the pictures")
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_samples, args.num_truth = 10, 1000, 100_000
        args.num_heldout, args.num_draws, args.num_points, args.num_validation = 8, 1, 1000, 20
    args.out.mkdir(parents=True, exist_ok=True)

    results: dict[str, Any] = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("out", "report", "quiet")},
        "units": "nats a pair of tokens; validity is a share of samples",
        "jsd": f"between the histogram of {args.num_samples} samples and the truth, the histogram of "
        f"{args.num_truth} points (exact for the checkerboard), {args.num_bins}x{args.num_bins} bins; "
        "fresh_data is the two-draw floor, factorized that of independent tokens",
        "support": f"cells of true probability above {SUPPORT_THRESHOLD}",
        "bound": "finite-step, of the model's own sampler in that number of steps; 64 latents inside the logarithm",
        "toys": {},
    }
    for toy in TOY_NAMES if args.toy == "all" else [args.toy]:
        report = results["toys"][toy] = run_toy(toy, args)
        print_table(toy, report)
        write_report("toy2d", results, seed=args.seed, folder=args.report or args.out)
    print(f"\nwrote pictures to {args.out}/ and toy2d.json to {args.report or args.out}/")


def print_table(toy: str, report: dict[str, Any]) -> None:
    """Divergence, validity and bounds of one toy, one row a model and step count."""
    print(f"\n{toy}: entropy {report['entropy']:.3f} nats")
    print(f"{'model':<22}{'steps':>6}{'JSD':>9}{'validity':>10}{'bound (nats)':>18}")
    for name, key in (("factorized sampler", "factorized"), ("fresh data", "fresh_data")):
        print(f"{name:<22}{'-':>6}{report[key]['jsd']:>9.4f}{report[key]['validity']:>10.1%}")
    for name, model in report["models"].items():
        for row in model["by_steps"]:
            bound = f"{row['bound']:.3f} ± {row['bound_stderr']:.3f}"
            print(f"{MODELS[name]:<22}{row['steps']:>6}{row['jsd']:>9.4f}{row['validity']:>10.1%}{bound:>18}")
        delbo = f"DELBO {model['delbo']:.3f} ± {model['delbo_stderr']:.3f}"
        note = "" if name == "mdm" else ", no bound on the likelihood"
        print(f"{'':<22}{delbo}{note}; {model['updates']} updates")


if __name__ == "__main__":
    main()
