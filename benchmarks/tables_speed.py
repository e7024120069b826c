"""Tables of time and memory: the sampler's steps, and the sections of ``throughput.py``."""

from collections.abc import Callable
from typing import Any

from tables_shared import origin, read, table


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


def quartiles(ratio: dict[str, float]) -> str:
    """A median with its quartiles."""
    return f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})"


def verdicts(row: dict[str, Any]) -> str:
    """The goals of a row of figures."""
    cells = []
    for name, goal in row.get("goals", {}).items():
        bound = f"at least {goal['at_least']:.3g}" if "at_least" in goal else f"at most {goal['at_most']:.3g}"
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


def throughput_memory(section: dict[str, Any]) -> str:
    """Time and memory of the step with and without recomputing, to those of the plain one."""

    def cells(row: dict[str, Any], name: str) -> list[str]:
        return [f"{row['bytes'][name] / 1e6:,.0f}", f"{row['ratio_of_memory'][name]:.2f}"]

    return alternatives(section, ["memory, MB", "ratio"], cells) + left_out(section)


def throughput_against(section: dict[str, Any]) -> str:
    """Training steps against a baseline, with counted operations where there are any."""

    def cells(row: dict[str, Any], name: str) -> list[str]:
        operations = row.get("ratio_of_operations", {})
        return [f"{operations[name]:.2f}" if name in operations else ""]

    return alternatives(section, ["of operations"], cells)


def alternatives(section: dict[str, Any], head: list[str], cells: Callable[[dict[str, Any], str], list[str]]) -> str:
    """A line an alternative: its time, that to the baseline's, and further cells; sizes and goals at the first."""
    rows = []
    for row in section["rows"]:
        for name, step in row["time"]["steps"].items():
            first = name == row["time"]["baseline"]
            times = [f"{step['ms']['median']:,.0f}", quartiles(step["ratio"]) if "ratio" in step else ""]
            ends = verdicts(row) if first else ""
            rows.append([*(sizes(row) if first else [""] * 3), name, *times, *cells(row, name), ends])
    return table(["network", "tokens", "batch", "", "ms", "ratio", *head, "goal"], rows)


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
        first = [row["model"], f"{row['vocab_size']:,}", row["bound"], str(row["num_latents"])]
        rows.append([*first, speed, ratio, growth, verdicts(row)])
    head = ["model", "tokens", "bound", "latents", "sequences a second", "time / network alone"]
    head += ["memory / few latents", "goal"]
    return table(head, rows) + left_out(section)


def throughput_scaling(section: dict[str, Any]) -> str:
    """Exponents of time and memory beside what is demanded at most."""
    rows = []
    for row in section["rows"]:
        found, last = row["exponents"], row["last"]
        cells = [quartiles(found["time"]), f"{found['memory']:.2f}"]
        cells += [f"{last[key]:.2f}" for key in ("time", "operations", "memory")]
        rows.append([row["axis"].replace("_", " "), ", ".join(map(str, row["values"])), *cells, verdicts(row)])
    head = ["size", "values", "time, all", "memory, all", "time, last", "operations, last", "memory, last", "goal"]
    return table(head, rows) + left_out(section)


def throughput_processes(section: dict[str, Any]) -> str:
    """Sequences per second of training by number of processes."""
    if not section["rows"]:
        return left_out(section).lstrip()
    rows = [
        [str(row["processes"]), f"{row['sequences_per_second']:.1f}", f"{row['memory_per_process'] / 2**20:,.0f}"]
        for row in section["rows"]
    ]
    note = f"\nTime of one process to that of two: {quartiles(section['speedup'])}, at best 2.\n"
    return table(["processes", "sequences a second", "most memory of the main process, MiB"], rows) + note


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
    "memory": throughput_memory,
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
    if missing := [name for name in sections if name not in results]:
        raise SystemExit(f"throughput.json has no {', '.join(missing)}: run benchmarks/throughput.py --only SECTION.")
    found = [(name, results[name]) for name in sections]
    return "\n".join(THROUGHPUT[name](section) + origin(section["environment"]) for name, section in found)
