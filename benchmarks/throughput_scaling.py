"""How time and memory grow: of a training step, of a bound, and of training with the number of processes."""

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from throughput_shared import ROOT, Bench

from vadd.evaluation import log_likelihood_bound

# What follows is found through throughput_shared.
# isort: split
from measuring import Step, TrainingStep, count_operations, fit_exponent, goal, peak_memory, spread, time_in_turns
from reliability_lab import free_port
from throughput_training import mean_operations, step_of

BASE = {"vocab_size": 1000, "batch_size": 4}
#: Above what the arithmetic demands: noise, and caches that larger sizes leave.
TOLERANCE = 0.1


class Axis(NamedTuple):
    """A size that grows while the others stay, and the exponents that it demands at most, of operations and memory."""

    name: str
    values: Sequence[int]
    small: Sequence[int]
    time: float
    memory: float


#: Attention takes the square of the length in time, and keeps no scores; a bound sums up its latents as they come.
LATENTS = Axis("latents of a bound", (8, 16, 32, 64), (2, 4, 6, 8), 1, 0)
AXES = (
    Axis("length", (64, 128, 256, 512), (4, 8, 12, 16), 2, 1),
    Axis("vocab_size", (1000, 4000, 16_000, 64_000), (10, 20, 40, 80), 1, 1),
    Axis("batch_size", (2, 4, 8, 16), (2, 3, 4, 5), 1, 1),
    Axis("latent_size", (16, 64, 256, 1024), (2, 3, 4, 5), 1, 1),
)

PROGRAM = ROOT / "benchmarks" / "throughput_program.py"
PROGRAM_SECONDS = 600


def measure_scaling(bench: Bench) -> dict[str, Any]:
    """Exponents of time and peak memory along every axis, for the default recipe."""
    rows, left_out = [], []
    for axis in (*AXES, LATENTS):
        if not bench.has_time:
            left_out.append(axis.name)
            continue
        values = axis.small if bench.is_smoke else axis.values
        if axis is LATENTS:
            steps, memory = bounds_of(bench, values)
            operations = [count_operations(step)[1] for step in steps.values()]
        else:
            training = {value: training_of(bench, **{axis.name: value}) for value in values}
            steps: Mapping[str, Step] = {str(value): step for value, step in training.items()}
            memory = [step.peak_memory(bench.seed) for step in training.values()]
            operations = [mean_operations(step, bench.seed) for step in training.values()]
        times = time_in_turns(steps, **bench.timing(least=3, most=10, seconds=15))
        rows.append(growth(axis, values, list(times.values()), memory, operations))
    return {"network": name_of(bench), "rows": rows, "left_out": left_out}


def growth(
    axis: Axis, values: Sequence[int], times: list[list[float]], memory: list[int], operations: Sequence[float]
) -> dict[str, Any]:
    """Exponents over all values by least squares, that of time within each round, and between the two largest.

    Small sizes hide growth that has only begun, and so it is the two largest that are judged: operations by what the
    axis demands, and time by the operations.

    Args:
        axis: what grew.
        values: to what.
        times: milliseconds of each round, for each of the values.
        memory, operations: bytes and floating-point operations for each of them.
    """
    rounds = list(zip(*times, strict=True))
    last = {
        "time": statistics.median(fit_exponent(values[-2:], of_round[-2:]) for of_round in rounds),
        "memory": fit_exponent(values[-2:], memory[-2:]),
        "operations": fit_exponent(values[-2:], operations[-2:]),
    }
    return {
        "axis": axis.name,
        "values": list(values),
        "rounds": len(rounds),
        "ms": [statistics.median(of_value) for of_value in times],
        "bytes": memory,
        "operations": list(operations),
        "exponents": {
            "time": spread([fit_exponent(values, of_round) for of_round in rounds]),
            "memory": fit_exponent(values, memory),
        },
        "last": last,
        "goals": {
            "operations": goal(last["operations"], at_most=axis.time + TOLERANCE),
            "time": goal(last["time"], at_most=round(last["operations"] + TOLERANCE, 2)),
            "memory": goal(last["memory"], at_most=axis.memory + TOLERANCE),
        },
    }


