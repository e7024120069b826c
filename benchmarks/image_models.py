"""MDM, the paper's recipe and the default compared on images: the part that the data sets share.

Every model is trained for an equal number of updates and, separately, for an equal time: as many updates as it makes
while the MDM makes its own. Runs go on where they stopped, and finished ones are only evaluated anew.
"""

import argparse
import math
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

from vadd.reporting import write_report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

MODELS = ("mdm", "paper", "default")
COLOURS = {"mdm": "#c4501b", "paper": "#3a7d44", "default": "#1f5a99"}
BUDGETS = ("updates", "time")


def compare(example: ModuleType, name: str, argv: list[str] | None) -> None:
    """Train and evaluate all models; what this parser does not know goes to the example."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--preset", choices=tuple(example.PRESETS), default="cpu")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--equal", nargs="+", choices=BUDGETS, default=BUDGETS, help="what models are granted alike")
    parser.add_argument("--minutes", type=float, default=1e6, help="of training a model in this call; the next goes on")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / name, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file and the picture")
    args, rest = parser.parse_known_args(argv)
    options = [*rest, "--preset", args.preset, "--minutes", str(args.minutes), "--out", str(args.runs)]

    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        equal: dict[str, dict[str, Any]] = {}
        for model in args.models:
            equal[model] = example.main([*options, *_of(model), "--seed", str(seed)])
            runs.append({"seed": seed, "equal": "updates", **equal[model]})
            _write(runs, name, args)
        if "time" not in args.equal or "mdm" not in equal:
            continue
        for model in args.models:
            num_updates = _updates_in_time(equal["mdm"], equal[model])
            if num_updates is None:
                continue
            report = equal[model]
            if num_updates != report["updates"]:
                given = [*_of(model), "--seed", str(seed), "--num-updates", str(num_updates)]
                report = example.main([*options, *given])
            runs.append({"seed": seed, "equal": "time", **report})
            _write(runs, name, args)


def _of(model: str) -> list[str]:
    return ["--baseline", "mdm"] if model == "mdm" else ["--recipe", model]


def _updates_in_time(reference: dict[str, Any], report: dict[str, Any]) -> int | None:
    """The updates that a model makes in the time of the reference; None where it was not measured to the end."""
    speeds = [r["training"]["images_per_second"] for r in (reference, report)]
    if not (reference["is_finished"] and report["is_finished"]) or None in speeds:
        return None
    return max(1, round(reference["updates"] * speeds[1] / speeds[0]))


def _write(runs: list[dict[str, Any]], name: str, args: argparse.Namespace) -> None:
    kept = [{**run, "bounds": [_without_images(row) for row in run["bounds"]]} for run in runs]
    results = {"runs": kept, "default_minus_others": gaps(runs)}
    write_report(name, results, seed=args.seeds[0], folder=args.out)
    draw(runs, name, args.out / f"{name}.png")


def _without_images(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "of_each_image"}


def _finite_steps(run: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {row["steps"]: row for row in run["bounds"] if "steps" in row}


def gaps(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finite-step bound of the default recipe minus each other model's, image by image: negative favours it."""
    table = []
    for ours in (run for run in runs if run["model"] == "default"):
        others = (run for run in runs if run["model"] != "default")
        for theirs in (run for run in others if (run["seed"], run["equal"]) == (ours["seed"], ours["equal"])):
            a, b = _finite_steps(ours), _finite_steps(theirs)
            for steps in (steps for steps in a if steps in b):
                pairs = zip(a[steps]["of_each_image"], b[steps]["of_each_image"], strict=True)
                differences = [x - y for x, y in pairs]
                table.append(
                    {
                        "against": theirs["model"],
                        "seed": ours["seed"],
                        "equal": ours["equal"],
                        "steps": steps,
                        "nats": statistics.fmean(differences),
                        "stderr": statistics.stdev(differences) / math.sqrt(len(differences)),
                    }
                )
    return table


def draw(runs: list[dict[str, Any]], name: str, path: Path) -> None:
    """The finite-step bound and the distance in features against the number of steps."""
    from matplotlib.figure import Figure

    shown = [budget for budget in BUDGETS if any(run["equal"] == budget for run in runs)]
    figure = Figure(figsize=(9, 3.4 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 2, squeeze=False)
    for (left, right), budget in zip(panels, shown, strict=True):
        for run in (run for run in runs if run["equal"] == budget):
            style: dict[str, Any] = {"color": COLOURS[run["model"]], "marker": "o", "markersize": 3}
            style["label"] = f"{run['model']}, seed {run['seed']}, {run['updates']} updates"
            rows = _finite_steps(run)
            nats, errors = ([rows[steps][key] for steps in rows] for key in ("nats", "stderr"))
            left.errorbar(list(rows), nats, [2 * (error or 0) for error in errors], **style)
            rows = [row for row in run["distances"]["rows"] if row["steps"] is not None]
            if rows:
                distance = next(key for key in rows[0] if key != "steps")
                right.plot([row["steps"] for row in rows], [row[distance] for row in rows], **style)
                right.set(yscale="log", ylabel=distance)
        left.set(ylabel="bound, nats per image")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="steps T", title=f"{name}: equal {budget}")
            axes.grid(alpha=0.3)
        left.legend(fontsize=7)
    figure.savefig(path, dpi=140)
