"""Run the benchmarks behind the result files again, by the commands in them, then write tables and pictures anew.

Those that took longer than ``--minutes`` by their own report are named with their time and left out; ``--all`` runs
them, too. ``--list`` runs nothing, and says what a run would take. A benchmark whose report has no times counts as
short, as all such are. What is
finished under ``outputs`` is not trained again: remove it to begin anew. Data are looked for in the folder that the
variable ``VADD_DATA`` names.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tables_shared  # noqa: E402

# These read what digits_svi.py leaves.
AFTER_DIGITS = ("infill", "steps_vs_quality")
_JUDGE = (
    "python benchmarks/train_judge.py --text wikitext2 --tokenizer {} --detokenizer wikitext --length 128 "
    "--batch-size 8 --updates 400 --depth 3 --out outputs/judges/{}"
)
# Whose command needs what others leave: judges, or runs to merge, here of every design with every seed, which is more
# than the tables show.
BEFORE = {
    "text_wikitext2-gpt2": [_JUDGE.format("gpt2", "wikitext2-gpt2")],
    "text_wikitext2-bert": [_JUDGE.format("bert-base-uncased", "wikitext2-bert")],
    "latent_design": [
        "python benchmarks/latent_design.py --seeds 0 1 --to-the-end",
        "python benchmarks/latent_design.py --seeds 2",
    ],
}


class Benchmark(NamedTuple):
    """A result file's name, the commands that made it, and the seconds that it reports, which they took at least."""

    name: str
    commands: list[str]
    seconds: float


def seconds_in(found: Any) -> Iterator[float]:
    """The times of training, and of whole sections, anywhere in a report."""
    if isinstance(found, list):
        for part in found:
            yield from seconds_in(part)
    elif isinstance(found, dict) and "by_steps" in found:  # a toy's model
        yield found["seconds"]
    elif isinstance(found, dict) and "training_seconds" in found:
        yield from found["training_seconds"].values()
    elif isinstance(found, dict) and "cpu_seconds" in found:  # a design, the mean over its seeds
        yield found["cpu_seconds"]["mean"] * len(found["seeds"])
    elif isinstance(found, dict) and "seconds_of_this_call" in found:
        yield found["seconds_of_this_call"] or 0.0
    elif isinstance(found, dict) and ("environment" in found or "mutants_in_all" in found):  # a section, all mutants
        yield found["seconds"]
    elif isinstance(found, dict):
        for part in found.values():
            yield from seconds_in(part)


def commands_of(report: dict[str, Any]) -> list[str]:
    """The command of a report, or those of its sections where they were measured apart."""
    parts = report["results"].values()
    sections = [part["environment"] for part in parts if isinstance(part, dict) and "environment" in part]
    return list(dict.fromkeys(part["command"] for part in sections)) or [report["command"]]


def benchmarks() -> list[Benchmark]:
    """Those on a CPU, in an order in which they can run."""
    found = []
    for path in sorted(tables_shared.RESULTS.glob("*.json"), key=lambda path: (path.stem in AFTER_DIGITS, path.stem)):
        report = json.loads(path.read_text())
        if report["machine"]["device"] == "cpu":
            commands = [*BEFORE.get(path.stem, []), *commands_of(report)]
            # Its own process may have gone on with runs of earlier ones, or have done more than train.
            seconds = max(sum(seconds_in(report["results"])), report.get("seconds_of_process", 0.0))
            found.append(Benchmark(path.stem, commands, seconds))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run what is short enough, name what is not; the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=75.0, help="that a benchmark may have taken")
    parser.add_argument("--all", action="store_true", help="run the long ones, too")
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    failed, total = 0, 0.0
    for benchmark in benchmarks():
        runs = args.all or benchmark.seconds <= 60 * args.minutes
        total += benchmark.seconds if runs else 0
        time = f"at least {benchmark.seconds / 60:.0f} minutes" if benchmark.seconds else "no time in its report"
        print(f"{benchmark.name}: {time}{'' if runs else ', left out'}: {'; '.join(benchmark.commands)}", flush=True)
        for line in benchmark.commands if runs and not args.list else ():
            _, *command = shlex.split(line)
            if subprocess.run([sys.executable, *command], cwd=tables_shared.ROOT).returncode != 0:
                failed += 1
                break
    if args.list:
        print(f"what is not left out: at least {total / 3600:.1f} hours")
    else:
        for program in ("benchmarks/tables.py", "benchmarks/pictures.py"):
            failed += subprocess.run([sys.executable, program], cwd=tables_shared.ROOT).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
