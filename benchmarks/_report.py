"""Writes a benchmark's results beside what is needed to judge and repeat them."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyro
import torch

import vadd

__all__ = ["RESULTS", "environment", "write_report"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def write_report(
    name: str,
    results: dict[str, Any],
    *,
    seed: int,
    device: str | torch.device = "cpu",
    folder: Path = RESULTS,
) -> Path:
    """Write ``results`` and the environment of this process to ``folder/name.json``.

    Args:
        name: of the benchmark, without suffix.
        results: what JSON can hold; NaN and infinity, which it cannot, raise a ValueError.
        seed: the seed of the run.
        device: the device that was measured.
        folder: created if missing.

    Returns:
        The path of the file.
    """
    report = {"name": name, **environment(seed=seed, device=device), "results": results}
    text = json.dumps(report, indent=2, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(text + "\n")
    return path


def environment(*, seed: int, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Command, code, machine, versions, seed and date of this process."""
    device = torch.device(device)
    machine = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "vadd": vadd.__version__,
    }
    return {
        "command": _command(),
        "git": _git(),
        "machine": machine,
        "versions": versions,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command() -> str:
    """The command line, without the folders that are this machine's own."""
    script = Path(sys.argv[0])
    absolute = script.resolve()
    shown = absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else Path(script.name)
    return shlex.join(["python", str(shown), *sys.argv[1:]])


def _git() -> dict[str, Any]:
    """Commit, and whether files differ from it; earlier results do not count. None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
