"""Runs of latent designs put together: means over seeds, differences, curves and tables."""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from latent_designs import DESIGNS
from pictures_shared import DPI, save

from vadd.reporting import write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (1, 2, 4, 8, 16, 64)


def merge(args: argparse.Namespace) -> None:
    """All runs in one result file, with means over seeds, the goals, and the picture."""
    runs = [json.loads(path.read_text()) for path in sorted(args.runs.glob("*.json"))]
    if not runs:
        raise SystemExit(f"no runs in {args.runs}: run the benchmark first.")
    results: dict[str, Any] = {}
    for name in dict.fromkeys(run["data"] for run in runs):
        here = [run for run in runs if run["data"] == name]
        results[name] = {
            "designs": {
                design: summarize([run for run in here if run["design"] == design])
                for design in DESIGNS
                if any(run["design"] == design for run in here)
            },
            "num_updates": here[0]["num_updates"],
            "num_rows": here[0]["num_rows"],
            "num_latents": here[0]["num_latents"],
            "goals": goals(here),
        }
    commits = sorted({run["environment"]["git"]["commit"] or "unknown" for run in runs})
    dirty = any(run["environment"]["git"]["dirty"] for run in runs)
    results_with = {"runs_at": {"commits": commits, "dirty": dirty}, "data": results}
    write_report("latent_design", results_with, seed=0, folder=args.out)
    save(draw(results_with), args.figures / "latent_design.png", "latent_design", results_with)
    print_table(results)


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; the spread is their standard deviation."""

    def mean_of(get: Callable[[dict[str, Any]], float | None]) -> dict[str, float] | None:
        values = [value for run in runs if (value := get(run)) is not None]
        if not values:
            return None
        return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}

    curves = {
        label: {
            t: {
                **(mean_of(lambda run, label=label, t=t: run["curves"][label].get(t, {}).get("nats")) or {}),
                "stderr": runs[0]["curves"][label][t]["stderr"],
            }
            for t in runs[0]["curves"][label]
        }
        for label in runs[0]["curves"]
    }
    latent = {
        key: mean_of(lambda run, key=key: run["latent"][key])
        for key in ("kl", "kl_per_token", "active_units", "mutual_information", "mixture_off_loss")
        if "latent" in runs[0]
    }
    return {
        "about": DESIGNS[runs[0]["design"]].about,
        "seeds": [run["seed"] for run in runs],
        "curves": curves,
        "claims": {t: row["bounds"] for t, row in runs[0]["curves"]["sampler"].items()},
        "marginal": mean_of(lambda run: run["marginal"]["nats"]),
        "latent": latent,
        "num_latent": runs[0].get("latent", {}).get("num_latent"),
        "is_collapsed": any(run["latent"]["is_collapsed"] for run in runs) if "latent" in runs[0] else None,
        "gate": runs[0].get("gate"),
        "cpu_seconds": mean_of(lambda run: run["cpu_seconds"]),
        "cost": {key: mean_of(lambda run, key=key: run["cost"][key]) for key in runs[0]["cost"]},
    }


def goals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Excess over the MDM's bound of infinitely many steps, and differences to the MDM with paired rows and masks."""
    by_seed: dict[tuple[str, int], dict[str, Any]] = {(run["design"], run["seed"]): run for run in runs}
    seeds = sorted({seed for design, seed in by_seed if design == "mdm"})
    if not seeds:
        return {}
    references = [by_seed["mdm", seed]["infinite"] for seed in seeds]
    reference = statistics.fmean(r["nats"] for r in references)
    report: dict[str, Any] = {
        "reference": reference,
        "reference_estimator_stderr": max(r["estimator_stderr"] for r in references),
        "excess": {},
        "minus_mdm": {},
    }
    for design in dict.fromkeys(run["design"] for run in runs):
        own = [run for run in runs if run["design"] == design]
        report["excess"][design] = {
            t: statistics.fmean(r["curves"]["sampler"][t]["nats"] for r in own if t in r["curves"]["sampler"])
            - reference
            for t in own[0]["curves"]["sampler"]
        }
        paired = [(run, by_seed["mdm", run["seed"]]) for run in own if run["seed"] in seeds]
        report["minus_mdm"][design] = {
            t: _paired(
                [(run["rows"][t], mdm["rows"][t]) for run, mdm in paired if t in run["rows"] and t in mdm["rows"]]
            )
            for t in own[0]["rows"]
            if paired
        }
    return report


def _paired(pairs: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    """Mean of the rows' differences, averaged over the seeds first, and its standard error over the rows."""
    gap = torch.stack([torch.tensor(own) - torch.tensor(other) for own, other in pairs]).double().mean(0)
    return {"nats": float(gap.mean()), "stderr": float(gap.std() / math.sqrt(len(gap)))}


def draw(results: dict[str, Any]) -> "Figure":
    """The bound against the number of steps, one panel a data set."""
    from matplotlib.figure import Figure

    data = results["data"]
    figure = Figure(figsize=(4.2 * len(data), 3.8), dpi=DPI, layout="constrained")
    styles = {"mdm": ("#c4501b", "MDM"), "paper": ("#7a7a7a", "the paper's recipe"), "default": ("#1f5a99", "default")}
    for k, (name, result) in enumerate(data.items()):
        axes = figure.add_subplot(1, len(data), k + 1)
        for design, (colour, label) in styles.items():
            if design not in result["designs"]:
                continue
            curve = result["designs"][design]["curves"]["sampler"]
            steps = [int(t) for t in curve]
            axes.errorbar(
                steps,
                [row["mean"] for row in curve.values()],
                [row["sd"] for row in curve.values()],
                marker="o",
                color=colour,
                label=label,
            )
        if result["goals"]:
            axes.axhline(
                result["goals"]["reference"], color="#c4501b", ls=":", lw=1, label="MDM, infinitely many steps"
            )
        axes.set(title=name.replace("_", " "), xscale="log", xlabel="steps T", ylabel="bound, nats per sequence")
        axes.set_xticks(STEPS, [str(t) for t in STEPS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def print_table(results: dict[str, Any]) -> None:
    """Bounds of each design's own sampler by number of steps."""
    for name, result in results.items():
        print(f"\n{name}: {result['num_updates']} updates, {result['num_rows']} rows")
        print(f"{'design':<20}" + "".join(f"{f'T={t}':>9}" for t in STEPS) + f"{'KL':>8}{'active':>8}{'FLOPs':>7}")
        for design, row in result["designs"].items():
            cells = "".join(f"{row['curves']['sampler'][str(t)]['mean']:>9.2f}" for t in STEPS)
            latent = row["latent"]
            kl = f"{latent['kl']['mean']:>8.2f}{latent['active_units']['mean']:>8.0f}" if latent else " " * 16
            print(f"{design:<20}{cells}{kl}{row['cost']['training_flops']['mean']:>7.2f}")
