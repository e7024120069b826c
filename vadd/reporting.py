"""Results beside what is needed to judge and repeat them: command, commit, machine, versions, seed, time."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyro
import torch

from vadd._version import __version__
from vadd.errors import ConfigError
from vadd.storage.files import write_text

__all__ = ["environment", "write_report"]

_IMPORTED = time.monotonic()  # about when a program begins: there is no portable way to ask when its process did
_RESULTS = ":(exclude,top)benchmarks/results"  # earlier results do not make a tree dirty


def write_report(
    name: str,
    results: dict[str, Any],
    *,
    seed: int,
    folder: Path,
    device: str | torch.device = "cpu",
) -> Path:
    """Write ``results`` and the environment of this process to ``folder/name.json``.

    Args:
        name: of the benchmark, without suffix.
        results: what JSON can hold, which NaN and infinity are not.
        seed: the seed of the run.
        folder: created if missing.
        device: the device that was measured.

    Returns:
        The path of the file.

    Raises:
        ConfigError: if JSON cannot hold the results.
    """
    report = {"name": name, **environment(seed=seed, device=device), "results": results}
    try:
        text = json.dumps(report, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"results must be values that JSON can hold, numbers that are finite: {error}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_text(path, text + "\n")
    return path


def environment(*, seed: int, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Command, code, machine, versions, seed, date and time taken of this process.

    ``"seconds_of_process"`` are wall-clock seconds since this module was imported, which programs do when they begin.
    They are of one process: what earlier ones of a resumed run took, or those behind merged files, is not in them.
    """
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
        "vadd": __version__,
    }
    return {
        "command": _command(),
        "git": _git(),
        "machine": machine,
        "versions": versions,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_of_process": round(time.monotonic() - _IMPORTED, 1),
    }


def _script() -> Path:
    return Path(sys.argv[0]).resolve()


def _command() -> str:
    """The command line, without the folders that are this machine's own."""
    root = _git_output("rev-parse", "--show-toplevel")
    script = _script()
    shown = script.relative_to(root) if root is not None and script.is_relative_to(root) else Path(script.name)
    return shlex.join(["python", str(shown), *sys.argv[1:]])


def _git() -> dict[str, Any]:
    """Commit of the script's repository, and whether files differ from it; result files do not count."""
    root = _git_output("rev-parse", "--show-toplevel")
    commit = _git_output("rev-parse", "HEAD")
    if root is None or commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git_output("status", "--porcelain", "--", ":/", _RESULTS))}


def _git_output(*arguments: str) -> str | None:
    """What git says in the script's folder; None outside a repository."""
    command = ["git", "-C", str(_script().parent), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
