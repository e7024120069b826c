"""What the tables share: reading a result file, a table in Markdown, and where figures come from."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TITLES = {"mdm": "MDM", "paper": "paper's recipe", "default": "default recipe"}


def read(name: str) -> dict[str, Any]:
    """One result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def is_there(name: str) -> bool:
    """Whether a result file exists."""
    return (RESULTS / f"{name}.json").exists()


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine_of(report: dict[str, Any]) -> str:
    """Where something ran, in short."""
    machine = report["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {threads}"


def origin(report: dict[str, Any]) -> str:
    """Where the figures of a file come from; a run with uncommitted changes marks them all."""
    results = report.get("results", {})
    where = machine_of(report)
    if "runs_at" in results:  # many runs, merged
        found = results["runs_at"]
        some = ", some with changes" if found["dirty"] else ""
        at = f"runs of several seeds at {len(found['commits'])} commits{some} (`runs_at` of the file)"
        return f"\n`{report['command']}`, {where}, {at}.\n"
    stages = [report, *(run for run in results.get("runs", ()) if "git" in run)]
    dirty = any(stage["git"]["dirty"] for stage in stages)
    commit = (report["git"]["commit"] or "unknown")[:10] + (" with changes" if dirty else "")
    return f"\n`{report['command']}`, seed {report['seed']}, {where}, commit {commit}.\n"