def name_of(bench: Bench) -> str:
    """The network that grows."""
    dit = bench.text_preset("cpu").dit
    return f"{dit['depth']} x {dit['hidden_size']}"


def training_of(
    bench: Bench,
    *,
    vocab_size: int = BASE["vocab_size"],
    batch_size: int = BASE["batch_size"],
    length: int | None = None,
    latent_size: int | None = None,
) -> TrainingStep:
    """A step of the default recipe in these sizes."""
    preset = bench.text_preset("cpu")
    torch.manual_seed(bench.seed)
    pair = bench.text_pair("default", vocab_size, preset, length=length, latent_size=latent_size)
    return step_of("default", pair, bench.tokens(vocab_size, batch_size, length or preset.length))


def bounds_of(bench: Bench, values: Sequence[int]) -> tuple[dict[str, Step], list[int]]:
    """The marginal bound with so many latents, and the bytes at its peak, with a fixed number of rows a call."""
    preset = bench.text_preset("cpu")
    torch.manual_seed(bench.seed)
    pair = bench.text_pair("default", BASE["vocab_size"], preset)
    x_0 = bench.tokens(BASE["vocab_size"], 2, preset.length)
    bound: Callable[..., Any] = partial(
        log_likelihood_bound, *pair, x_0, bound="marginal", num_draws=1, rows_per_call=2 * values[0]
    )
    steps: dict[str, Step] = {str(value): partial(bound, num_latents=value) for value in values}
    return steps, [peak_memory(step, bench.device) for step in steps.values()]


def measure_processes(bench: Bench) -> dict[str, Any]:
    """Seconds of an update of one batch in one process and in two, in turns, each with one thread on a CPU."""
    settings: dict[str, Any] = {
        "num_updates": 4 if bench.is_smoke else 12,
        "batch_size": 4 if bench.is_smoke else 32,
        "seed": bench.seed,
        "is_smoke": bench.is_smoke,
        "device": bench.device.type,
    }
    # Processes run side by side: their time is that of the clock.
    result: dict[str, Any] = {
        "network": name_of(bench),
        "settings": settings,
        "clock": "wall",
        "rows": [],
        "left_out": [],
    }
    if reason := why_not_two(bench):
        result["left_out"].append(reason)
        return result
    seconds: dict[int, list[float]] = {1: [], 2: []}
    memory: dict[int, list[int]] = {1: [], 2: []}
    for index in range(2 if bench.is_smoke else bench.rounds or 3):
        for num in (1, 2) if index % 2 == 0 else (2, 1):
            measured = run_program(num, settings)
            seconds[num].append(statistics.median(measured["seconds"]))
            memory[num].append(measured["memory"])
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    result["rows"] = [
        {
            "processes": num,
            "seconds": spread(values),
            "sequences_per_second": settings["batch_size"] / statistics.median(values),
            "memory_per_process": statistics.median(memory[num]),
        }
        for num, values in seconds.items()
    ]
    result["speedup"] = spread(ratios)
    result["exponent"] = math.log2(result["speedup"]["median"])  # of the two points there are; 1 at best
    return result


def why_not_two(bench: Bench) -> str | None:
    """What keeps two processes from running side by side; None for nothing."""
    if importlib.util.find_spec("accelerate") is None:
        return "2 processes: training needs Accelerate, which is not installed"
    if not torch.distributed.is_available():
        return "2 processes: this PyTorch is built without torch.distributed"
    if bench.device.type == "cuda":
        num, what = torch.cuda.device_count(), "GPU"
    else:
        num, what = len(os.sched_getaffinity(0)), "core"
    return f"2 processes: there is 1 {what}" if num < 2 else None


def run_program(num: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the updates of the training program in so many processes, and the most memory of the main one.

    Raises:
        RuntimeError: if it failed, with its last words.
    """
    arguments = [str(PROGRAM), json.dumps(settings)]
    if num > 1:
        address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        arguments = ["-m", "torch.distributed.run", "--nproc-per-node", str(num), *address, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if settings["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=PROGRAM_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"training in {num} processes failed: {done.stderr[-1000:]}")
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
