"""Write the tables of README.md and docs from the files under ``results``; ``--check`` only compares.

A table stands between the lines ``<!-- table NAME -->`` and ``<!-- end -->``. Run after a benchmark; a test fails
when page and files disagree.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/likelihoods.md",
    "docs/latents.md",
    "docs/sampling.md",
    "docs/results.md",
    "docs/training.md",
    "docs/images.md",
    "docs/text.md",
)
BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    """One result file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def origin(report: dict[str, Any]) -> str:
    """Where the figures of a file come from."""
    machine = report["machine"]
    where = machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    commit = (report["git"]["commit"] or "unknown")[:10] + (" with changes" if report["git"]["dirty"] else "")
    return f"\n`{report['command']}`, seed {report['seed']}, {where}, commit {commit}.\n"


def digits() -> str:
    """Quality of digits by number of steps."""
    report = read("digits")
    rows = []
    for row in report["results"]["rows"]:
        mean, sd = row["mean"], row["sd"]
        cells = [f"{mean[key]:.{d}f} ± {sd[key]:.{d}f}" for key, d in (("frechet", 1), ("precision", 2), ("recall", 2))]
        bound = f"{row['nats']:.1f} ± {row['nats_stderr']:.1f}" if "nats" in row else ""
        rows.append([row["model"], str(row["steps"] or ""), *cells, bound])
    return table(["model", "steps", "Fréchet distance", "precision", "recall", "bound, nats"], rows) + origin(report)


def toys() -> str:
    """Divergence on the toys at one and eight steps."""
    report = read("toy2d")
    rows = []
    for toy, result in report["results"]["toys"].items():
        cells = [f"{result['factorized']['jsd']:.3f}", f"{result['fresh_data']['jsd']:.4f}"]
        for model in result["models"].values():
            by_steps = {row["steps"]: row for row in model["by_steps"]}
            cells += [f"{by_steps[t]['jsd']:.3f} ({by_steps[t]['validity']:.1%})" for t in (1, 8)]
        rows.append([toy.replace("_", " "), *cells])
    models = next(iter(report["results"]["toys"].values()))["models"]
    head = ["toy", "factorized floor", "two-draw floor", *(f"{m}, {t}" for m in models for t in ("1 step", "8 steps"))]
    return table(head, rows) + origin(report)


def likelihoods() -> str:
    """Bounds of both models on three data sets."""
    report = read("likelihoods")
    results = report["results"]
    head, rows = ["bound"], []
    for data in results:
        head += [f"{data.replace('_', ' ')}, {model}" for model in results[data]["models"]]
    names = [name for name in results["digits"]["models"]["VADD"]["bounds"] if "K=1" not in name]
    for name in names:
        cells = []
        for result in results.values():
            for model in result["models"].values():
                value = model["bounds"].get(name)
                cells.append("" if value is None else f"{value['nats']:.2f} ± {value['stderr']:.2f}")
        rows.append([name, *cells])
    known = [None if r["entropy"] is None else f"{r['entropy']:.2f}" for r in results.values()]
    entropies = [cell or "unknown" for cell in known for _ in range(2)]
    return table(head, [*rows, ["entropy of the data", *entropies]]) + origin(report)


