"""What the benchmarks of time and memory share: steps in turns, counted operations, peak memory, exponents."""

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Step = Callable[[], Any]

LEARNING_RATE = 1e-4
#: Operations in which the host of a GPU waits for it.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")


def timing_parser(description: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """The options that benchmarks of time share.

    Args:
        description: of the benchmark.
        threads: of a CPU operation by default; None for PyTorch's.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=threads, help="threads of a CPU operation")
    parser.add_argument("--rounds", type=int, help="of each comparison; default its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the JSON file; default benchmarks/results")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that everything runs")
    return parser


def parse_timing(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The command line of such a parser, checked; threads are set, and where to write is filled in."""
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 2:
        parser.error(f"--rounds must be at least 2, as quartiles need it; got {args.rounds}.")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.smoke:
        args.rounds = 2
    # A smoke run's timings mean nothing and must not replace those that do.
    args.out = args.out or (ROOT / "outputs" / "benchmarks" if args.smoke else RESULTS)
    return args


class TrainingStep:
    """A training step with AdamW.

    Args:
        loss_fn: the loss as a module, called with ``x_0``.
        x_0: tokens, shape ``(batch, dim)``.
        fused: whether the optimizer is PyTorch's fused one.
        optimizer: one that is there already, for losses that share their networks; default a new one.
        is_bf16: whether the loss is computed under autocast to bfloat16.
    """

    def __init__(
        self,
        loss_fn: nn.Module,
        x_0: Tensor,
        *,
        fused: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        is_bf16: bool = False,
    ) -> None:
        self.loss_fn, self.x_0, self.is_bf16 = loss_fn, x_0, is_bf16
        self.optimizer = optimizer or torch.optim.AdamW(loss_fn.parameters(), lr=LEARNING_RATE, fused=fused)

    def __call__(self, *, keeps_gradients: bool = False) -> None:
        self.optimizer.zero_grad(set_to_none=not keeps_gradients)
        with torch.autocast(self.x_0.device.type, torch.bfloat16, enabled=self.is_bf16):
            loss = self.loss_fn(self.x_0)
        loss.backward()
        self.optimizer.step()

    def peak_memory(self, seed: int) -> int:
        """Bytes at the peak of a step, above parameters, gradients and the optimizer's state."""
        self()  # these are there after a first step
        torch.manual_seed(seed)
        return peak_memory(lambda: self(keeps_gradients=True), self.x_0.device)


class Rounds(NamedTuple):
    """How often alternatives are timed: until the seconds are spent, but so often at least and at most."""

    least: int
    most: int
    seconds: float


def time_in_turns(
    steps: Mapping[str, Step],
    *,
    rounds: int | Rounds,
    warmup: int,
    seed: int,
    device: torch.device,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each step in each round, in an order that rotates, under equal seeds within a round.

    Args:
        steps: the alternatives by their names.
        rounds: how often each runs, after ``warmup`` more times that are not counted.
        seed: of the first round; each has its own.
        device: waited for around each step.
        clock: in seconds; default time on the clock.
    """
    least, most, seconds = rounds if isinstance(rounds, Rounds) else (rounds, rounds, math.inf)
    clock = time.perf_counter if clock is None else clock
    names, began = list(steps), time.monotonic()
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-warmup, most):
        if index >= least and time.monotonic() - began > seconds:
            break
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            torch.manual_seed(seed + warmup + index)
            synchronize(device)
            start = clock()
            steps[name]()
            synchronize(device)
            if index >= 0:
                times[name].append(1e3 * (clock() - start))
    return times


def compare(steps: Mapping[str, Step], *, warmup: int, **timing: Any) -> dict[str, Any]:
    """Time steps in turns; the first is the baseline, and ratios are taken within a round.

    Args:
        steps, warmup, **timing: as in :func:`time_in_turns`.
    """
    times = time_in_turns(steps, warmup=warmup, **timing)
    names = list(steps)
    baseline = times[names[0]]
    results = {}
    for name in names:
        row = {"ms": spread(times[name])}
        if name != names[0]:
            pairs = list(zip(times[name], baseline, strict=True))
            row["ratio"] = spread([mine / base for mine, base in pairs])
            row["difference_ms"] = spread([mine - base for mine, base in pairs])
        results[name] = row
    return {"baseline": names[0], "rounds": len(baseline), "warmup": warmup, "steps": results}


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def goal(got: float, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """What was aimed at, and whether it was met."""
    if at_least is not None:
        return {"at_least": at_least, "got": got, "met": got >= at_least}
    assert at_most is not None
    return {"at_most": at_most, "got": got, "met": got <= at_most}


def count_operations(run: Step) -> tuple[Any, int]:
    """What a function returns, and the floating-point operations of its matrix products, attention's included."""
    # The fused attention kernel of a CPU goes uncounted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = run()
    return result, counter.get_total_flops()


def peak_memory(run: Step, device: torch.device) -> int:
    """Most bytes allocated at a time while a function runs, above what was allocated before.

    On a CPU these are PyTorch's own allocations; what libraries take for themselves goes uncounted.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return max(itertools.accumulate((e.nbytes() for e in events), initial=0))


def count_waits(run: Step, device: torch.device) -> dict[str, int]:
    """How often the host waits for the device while a function runs, at least.

    On a GPU those are PyTorch's own warnings of calls that synchronize, of which it says that some go unnoticed; on a
    CPU, where nothing is waited for, how often each of :data:`WAITS` runs.
    """
    synchronize(device)
    if device.type == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return {"synchronizations": sum("called a synchronizing CUDA operation" in str(w.message) for w in caught)}
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    found = {event.key: event.count for event in profiler.key_averages() if event.key in WAITS}
    return {name: found.get(name, 0) for name in WAITS}


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares exponent ``a`` of ``y = c x^a``, in logarithms."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def count_parameters(module: nn.Module) -> int:
    """Number of numbers that are trained."""
    return sum(parameter.numel() for parameter in module.parameters())
