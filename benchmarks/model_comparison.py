"""MDM, the paper's recipe and the default compared: the part that the benchmarks of images and of text share.

All models are trained for an equal number of updates. One of a model with a latent takes longer: so the MDM, whose
objective does not depend on when training ends, trains on until it has taken as long as each of them, by the time of
an update of each, measured once, in turns on this machine. Runs go on where they stopped. Those that have reported
their end are taken as they are: so models may also be trained by the example itself, side by side, and put together
here.
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from vadd.reporting import write_report
from vadd.storage.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import runs as example_runs  # noqa: E402
from measuring import RESULTS  # noqa: E402
from pictures_shared import DPI, save  # noqa: E402

MODELS = ("mdm", "paper", "default")
CHOICES = (*MODELS, "default-many")
COLOURS = {"mdm": "#c4501b", "paper": "#3a7d44", "default": "#1f5a99", "default-many": "#7a4fa3"}
#: Options of the examples, each with one value.
OF_LATENT = ("--latents", "--prior", "--recognition", "--kl-warmup")
TURNS = 7  # in which an update of each model is timed, after one to warm up


def compare(example: ModuleType, shared: ModuleType, name: str, argv: list[str] | None) -> None:
    """Train and evaluate all models; what this parser does not know goes to the example.

    Args:
        example: with ``PRESETS``, ``parse``, ``load`` and ``main``.
        shared: with ``run_folder`` and ``updates_of``: ``images`` or ``texts``.
        name: of the benchmark.
        argv: the command line.
    """
    with example_runs.explained():
        _compare(example, shared, name, argv)


def _compare(example: ModuleType, shared: ModuleType, name: str, argv: list[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--preset", choices=tuple(example.PRESETS), default="cpu")
    parser.add_argument("--models", nargs="+", choices=CHOICES, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-updates", type=int, help="of all models; default the preset's")
    parser.add_argument("--no-equal-time", action="store_true", help="leave the MDM's longer training out")
    parser.add_argument("--minutes", type=float, default=1e6, help="of training a model in this call; the next goes on")
    parser.add_argument("--anew", action="store_true", help="evaluate finished runs once more")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / name, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file and the picture")
    args, rest = parser.parse_known_args(argv)
    options = [*rest, "--preset", args.preset, "--minutes", str(args.minutes), "--out", str(args.runs)]
    num_updates = args.num_updates or example.PRESETS[args.preset].num_updates
    timed = {model: options_for(model, options) for model in args.models}
    settings = {model: example_runs.options_of(example.parse(argv)) for model, argv in timed.items()}
    seconds = _timed(args, settings, lambda: time_updates(example, shared, timed))

    runs: list[dict[str, Any]] = []
    trained: list[Path] = []  # folders; a longer run starts from the one before it

    def add(model: str, seed: int, updates: int, as_long_as: str | None = None) -> None:
        given = [*options_for(model, options), "--seed", str(seed), "--num-updates"]
        folder, wanted = _folder(example, shared, [*given, str(updates)]), example.parse([*given, str(updates)])
        if as_long_as is not None:
            _go_on(trained[-1], folder)
        trained.append(folder)
        found = _reported(folder)
        is_same = found.get("options") == example_runs.options_of(wanted)
        if args.anew or not (is_same and found["is_finished"]):
            example.main([*given, str(updates)])
        runs.append({"seed": seed, "as_long_as": as_long_as, "seconds_per_update": seconds[model], **_reported(folder)})
        _write(runs, name, args)

    for seed in args.seeds:
        for model in args.models:
            add(model, seed, num_updates)
        if args.no_equal_time or "mdm" not in args.models:
            continue
        first = [*options_for("mdm", options), "--seed", str(seed), "--num-updates", str(num_updates)]
        trained[:] = [_folder(example, shared, first)]
        longer = {
            model: round(num_updates * seconds[model] / seconds["mdm"])
            for model in args.models
            if model in ("paper", "default")
        }
        for model in sorted(longer, key=longer.__getitem__):
            add("mdm", seed, longer[model], as_long_as=model)


def options_for(model: str, options: list[str]) -> list[str]:
    """The example's command line for a model; the one without a latent gets no options of it."""
    if model != "mdm":
        return [*options, "--recipe", model]
    of_latent = [option.partition("=")[0] in OF_LATENT for option in options]
    values = [False, *(is_one and "=" not in option for is_one, option in zip(of_latent, options, strict=True))]
    return [option for i, option in enumerate(options) if not (of_latent[i] or values[i])] + ["--baseline", "mdm"]


def _timed(
    args: argparse.Namespace, settings: dict[str, Any], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Seconds of an update, kept with the runs: another measurement would ask for other numbers of updates.

    They hold for the same models with the same settings on the same device alone.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    asked = {"device": device, "models": settings}
    path = args.runs / f"seconds_per_update-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]}.json"
    if args.anew or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**asked, "seconds": measure()}, indent=2) + "\n")
    return example_runs.read_json(path)["seconds"]