def latent_design(data: str) -> str:
    """Bounds of each design's own sampler by number of steps, and what its latent carries and costs."""
    report = read("latent_design")
    result = report["results"]["data"][data]
    head, rows = ["design", "seeds"], []
    steps = list(next(iter(result["designs"].values()))["curves"]["sampler"])
    head += [f"T={t}" for t in steps] + ["marginal", "KL a token", "active", "training", "sampling"]
    for design in result["designs"].values():
        curve = design["curves"]["sampler"]
        spread = len(design["seeds"]) > 1
        cells = [f"{row['mean']:.2f}" + (f" ± {row['sd']:.2f}" if spread else "") for row in curve.values()]
        cells += [""] * (len(steps) - len(cells))
        cells.append(f"{design['marginal']['mean']:.2f}")
        latent, cost = design["latent"], design["cost"]
        has_latent = bool(latent) and latent["kl_per_token"] is not None
        carries = ["", ""]
        if has_latent:
            carries = [f"{latent['kl_per_token']['mean']:.3f}", f"{latent['active_units']['mean']:.0f}"]
        costs = [f"{cost[key]['mean']:.2f}" for key in ("training_flops", "sampling_flops")]
        rows.append([design["about"], str(len(design["seeds"])), *cells, *carries, *costs])
    note = (
        f"\nUpper bounds in nats per sequence on {result['num_rows']} held-out sequences, {result['num_latents']} "
        f"latents inside each logarithm, {result['num_updates']} updates; ± is the standard deviation over seeds. "
        "Marginal: the bound of infinitely many steps with a fresh latent at each, whatever the design's sampler. KL "
        "of guide and prior with three quarters or more of the tokens masked. Training and sampling: counted "
        "operations against the masked diffusion model's.\n"
    )
    return table(head, rows) + note + origin(report)


def latent_finalists() -> str:
    """Bounds of the three finalists on MNIST by number of steps."""
    report = read("latent_design")
    designs = report["results"]["data"]["mnist14"]["designs"]
    steps = list(designs["mdm"]["curves"]["sampler"])
    rows = []
    for name in ("mdm", "paper", "default"):
        curve = designs[name]["curves"]["sampler"]
        rows.append([designs[name]["about"], *(f"{curve[t]['mean']:.2f} ± {curve[t]['sd']:.2f}" for t in steps)])
    return table(["model", *(f"T={t}" for t in steps)], rows) + origin(report)


def latent_goals() -> str:
    """Excess over the masked diffusion model's bound of infinitely many steps, and paired differences to that model."""
    report = read("latent_design")
    rows, longest = [], []
    for data, result in report["results"]["data"].items():
        found = result["goals"]
        for design in ("mdm", "paper", "default"):
            if design not in found.get("excess", {}):
                continue
            gaps = found["minus_mdm"][design]
            cells = [
                f"{found['excess'][design][t]:+.2f}"
                + ("" if design == "mdm" else f" ({gaps[t]['nats']:+.2f} ± {gaps[t]['stderr']:.2f})")
                for t in found["excess"][design]
            ]
            longest = max(longest, list(found["excess"][design]), key=len)
            rows.append([data.replace("_", " "), design, *cells])
    head = ["data", "design", *(f"T={t}" for t in longest)]
    return table(head, [row + [""] * (len(head) - len(row)) for row in rows]) + origin(report)


def sampler() -> str:
    """Time of a sampling step, in comparisons."""
    report = read("sampler")
    titles = {
        "methods": "methods",
        "projection": "vocabulary projection",
        "latent": "models",
        "peer": "solvers",
    }
    rows = []
    for key, title in titles.items():
        for name, entry in report["results"].get(key, {"alternatives": {}})["alternatives"].items():
            row = entry["processor"]
            cells = [f"{row['ms'][part]:.0f}" for part in ("step", "features", "projection", "outside")]
            ratios = [f"{entry[clock]['ratio']['median']:.2f}" if "ratio" in row else "" for clock in entry]
            steps = report["results"][key]["num_steps"]
            rows.append([f"{title}, T={steps}", name, *cells, f"{row['share_outside']:.1%}", *reversed(ratios)])
    head = [
        "comparison",
        "",
        "ms a step",
        "features",
        "projection",
        "outside",
        "share outside",
        "ratio",
        "by the clock",
    ]
    return table(head, rows) + origin(report)


