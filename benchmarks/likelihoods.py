"""Every bound of the evaluation suite, for MDM and VADD with one backbone, on digits and two toys.

Trains both models as the examples do and evaluates them on held-out data: the finite-step bound at
several step counts with 1 and with 64 latents, the bounds of other samplers, the one-jump conditional
likelihood by mask ratio, and the published metric (DELBO) under its own name. Writes
``results/likelihoods.json`` and two pictures to ``docs/figures``.
"""

import argparse
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vadd import RecognitionGuide, VADDModel
from vadd.data import load_digits_tokens, toy_probabilities
from vadd.evaluation import BoundResult, diagnose_latent, log_likelihood_bound
from vadd.metrics import entropy
from vadd.recipes import get_recipe
from vadd.reporting import write_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import digits_svi  # noqa: E402
import toy2d_svi  # noqa: E402
from pictures_shared import DPI, save  # noqa: E402

STEPS = (1, 2, 4, 8, 16, 64)
RATIOS = (0.125, 0.25, 0.5, 0.75, 0.875, 1.0)
NUM_LATENTS = 64
COLOURS = {"MDM": "#c4501b", "VADD": "#1f5a99"}

Pair = tuple[VADDModel, RecognitionGuide]


def train_digits(args: Namespace) -> tuple[dict[str, Pair], Tensor, float | None]:
    """Pairs trained on the digits, held-out digits, and no entropy: it is unknown."""
    data = load_digits_tokens()
    options = Namespace(
        num_updates=20 if args.smoke else 2500,
        batch_size=128,
        latent_size=16,
        kl_warmup=0.7,
        seed=args.seed,
        quiet=args.quiet,
        out=ROOT / "outputs" / "likelihoods",
        again=True,
        minutes=None,
        trackers=(),
    )
    pairs = {}
    for name, recipe in (("MDM", "mdm"), ("VADD", "paper")):
        trained = digits_svi.train(name, data, get_recipe(recipe), options)
        pairs[name] = (trained.model, trained.guide)
    return pairs, data.heldout[: args.num_rows], None


def train_toy(toy: str, args: Namespace) -> tuple[dict[str, Pair], Tensor, float]:
    """Pairs trained on a toy, held-out points, and the entropy of the toy."""
    options = Namespace(
        num_updates=20 if args.smoke else 3000,
        num_validation=500,
        num_bins=50,
        batch_size=512,
        learning_rate=2e-3,
        kl_warmup=0.3,
        seed=args.seed,
        quiet=args.quiet,
        out=ROOT / "outputs" / "likelihoods",
        again=True,
        minutes=None,
        trackers=(),
    )
    data = toy2d_svi.draw(toy, 200_000, options.num_bins, args.seed + 1)
    heldout = toy2d_svi.draw(toy, args.num_rows, options.num_bins, args.seed + 2)
    pairs = {}
    for name, recipe in (("MDM", "mdm"), ("VADD", "paper")):
        trained = toy2d_svi.train(toy, toy2d_svi.recipe_of(recipe, options), data, options)
        pairs[name] = (trained.model, trained.guide)
    return pairs, heldout, entropy(toy_probabilities(toy, options.num_bins))


def figures(pair: Pair, x_0: Tensor, seed: int) -> dict[str, Any]:
    """All bounds of one pair, nats per sequence."""

    def bound(kind: str, num_latents: int = 1, **options: Any) -> BoundResult:
        return log_likelihood_bound(*pair, x_0, bound=kind, num_latents=num_latents, seed=seed, **options)

    latents = NUM_LATENTS if pair[0].has_latent else 1
    steps = [step for step in STEPS if step <= x_0.shape[1]] if x_0.shape[1] > 2 else list(STEPS)
    results = {
        **{f"finite-step, T={t}, K=1": bound("finite-step", num_steps=t, num_draws=2) for t in steps},
        **{f"finite-step, T={t}": bound("finite-step", latents, num_steps=t, num_draws=2) for t in steps},
        # For the MDM too the logarithm holds that many trajectories: it averages over the order of revelation.
        **{f"shared-latent, T={t}": bound("shared-latent", NUM_LATENTS, num_steps=t) for t in steps},
        "marginal": bound("marginal", latents, num_draws=16),
        "continuous": bound("continuous", num_draws=16),
        "delbo": bound("delbo", num_draws=16),
    }
    table = {
        name: {"nats": r.nats, "stderr": r.stderr, "latents": r.num_latents, "bounds": r.bounds}
        for name, r in results.items()
    }
    conditional = []
    for ratio in RATIOS:
        result = bound("conditional", latents, mask_ratio=ratio)
        conditional.append({"mask_ratio": ratio, "bits_per_token": result.bits_per_dim})
    report = {"bounds": table, "conditional": conditional}
    if pair[0].has_latent:
        report["latent"] = str(diagnose_latent(*pair, x_0, seed=seed))
    return report


