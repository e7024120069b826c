"""Faults injected into training programs: what survives, what it costs, and what a person is told.

The program is ``reliability_program.py``: a small VADD on scikit-learn's digits, with dropout, a moving average, a
learning-rate and a KL schedule, and a snapshot every 10 of 240 updates. A fault counts as survived if all its checks
hold; the checks that failed are listed. Seconds to recover run from starting the program again to its first new update,
Python's imports included. Run ``python benchmarks/reliability.py``; ``--smoke`` does a handful.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vadd.data import load_digits_tokens
from vadd.recipes import get_recipe
from vadd.reporting import write_report
from vadd.training import warmup_cosine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NUM_UPDATES = 240

sys.path.insert(0, str(ROOT / "benchmarks"))
from reliability_interruptions import (  # noqa: E402
    dying_process,
    dying_reader,
    full_disk,
    memory,
    sigkill,
    signals,
    unwritable,
)
from reliability_lab import SAVE_EVERY, Fault, Lab, newest  # noqa: E402
from reliability_program import make_pair, make_trainer  # noqa: E402
from reliability_snapshots import (  # noqa: E402
    bad_snapshots,
    hostile_snapshots,
    nan_gradients,
)


def timed(function: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one thread on the processor, which other programs leave alone, and by the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}


def trainer_cost(repeats: int, num_updates: int, hidden_size: int, batch_size: int) -> dict[str, Any]:
    """Seconds an update of the Trainer and of a loop written by hand, in turns."""
    tokens = load_digits_tokens().train

    def by_trainer() -> dict[str, float]:
        trainer = make_trainer(
            None, num_updates=num_updates, save_every=None, hidden_size=hidden_size, batch_size=batch_size, data=tokens
        )
        return timed(trainer.fit)

    def by_hand() -> dict[str, float]:
        model, guide = make_pair(hidden_size)
        pair, recipe = torch.nn.ModuleList([model, guide]), get_recipe()
        average = AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        parameters = [p for p in pair.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        scheduler, kl_weight = warmup_cosine(num_updates, 10)(optimizer), recipe.kl_schedule(num_updates)
        objective = recipe.objective(model.process)
        loss_fn = objective(model, guide)
        pair.train()

        def fit() -> None:
            for step in range(num_updates):
                if step == 1:
                    model.process.validate_args = False  # as the Trainer does
                objective.kl_weight = kl_weight(step)
                loss = loss_fn(tokens[torch.randint(len(tokens), (batch_size,))])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                average.update_parameters(pair)

        return timed(fit)

    by_trainer(), by_hand()  # what is set up at the first call
    pairs = []
    for i in range(repeats):
        turns = [("trainer", by_trainer), ("by_hand", by_hand)]
        pairs.append({name: run() for name, run in (turns if i % 2 else reversed(turns))})
    cost: dict[str, Any] = {
        "hidden_size": hidden_size,
        "batch_size": batch_size,
        "updates": num_updates,
        "repeats": repeats,
    }
    for clock in ("processor", "clock"):
        ratios = [pair["trainer"][clock] / pair["by_hand"][clock] for pair in pairs]
        cost[clock] = {
            "seconds_an_update": {
                name: statistics.median(pair[name][clock] for pair in pairs) / num_updates
                for name in ("trainer", "by_hand")
            },
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    return cost


def faults(lab: Lab, is_smoke: bool) -> Iterator[Fault]:
    """All faults, one after the other."""
    if is_smoke:
        yield sigkill(lab, 2, in_saves=1)
        yield from bad_snapshots(lab, flips=1, cuts=0)
        yield from list(nan_gradients(lab, 1))[1:]
        return
    yield sigkill(lab, 20, in_saves=8, at_start=2)
    yield from signals(lab, 3)
    yield from full_disk(lab)
    yield from unwritable(lab)
    yield from bad_snapshots(lab, flips=20, cuts=4)
    yield from hostile_snapshots(lab)
    yield from nan_gradients(lab, 2)
    yield dying_reader(lab, 3)
    yield dying_process(lab, (0, 1), (2, 1))
    yield memory(lab, (500, 2000))


def main(argv: list[str] | None = None) -> int:
    """Inject the faults and write the JSON file; the number of tries not survived is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the JSON file; default benchmarks/results")
    parser.add_argument("--smoke", action="store_true", help="a handful of faults, to see that everything runs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = args.out or (ROOT / "outputs" / "benchmarks" if args.smoke else RESULTS)
    with tempfile.TemporaryDirectory() as root:
        lab = Lab(Path(root), num_updates=40 if args.smoke else NUM_UPDATES, seed=args.seed)
        found = []
        for fault in faults(lab, args.smoke):
            report = fault.report()
            found.append(report)
            wait = report["seconds_to_recover"]
            shown = "" if wait is None else f", {wait['median']:.1f} s to recover (at most {wait['max']:.1f})"
            print(f"{fault.name}: {fault.survived} of {fault.tried}{shown}", *fault.failures, sep="\n  ", flush=True)
        size = sum(path.stat().st_size for path in newest(lab.plain).rglob("*") if path.is_file())
        sizes = ((64, 32),) if args.smoke else ((64, 32), (256, 128))
        results = {
            "program": {
                "updates": lab.num_updates,
                "save_every": SAVE_EVERY,
                "seconds_an_update": lab.update_seconds,
                "parameters": len(lab.weights["weights"]) if lab.weights else 0,
            },
            "faults": found,
            "snapshot": {
                "bytes": size,
                "seconds": {"median": statistics.median(lab.saves), "max": max(lab.saves)},
                "saves": len(lab.saves),
            },
            "trainer": [trainer_cost(1 if args.smoke else 5, 10 if args.smoke else 200, *s) for s in sizes],
        }
    for cost in results["trainer"]:
        ratios = [f"{cost[clock]['ratio']['median']:.2f} {clock}" for clock in ("processor", "clock")]
        print(f"Trainer against a loop by hand, {cost['hidden_size']} wide: {', '.join(ratios)}")
    path = write_report("reliability", results, seed=args.seed, folder=folder)
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}")
    return sum(report["tried"] - report["survived"] for report in found)


if __name__ == "__main__":
    sys.exit(main())