def steps_vs_quality() -> str:
    """Fréchet distance and network calls of every method."""
    report = read("steps_vs_quality")
    steps, bounds = ("1 step", "4 steps", "16 steps", "64 steps"), ("64 nats", "16 nats", "4 nats", "0 nats")
    found = {(row["model"], row["method"], row["setting"]): row for row in report["results"]["rows"]}
    rows = []
    for model, method in dict.fromkeys(key[:2] for key in found):
        is_bounded = method == "entropy-bounded"
        cells = []
        for setting in bounds if is_bounded else steps:
            row = found[model, method, setting]
            cells.append(f"{row['mean']['frechet']:.1f} ({row['calls']:.1f})")
        rows.append([model, f"{method}, {', '.join(bounds)}" if is_bounded else method, *cells])
    real = report["results"]["real"]["mean"]["frechet"]
    note = f"\nFréchet distance (network calls a sequence); training digits instead of samples: {real:.1f}.\n"
    return table(["model", "method", *steps], rows) + note + origin(report)


def infill() -> str:
    """Completions of half digits."""
    report = read("infill")
    results = report["results"]
    rows = [
        [r["known"], r["way"], str(r["steps"]), f"{r['same_digit']:.1%}", f"{r['frechet']:.1f}", f"{r['distance']:.1f}"]
        for r in results["rows"]
    ]
    note = f"\nTwo real images of one digit are {results['distance_within_a_digit']:.1f} apart.\n"
    return table(["known", "", "steps", "same digit", "Fréchet distance", "apart"], rows) + note + origin(report)


def reliability() -> str:
    """Faults injected into training programs."""
    report = read("reliability")
    rows = []
    for row in report["results"]["faults"]:
        wait = row["seconds_to_recover"]
        shown = "" if wait is None else f"{wait['median']:.1f} (at most {wait['max']:.1f})"
        rows.append([row["fault"], str(row["tried"]), str(row["survived"]), shown])
    return table(["fault", "tried", "survived", "seconds to recover"], rows) + origin(report)


def run_name(run: dict[str, Any]) -> str:
    """A model and how long it was trained."""
    longer = f", trained as long as {run['as_long_as']}" if run["as_long_as"] else ""
    return f"{run['model']}{longer}"


def comparison(name: str) -> str:
    """Bounds of each model by number of steps, and what training cost."""
    report = read(name)
    runs = report["results"]["runs"]
    steps = list(dict.fromkeys(row["steps"] for run in runs for row in run["bounds"] if "steps" in row))
    base = next(run["seconds_per_update"] for run in runs if run["model"] == "mdm")
    rows = []
    for run in runs:
        found = {row.get("steps", row["name"]): row for row in run["bounds"]}
        cells = [f"{found[t]['nats']:.1f} ± {found[t]['stderr']:.1f}" if t in found else "" for t in steps]
        delbo = found["DELBO, the published metric"]
        cells += [f"{found['marginal']['nats']:.1f}", f"{delbo['nats']:.1f}", f"{delbo['bits_per_dim']:.4f}"]
        rows.append([run_name(run), str(run["updates"]), f"{run['seconds_per_update'] / base:.2f}", *cells])
    head = ["model", "updates", "time an update", *(f"T={t}" for t in steps), "marginal", "DELBO", "in bits per dim"]
    first = runs[0]
    note = (
        f"\nUpper bounds in nats on {first['preset']['num_rows']} held-out sequences (± standard error), "
        f"{first['preset']['num_latents']} latents inside the logarithm, fewer where many steps share one. The DELBO "
        "is the published metric; with a latent it bounds nothing. Time an update: against the MDM's, in turns.\n"
    )
    return table(head, rows) + note + origin(report)


def differences(name: str) -> str:
    """Finite-step bounds of pairs of models, sequence by sequence."""
    report = read(name)
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for gap in report["results"]["differences"]:
        cell = f"{gap['nats']:+.1f} ± {gap['stderr']:.1f}"
        found.setdefault((gap["model"], gap["against"], gap["equal"]), {})[gap["steps"]] = cell
    steps = list(dict.fromkeys(gap["steps"] for gap in report["results"]["differences"]))
    rows = [
        [f"{a} - {b}", f"equal {equal}", *(cells.get(t, "") for t in steps)] for (a, b, equal), cells in found.items()
    ]
    return table(["difference", "", *(f"T={t}" for t in steps)], rows) + origin(report)