def time_updates(example: ModuleType, shared: ModuleType, options: dict[str, list[str]]) -> dict[str, float]:
    """Median seconds of an update of each model, in turns, so that all see the machine alike; on a CPU, its time."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    updates = {}
    for model, argv in options.items():
        args = example.parse(argv)
        preset = example.PRESETS[args.preset]
        updates[model] = shared.updates_of(example.load(args, preset), preset, args)
    taken: dict[str, list[float]] = {model: [] for model in options}
    for _ in range(TURNS + 1):
        for model, update in updates.items():
            start = clock()
            update()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[model].append(clock() - start)
    return {model: statistics.median(times[1:]) for model, times in taken.items()}


def _folder(example: ModuleType, shared: ModuleType, argv: list[str]) -> Path:
    args = example.parse(argv)
    preset = example.PRESETS[args.preset]
    return shared.run_folder(example.load(args, preset), preset, args)


def _go_on(shorter: Path, longer: Path) -> None:
    """Let the longer run start from the end of the shorter one."""
    if (shorter / "training").exists() and not (longer / "training").exists():
        shutil.copytree(shorter / "training", longer / "training")


def _reported(folder: Path) -> dict[str, Any]:
    """What a run has reported, and how it came about; nothing yet, where it has not."""
    path = folder / "report.json"
    report = example_runs.read_json(path) if path.exists() else {"results": {}}
    return {name: report[name] for name in ("command", "git", "machine") if name in report} | report["results"]


def _write(runs: list[dict[str, Any]], name: str, args: argparse.Namespace) -> None:
    kept = [{**run, "bounds": [_without_images(row) for row in run["bounds"]]} for run in runs]
    results = {"runs": kept, "differences": gaps(runs)}
    write_report(name, results, seed=args.seeds[0], folder=args.out)
    save(draw(results, name), args.out / f"{name}.png", name, results)


def _without_images(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "of_each_sequence"}


def _finite_steps(run: dict[str, Any], latents: str = "own") -> dict[int, dict[str, Any]]:
    """Bounds by the number of steps: with the latents of the model's own sampler, or one a trajectory."""
    title = "finite-step, " if latents == "own" else "shared-latent, T="
    return {row["steps"]: row for row in run["bounds"] if "steps" in row and row["name"].startswith(title)}


def _pairs(runs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Two finished runs each, and what they were granted alike."""
    pairs = []
    finished = [run for run in runs if run["is_finished"]]
    for ours in (run for run in finished if run["as_long_as"] is None):
        for theirs in (run for run in finished if run["seed"] == ours["seed"]):
            later = CHOICES.index(ours["model"]) > CHOICES.index(theirs["model"])
            if theirs["as_long_as"] is None and later and theirs["updates"] == ours["updates"]:
                pairs.append((ours, theirs, "updates"))
            elif theirs["as_long_as"] == ours["model"]:
                pairs.append((ours, theirs, "time"))
    return pairs


def gaps(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finite-step bound of a model minus another's, in nats image by image: negative favours the first."""
    table = []
    for ours, theirs, equal in _pairs(runs):
        for latents in ("own", "shared"):
            a, b = _finite_steps(ours, latents), _finite_steps(theirs)
            for steps in (steps for steps in a if steps in b):
                pairs = zip(a[steps]["of_each_sequence"], b[steps]["of_each_sequence"], strict=True)
                differences = [x - y for x, y in pairs]
                table.append(
                    {
                        "model": ours["model"],
                        "latents": latents,
                        "against": theirs["model"],
                        "seed": ours["seed"],
                        "equal": equal,
                        "steps": steps,
                        "nats": statistics.fmean(differences),
                        "stderr": statistics.stdev(differences) / math.sqrt(len(differences)),
                    }
                )
    return table


def _quality(run: dict[str, Any]) -> tuple[str, dict[int, float]]:
    """Of samples by number of steps: a distance of images, or the judge's perplexity of text."""
    found = run["distances"] if "distances" in run else run["samples"]
    rows = [row for row in found["rows"] if row["steps"] is not None]
    key = next((key for key in rows[0] if key != "steps"), "") if rows else ""
    label = key if "distances" in run else "perplexity by the judge"
    return label, {row["steps"]: row[key] for row in rows}


def draw(results: dict[str, Any], name: str) -> "Figure":
    """The finite-step bound and the quality of samples against the number of steps, of all runs."""
    from matplotlib.figure import Figure

    runs = results["runs"]
    figure = Figure(figsize=(9, 4.2), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in runs:
        style: dict[str, Any] = {"color": COLOURS[run["model"]], "marker": "o", "markersize": 3}
        style["linestyle"] = {None: "-", "default": "--", "paper": ":"}[run["as_long_as"]]
        trained = f"as long as {run['as_long_as']}" if run["as_long_as"] else f"{run['updates']} updates"
        style["label"] = f"{run['model']}, {trained}" + (f", seed {run['seed']}" if run["seed"] else "")
        rows = _finite_steps(run)
        nats, errors = ([rows[steps][key] for steps in rows] for key in ("nats", "stderr"))
        left.errorbar(list(rows), nats, [2 * (error or 0) for error in errors], **style)
        label, quality = _quality(run)
        if quality:
            right.plot(list(quality), list(quality.values()), **style)
            right.set(yscale="log", ylabel=label)
    # A bound that is loose at many steps leaves the picture: the others would lie on each other.
    shown = [row["nats"] for run in runs for row in _finite_steps(run).values()]
    first = max((rows[min(rows)]["nats"] for rows in map(_finite_steps, runs) if rows), default=None)
    if first is not None:
        left.set_ylim(min(shown) - 0.05 * first, 1.05 * first)
    left.set(ylabel="finite-step bound, nats (± 2 standard errors)")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="steps T", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
