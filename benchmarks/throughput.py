"""Throughput: training, sampling and evaluation, each against an alternative in the same run.

Sections: ``step``, the masked diffusion model's training step against that of public code; ``memory``, the same with
activations computed again; ``vadd``, VADD's against it; ``pyro``, the Pyro estimator against a loss written by hand;
``sampling``, ``evaluation``; ``scaling`` with the sizes and ``processes``; on a GPU also ``accelerator``. Alternatives
take turns under equal seeds; reported are medians and quartiles of the ratios within a round. Times are those of the
processor with one thread on a CPU, which other work disturbs less, and otherwise by the clock. Run ``python
benchmarks/throughput.py``; ``--only`` measures some of the sections and keeps the others of an earlier run, each with
the command, commit and machine that it comes from.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vadd.reporting import environment, write_report

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT / "benchmarks"))
from measuring import parse_timing, timing_parser  # noqa: E402
from tables_speed import THROUGHPUT  # noqa: E402
from throughput_accelerator import measure_accelerator  # noqa: E402
from throughput_memory import measure_memory  # noqa: E402
from throughput_pyro import measure_pyro  # noqa: E402
from throughput_running import measure_evaluation, measure_sampling  # noqa: E402
from throughput_scaling import measure_processes, measure_scaling  # noqa: E402
from throughput_shared import Bench  # noqa: E402
from throughput_training import measure_step, measure_vadd  # noqa: E402

SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "step": measure_step,
    "memory": measure_memory,
    "vadd": measure_vadd,
    "pyro": measure_pyro,
    "sampling": measure_sampling,
    "evaluation": measure_evaluation,
    "scaling": measure_scaling,
    "processes": measure_processes,
    "accelerator": measure_accelerator,
}


def earlier(path: Path) -> dict[str, Any]:
    """The sections that a file holds."""
    return json.loads(path.read_text())["results"] if path.exists() else {}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = timing_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), metavar="SECTION", help="default all")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which a section begins no further case")
    args = parse_timing(parser, argv)
    if args.device == "cpu" and "accelerator" in (args.only or ()):
        parser.error("--only accelerator needs --device cuda.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch can use; leave it out to measure the CPU.")
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure the sections one by one, print their tables and write the JSON file after each."""
    args = parse(argv)
    name = "throughput" if args.device == "cpu" else f"throughput-{args.device}"
    bench = Bench(
        torch.device(args.device),
        seed=args.seed,
        rounds=args.rounds,
        is_smoke=args.smoke,
        minutes=args.minutes,
    )
    results = earlier(args.out / f"{name}.json") if args.only else {}
    for section in args.only or [key for key in SECTIONS if args.device == "cuda" or key != "accelerator"]:
        began = time.monotonic()
        bench.begin()
        measured = SECTIONS[section](bench)
        results[section] = {
            "environment": environment(seed=args.seed, device=args.device),
            "clock": bench.clock,
            "seconds": round(time.monotonic() - began, 1),
            **measured,
        }
        print(f"\n{section}, {results[section]['seconds']:.0f} s\n\n{THROUGHPUT[section](results[section])}")
        path = write_report(name, results, seed=args.seed, device=args.device, folder=args.out)
        print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}", flush=True)


if __name__ == "__main__":
    main()