def image_quality(name: str) -> str:
    """Fréchet distance of samples by number of steps."""
    report = read(name)
    runs = [run for run in report["results"]["runs"] if run["distances"]["rows"]]
    key = next(key for key in runs[0]["distances"]["rows"][0] if key != "steps")
    steps = [row["steps"] for row in runs[0]["distances"]["rows"]]
    rows = [[run_name(run), *(f"{row[key]:.1f}" for row in run["distances"]["rows"])] for run in runs]
    head = [key, *("real" if t is None else f"T={t}" for t in steps)]
    note = f"\nSamples against {runs[0]['distances']['against']}. Distances in {runs[0]['distances']['features']}.\n"
    return table(head, rows) + note + origin(report)


def text_quality(name: str) -> str:
    """Perplexity of samples by the judge, and their entropy, by number of steps."""
    report = read(name)
    runs = report["results"]["runs"]
    steps = [row["steps"] for row in runs[0]["samples"]["rows"]]
    rows = [
        [run_name(run), *(f"{row['perplexity']:.1f} ({row['unigram_entropy']:.2f})" for row in run["samples"]["rows"])]
        for run in runs
    ]
    first = runs[0]["samples"]
    note = f"\nPerplexity by {first['judge']} (unigram entropy in nats); real: {first['against'].split(':')[0]}.\n"
    return table(["model", *("real" if t is None else f"T={t}" for t in steps)], rows) + note + origin(report)


def text_perplexities(name: str) -> str:
    """What the bounds say of held-out text and of other texts, a token each."""
    report = read(name)
    rows = []
    for run in report["results"]["runs"]:
        for text, bounds in (("held out", run["bounds"]), *((s["name"], s["bounds"]) for s in run["zero_shot"])):
            found = {row["name"]: row for row in bounds}
            delbo = found["DELBO, the published metric"]
            shared = found.get("shared-latent, infinitely many steps", {})
            # Without a latent the published metric is a bound, and is called one.
            published = delbo.get("delbo_perplexity", delbo.get("perplexity"))
            cells = (found["marginal"]["perplexity"], shared.get("perplexity"), published)
            rows.append([run_name(run), text, *("" if cell is None else f"{cell:.2f}" for cell in cells)])
    head = ["model", "text", "marginal", "shared latent, infinitely many steps", "DELBO, the published metric"]
    return table(head, rows) + "\nPerplexity a token; the first two are upper bounds.\n" + origin(report)


TEXTS = ("wiki27", "wikitext2-gpt2", "wikitext2-bert")


def quartiles(ratio: dict[str, float]) -> str:
    """A median with its quartiles."""
    return f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})"


def verdicts(row: dict[str, Any]) -> str:
    """The goals of a row of figures."""
    cells = []
    for name, goal in row.get("goals", {}).items():
        bound = f"at least {goal['at_least']}" if "at_least" in goal else f"at most {goal['at_most']:g}"
        found = "met" if goal["met"] else f"MISSED, {goal['got']:.2f}"
        cells.append(f"{name} {bound}: {found}")
    return "; ".join(cells)


def sizes(row: dict[str, Any]) -> list[str]:
    """Network, vocabulary and batch of a row of figures."""
    return [row["network"], f"{row['vocab_size']:,}", " x ".join(map(str, row["batch_shape"]))]


def left_out(section: dict[str, Any]) -> str:
    """What there was no time or place for."""
    return f"\nLeft out: {'; '.join(section['left_out'])}.\n" if section["left_out"] else ""


