"""Quality of samples against network calls, for every sampler, with and without a latent.

Samples scikit-learn's 8x8 digits from the masked diffusion model (MDM) and VADD (the default recipe) with all
methods of the library but ``static``, which samples as ``ancestral`` does, and writes a plot, a table and JSON to
``outputs/steps_vs_quality``. Network calls are counted row by row: methods that leave out rows pay only for the others.
Run ``python examples/steps_vs_quality.py``;
most of its minutes are training. ``--checkpoint outputs/digits`` takes the models that ``examples/digits_svi.py``
trained; ``--smoke`` finishes in seconds.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vadd import VADDModel
from vadd.data import load_digits_tokens
from vadd.metrics import train_digit_classifier
from vadd.reporting import write_report
from vadd.samplers import EntropyBoundedSampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))
import digits_svi  # noqa: E402
import infill  # noqa: E402

STEP_COUNTS = (1, 2, 4, 8, 16, 32, 64)
ENTROPY_BOUNDS = (0.0, 1.0, 4.0, 16.0, 64.0)  # nats; all tokens independent have at most 64 log 17 = 181
STYLES = {
    "ancestral": {"color": "#1f5a99", "marker": "o"},
    "cached": {"color": "#5b9bd5", "marker": "s", "linestyle": "--"},
    "first-hitting": {"color": "#3a7d44", "marker": "^", "linestyle": "--"},
    "confidence": {"color": "#c4501b", "marker": "v"},
    "entropy-bounded": {"color": "#8a6d1f", "marker": "D"},
    "remasking": {"color": "#7a4b9d", "marker": "P"},
    "predictor-corrector": {"color": "#4a4a4a", "marker": "X"},
}


def settings(step_counts: tuple[int, ...]) -> list[tuple[str, str, dict[str, Any]]]:
    """Methods, how each is set, and the options of ``sample``."""
    chosen = []
    for method in STYLES:
        if method == "entropy-bounded":
            chosen += [
                (method, f"{g:g} nats", {"method": EntropyBoundedSampler(g), "latents": "shared"})
                for g in ENTROPY_BOUNDS
            ]
            continue
        options = [(f"{t} step{'s' if t > 1 else ''}", {"method": method, "num_steps": t}) for t in step_counts]
        if method == "first-hitting":
            options.append(("one by one", {"method": method, "latents": "shared"}))
        chosen += [(method, name, option) for name, option in options]
    return chosen


@contextmanager
def counting(model: VADDModel) -> Iterator[list[int]]:
    """The numbers of rows that the network is given, call by call."""
    rows: list[int] = []
    inner = model.denoise

    def denoise(x_t: torch.Tensor, *args: Any, **options: Any) -> Any:
        rows.append(len(x_t))
        return inner(x_t, *args, **options)

    model.denoise = denoise
    try:
        yield rows
    finally:
        del model.denoise


def draw(results: dict[str, Any]) -> "Figure":
    """Fréchet distance against network calls, a panel a model, from what the report has."""
    from matplotlib.figure import Figure

    rows, floor = results["rows"], results["real"]["mean"]["frechet"]
    names = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(10.5, 4.6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    panels = figure.subplots(1, len(names), sharex=True, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for method, style in STYLES.items():
            mine = [row for row in rows if (row["model"], row["method"]) == (name, method)]
            mine.sort(key=lambda row: row["calls"])
            calls, distances = [row["calls"] for row in mine], [row["mean"]["frechet"] for row in mine]
            panel.plot(calls, distances, label=method, linewidth=1.5, markersize=5, **style)
        panel.axhline(floor, color="#999999", linestyle=":", label="real data")
        panel.set(xscale="log", yscale="log", xlabel="network calls a sequence", title=name)
        panel.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
        panel.set_yticks([3, 5, 10, 20, 50, 100, 200], ["3", "5", "10", "20", "50", "100", "200"])
        panel.minorticks_off()
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Fréchet distance, classifier features")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle("Digits: quality against network calls", fontsize=12, fontweight="bold")
    return figure


def print_table(rows: list[dict[str, Any]], real: dict[str, Any]) -> None:
    """One line a model, method and setting."""
    print(f"\n{'model':<7}{'method':<21}{'setting':<12}{'calls':>7}{'Fréchet':>16}{'precision':>11}{'recall':>8}")
    for row in [*rows, {"model": "real", "method": "", "setting": "", "calls": 0.0, **real}]:
        mean, sd = row["mean"], row["sd"]
        line = f"{row['model']:<7}{row['method']:<21}{row['setting']:<12}{row['calls']:>7.1f}"
        line += f"{mean['frechet']:>9.2f} ± {sd['frechet']:.2f}{mean['precision']:>11.2f}{mean['recall']:>8.2f}"
        print(line)
    print("calls: rows that the network reads, divided by sequences; Fréchet distance and PRDC in the features of a")
    print("small digit classifier, on held-out digits.")


def main(argv: list[str] | None = None) -> None:
    """Train or load, sample with every method, judge, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/steps_vs_quality"), help="folder for the results")
    parser.add_argument("--report", type=Path, help="folder for steps_vs_quality.json; default that of the plot")
    parser.add_argument("--num-sets", type=int, default=2, help="sets of samples for each setting")
    infill.add_training_options(parser)
    args = parser.parse_args(argv)
    step_counts = STEP_COUNTS
    if args.smoke:
        args.num_updates, args.num_sets, step_counts = 20, 1, (1, 4)
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)

    data = load_digits_tokens()
    pairs = infill.trained_pairs(data, args)
    classifier = train_digit_classifier(data.train, data.train_labels, seed=args.seed)
    # As many rows on each side as are held out, so that all distances carry the same bias.
    num_rows = len(data.heldout)
    floor = [data.train[i * num_rows : (i + 1) * num_rows] for i in range(3)]
    real = digits_svi.judge(floor, data.heldout, classifier)
    rows = []
    for name, pair in pairs.items():
        for method, setting, options in settings(step_counts):
            with counting(pair.model) as seen:
                samples = [pair.model.sample(num_rows, seed=args.seed + k, **options) for k in range(args.num_sets)]
            calls = sum(seen) / (args.num_sets * num_rows)
            judged = digits_svi.judge(samples, data.heldout, classifier)
            rows.append({"model": name, "method": method, "setting": setting, "calls": calls, **judged})
    print_table(rows, real)
    gate = pairs["VADD"].model.gate
    report = {
        "num_sets": args.num_sets,
        "num_rows": num_rows,
        "num_updates": args.num_updates if args.checkpoint is None else None,
        "gate": None if gate is None else gate.to_json(),
        "real": real,
        "rows": rows,
    }
    draw(report).savefig(args.out / "steps_vs_quality.png")
    path = write_report("steps_vs_quality", report, seed=args.seed, folder=args.report or args.out)
    print(f"\nwrote {args.out}/steps_vs_quality.png and {path}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