def paired_difference(pairs: dict[str, Pair], x_0: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Finite-step bound of VADD minus that of the MDM with the same masks: negative favours VADD."""
    rows = {}
    for t in STEPS:
        values = []
        for model, guide in pairs.values():
            latents = NUM_LATENTS if model.has_latent else 1
            result = log_likelihood_bound(
                model, guide, x_0, bound="finite-step", num_steps=t, num_latents=latents, num_draws=2, seed=seed
            )
            values.append(result.nats_per_sequence)
        gap = values[1] - values[0]
        rows[str(t)] = {"nats": float(gap.mean()), "stderr": float(gap.std() / math.sqrt(len(gap)))}
    return rows


def panels(results: dict[str, Any]) -> "tuple[Figure, list[Axes]]":
    """A figure with a panel a data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 3.6), dpi=DPI, layout="constrained")
    found = list(figure.subplots(1, len(results), squeeze=False)[0])
    for axes, data in zip(found, results, strict=True):
        axes.set_title(data.replace("_", " "))
        axes.grid(alpha=0.3)
    return figure, found


def draw_by_steps(results: dict[str, Any]) -> "Figure":
    """The finite-step bound against the number of steps, the DELBO and the entropy beside it."""
    figure, found = panels(results)
    for axes, result in zip(found, results.values(), strict=True):
        for name, report in result["models"].items():
            bounds, colour = report["bounds"], COLOURS[name]
            rows = {t: bounds[f"finite-step, T={t}"] for t in STEPS if f"finite-step, T={t}" in bounds}
            nats, errors = [row["nats"] for row in rows.values()], [2 * row["stderr"] for row in rows.values()]
            axes.errorbar(list(rows), nats, errors, marker="o", color=colour, label=f"{name}: bound")
            if name == "VADD":
                axes.axhline(bounds["delbo"]["nats"], color=colour, ls=":", label="VADD: DELBO (no bound)")
        if result["entropy"] is not None:
            axes.axhline(result["entropy"], color="black", lw=0.8, label="entropy of the data")
        axes.set(xscale="log", xlabel="steps T", ylabel="nats per sequence")
        axes.set_xticks(STEPS, [str(t) for t in STEPS])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    return figure


def draw_by_ratio(results: dict[str, Any]) -> "Figure":
    """The conditional likelihood against the mask ratio."""
    figure, found = panels(results)
    for axes, result in zip(found, results.values(), strict=True):
        for name, report in result["models"].items():
            ratios, bits = ([row[key] for row in report["conditional"]] for key in ("mask_ratio", "bits_per_token"))
            axes.plot(ratios, bits, marker="o", color=COLOURS[name], label=name)
        axes.set(xlabel="share of tokens masked", ylabel="bits per masked token")
        axes.legend(fontsize=8)
    return figure


PICTURES = {"bound_by_steps": draw_by_steps, "conditional_by_ratio": draw_by_ratio}


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-rows", type=int, default=360, help="held-out sequences")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures", help="folder of the pictures")
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_rows = 8
    results: dict[str, Any] = {}
    trainers = {
        "digits": lambda: train_digits(args),
        "checkerboard": lambda: train_toy("checkerboard", args),
        "swiss_roll": lambda: train_toy("swiss_roll", args),
    }
    for name, train in trainers.items():
        pairs, x_0, data_entropy = train()
        results[name] = {
            "entropy": data_entropy,
            "rows": len(x_0),
            "models": {label: figures(pair, x_0, args.seed) for label, pair in pairs.items()},
            "vadd_minus_mdm": paired_difference(pairs, x_0, args.seed),
        }
        print_table(name, results[name])
        write_report("likelihoods", results, seed=args.seed, folder=args.out)
    for picture, draw in PICTURES.items():
        save(draw(results), args.figures / f"{picture}.png", "likelihoods", results)


def print_table(name: str, result: dict[str, Any]) -> None:
    """All bounds, the models side by side."""
    known = "unknown" if result["entropy"] is None else f"{result['entropy']:.3f} nats"
    print(f"\n{name}: entropy of the data {known}, {result['rows']} held-out rows")
    models = result["models"]
    print(f"{'bound':<28}" + "".join(f"{model:>18}" for model in models))
    for bound in next(iter(models.values()))["bounds"]:
        cells = (report["bounds"][bound] for report in models.values())
        print(f"{bound:<28}" + "".join(f"{cell['nats']:>10.3f} ± {cell['stderr']:.3f}" for cell in cells))
    print(models["VADD"]["latent"])


if __name__ == "__main__":
    main()