def throughput_step(section: dict[str, Any]) -> str:
    """The MDM's training step against a plain one."""
    rows = []
    for row in section["rows"]:
        steps = row["time"]["steps"]
        cells = [f"{steps[name]['ms']['median']:,.0f}" for name in ("ours", "plain")]
        cells += [quartiles(steps["plain"]["ratio"]), f"{row['memory']['ratio']:.2f}"]
        rows.append([*sizes(row), *cells, verdicts(row)])
    head = ["network", "tokens", "batch", "ours, ms", "plain, ms", "plain / ours", "memory, ours / plain", "goal"]
    found = section["expectation"]
    note = (
        f"\nBoth losses on a small network: {found['nats']['ours']:.3f} and {found['nats']['plain']:.3f} nats, which "
        f"{'agree' if found['agree'] else 'DISAGREE'} within four standard errors of {found['stderr']:.3f}.\n"
    )
    return table(head, rows) + note + left_out(section)


def throughput_against(section: dict[str, Any]) -> str:
    """Training steps against a baseline, with counted operations where there are any."""
    rows = []
    for row in section["rows"]:
        operations = row.get("ratio_of_operations", {})
        for name, step in row["time"]["steps"].items():
            ratio = quartiles(step["ratio"]) if "ratio" in step else ""
            counted = f"{operations[name]:.2f}" if name in operations else ""
            first = name == row["time"]["baseline"]
            cells = [name, f"{step['ms']['median']:,.0f}", ratio, counted]
            rows.append([*(sizes(row) if first else [""] * 3), *cells, verdicts(row) if first else ""])
    return table(["network", "tokens", "batch", "", "ms", "ratio", "of operations", "goal"], rows)


def throughput_sampling(section: dict[str, Any]) -> str:
    """Tokens per second of both models by number of steps."""
    rows = []
    for row in section["rows"]:
        cells = [f"{row['tokens_per_second'][name]:,.0f}" for name in ("MDM", "VADD")]
        ratio = quartiles(row["time"]["steps"]["VADD"]["ratio"])
        rows.append([str(row["steps"]), *cells, ratio, f"{row['ratio_of_operations']:.2f}"])
    head = ["steps", "MDM, tokens a second", "VADD, tokens a second", "VADD / MDM in time", "in operations"]
    return table(head, rows) + left_out(section)


def throughput_evaluation(section: dict[str, Any]) -> str:
    """Sequences per second of each bound, and how memory grows with the latents."""
    rows = []
    for row in section["rows"]:
        ratio = quartiles(row["time"]["steps"][row["bound"]]["ratio"])
        growth = f"{row['memory']['ratio']:.2f}" if "memory" in row else ""
        speed = f"{row['sequences_per_second']:.3g}"
        rows.append([row["model"], row["bound"], str(row["num_latents"]), speed, ratio, growth, verdicts(row)])
    head = ["model", "bound", "latents", "sequences a second", "time / network alone", "memory / few latents", "goal"]
    return table(head, rows) + left_out(section)


def throughput_scaling(section: dict[str, Any]) -> str:
    """Exponents of time and memory beside what is demanded at most."""
    rows = []
    for row in section["rows"]:
        found, most = row["exponents"], row["demanded"]
        cells = [quartiles(found["time"]), f"{most['time']}", f"{found['memory']:.2f}", f"{most['memory']}"]
        rows.append([row["axis"].replace("_", " "), ", ".join(map(str, row["values"])), *cells])
    head = ["size", "values", "exponent of time", "at most", "of memory", "at most"]
    return table(head, rows) + left_out(section)


def throughput_processes(section: dict[str, Any]) -> str:
    """Sequences per second of training by number of processes."""
    if not section["rows"]:
        return left_out(section).lstrip()
    rows = [[str(row["processes"]), f"{row['sequences_per_second']:.1f}"] for row in section["rows"]]
    note = f"\nTime of one process to that of two: {quartiles(section['speedup'])}, at best 2.\n"
    return table(["processes", "sequences a second"], rows) + note


