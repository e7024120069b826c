"""What the tables share: reading a result file, a table in Markdown, and where figures come from."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


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


def origin(report: dict[str, Any]) -> str:
    """Where the figures of a file come from."""
    machine = report["machine"]
    where = machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    commit = (report["git"]["commit"] or "unknown")[:10] + (" with changes" if report["git"]["dirty"] else "")
    return f"\n`{report['command']}`, seed {report['seed']}, {where}, commit {commit}.\n"