def throughput_accelerator(section: dict[str, Any]) -> str:
    """Share of the peak and waits of a step on a GPU, and tokens per second."""
    rows = []
    for name, waits in section["waits"].items():
        step = section["time"]["steps"].get(name)
        share = (section["share_of_peak"] or {}).get(name)
        cells = ["" if step is None else f"{step['ms']['median']:.0f}", "" if share is None else f"{share:.1%}"]
        rows.append([name, *cells, ", ".join(f"{n} {key}" for key, n in waits.items() if n)])
    for row in section["sampling"]:
        for name, waits in row["waits"].items():
            speed = f"{row['tokens_per_second'][name]:,.0f} tokens a second"
            counted = ", ".join(f"{n} {key}" for key, n in waits.items() if n)
            rows.append([f"sampling, {name}, T={row['steps']}", speed, "", counted])
    return table([", ".join(sizes(section)), "ms", "share of the peak", "waits"], rows)


THROUGHPUT: dict[str, Callable[[dict[str, Any]], str]] = {
    "step": throughput_step,
    "vadd": throughput_against,
    "pyro": throughput_against,
    "sampling": throughput_sampling,
    "evaluation": throughput_evaluation,
    "scaling": throughput_scaling,
    "processes": throughput_processes,
    "accelerator": throughput_accelerator,
}


def throughput(*sections: str) -> str:
    """Tables of sections of the throughput benchmark, each with its own origin."""
    results = read("throughput")["results"]
    found = [(name, results[name]) for name in sections if name in results]
    return "\n".join(THROUGHPUT[name](section) + origin(section["environment"]) for name, section in found)


TABLES: dict[str, Callable[[], str]] = {
    "digits": digits,
    "toys": toys,
    "likelihoods": likelihoods,
    "latent-mnist14": lambda: latent_design("mnist14"),
    "latent-digits": lambda: latent_design("digits"),
    "latent-checkerboard": lambda: latent_design("checkerboard"),
    "latent-swiss-roll": lambda: latent_design("swiss_roll"),
    "latent-goals": latent_goals,
    "latent-finalists": latent_finalists,
    "sampler": sampler,
    "steps-vs-quality": steps_vs_quality,
    "infill": infill,
    "reliability": reliability,
    "binarized-mnist": lambda: comparison("binarized_mnist"),
    "binarized-mnist-differences": lambda: differences("binarized_mnist"),
    "binarized-mnist-quality": lambda: image_quality("binarized_mnist"),
    "cifar10": lambda: comparison("cifar10"),
    "cifar10-differences": lambda: differences("cifar10"),
    "cifar10-quality": lambda: image_quality("cifar10"),
    "throughput-step": lambda: throughput("step"),
    "throughput-vadd": lambda: throughput("vadd", "pyro"),
    "throughput-sampling": lambda: throughput("sampling"),
    "throughput-evaluation": lambda: throughput("evaluation"),
    "throughput-scaling": lambda: throughput("scaling", "processes"),
}
for _name in TEXTS:
    for _suffix, _make in (
        ("", comparison),
        ("-differences", differences),
        ("-quality", text_quality),
        ("-perplexities", text_perplexities),
    ):
        TABLES[_name + _suffix] = functools.partial(_make, f"text_{_name}")


def fill(text: str) -> str:
    """A page with its tables written anew."""
    return BLOCK.sub(lambda match: match[1] + "\n" + TABLES[match["name"]]() + "\n" + match[3], text)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check the pages; the number of pages that differ is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, say which pages are out of date")
    args = parser.parse_args(argv)
    stale = 0
    for page in PAGES:
        path = ROOT / page
        if not path.exists():
            continue
        old = path.read_text()
        new = fill(old)
        if new != old:
            stale += 1
            print(f"{page} {'is out of date: run python benchmarks/tables.py' if args.check else 'rewritten'}")
            if not args.check:
                path.write_text(new)
    return stale if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
