r"""Mutation testing of the mathematical core: which share of small mistakes, put in one at a time, the tests notice.

Mutants are those of Cosmic Ray and ``mutation_operators.py``, which also says what is left out. A sample is drawn
uniformly over all mutants of all modules of the core before any is run. Each is put into a clone of the last commit
and tested in a process of its own, with the quick tests (no ``slow`` or ``gpu`` mark) that

- lie in ``tests/laws`` or where ``tests`` mirrors the module: ``tests/objectives`` for ``vadd/objectives/elbo.py``, and
- run the function with the mutation, as coverage of the unmutated code says; all of them for code outside functions,

quickest first, until one fails. Tests that do not pass without a mutation are left out, and named in the report. A
test that takes longer than ``5 x`` its time and a minute has noticed the mutant, and is counted apart.

Mutants that change nothing that a test could see stand in ``mutation_equivalent.json``, each with a reason; they are
not run, and no part of the rate. Interrupted, the program goes on where it stopped: outcomes are kept under
``outputs/mutation`` while the mutant's module is unchanged, except survivors of other tests or other code around the
module, which are run again.
"""

import argparse
import ast
import contextlib
import difflib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from cosmic_ray import plugins
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.work_item import MutationSpec
from coverage import CoverageData
from mutation_operators import OPERATORS, Source, positions
from scipy.stats import binomtest

from vadd.reporting import write_report

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "benchmarks" / "mutation_equivalent.json"
CORE = (
    *("vadd/schedules.py", "vadd/process.py", "vadd/distributions", "vadd/priors"),
    *("vadd/objectives", "vadd/samplers", "vadd/evaluation"),
)
GOAL = 0.9
PYTEST = ("pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "mutation_plugin")


class Mutant(NamedTuple):
    """A mutation of a module: the operator's which, where, in which function, and the lines that it changes."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int
    function: str | None
    diff: tuple[str, ...]


def modules_of(root: Path, core: Sequence[str]) -> list[str]:
    """The files of the core, as paths in the repository."""
    found = [path for part in core for path in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))]
    return sorted(path.relative_to(root).as_posix() for path in found)


def draw_sample(root: Path, modules: Sequence[str], count: int, seed: int) -> tuple[list[Mutant], int]:
    """So many mutants, uniformly without replacement, and the number of all; a larger sample begins with a smaller."""
    sources = {module: Source((root / module).read_text()) for module in modules}
    pool = [(module, *place) for module, source in sources.items() for place in positions(source)]
    random.Random(seed).shuffle(pool)
    sample = []
    for module, operator, occurrence, place in pool:
        if len(sample) == count:
            break
        source = sources[module]
        text: Any = mutate_code(source.text, plugins.get_operator(operator)(), occurrence)
        if ast.dump(ast.parse(text)) != ast.dump(ast.parse(source.text)):
            function = source.function_at(place)
            name = None if function is None else function.name
            sample.append(Mutant(module, operator, occurrence, *place, name, changed_lines(source.text, text)))
    return sample, len(pool)


def changed_lines(before: str, after: str) -> tuple[str, ...]:
    """The lines that differ, with their signs."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return tuple(line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---"))


def clone(root: Path, tree: Path) -> None:
    """The last commit as a tree of its own, without what an interrupted run left there."""
    commit = git(root, "rev-parse", "HEAD")
    if not tree.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", root, tree], check=True)
    git(tree, "fetch", "--quiet", "origin")
    git(tree, "checkout", "--quiet", "--force", "--detach", commit)


def git(folder: Path, *arguments: str) -> str:
    """What git says there."""
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_folders(tree: Path, module: str) -> list[str]:
    """The tests of a module by the rule above."""
    unit = Path(module).with_suffix("").parts[1]
    return [name for name in ("tests/laws", f"tests/{unit}", f"tests/test_{unit}.py") if (tree / name).exists()]


class Tests:
    """What the tests of a folder or file do without a mutation: the seconds and the lines of each.

    Args:
        folder: of the tests.
        store: what was measured before, if it exists.
    """

    def __init__(self, folder: str, package: str, store: Path) -> None:
        if not store.exists():
            store.write_text(json.dumps(self._measure(folder, package, store)))
        measured = json.loads(store.read_text())
        self.seconds: dict[str, float] = measured["seconds"]
        self.failed: list[str] = measured["failed"]
        self._tests_of_lines: dict[str, dict[str, list[str]]] = measured["tests_of_lines"]

    @staticmethod
    def _measure(folder: str, package: str, store: Path) -> dict[str, Any]:
        data, notes = store.with_suffix(".coverage"), store.with_suffix(".notes")
        covered = ("coverage", "run", f"--data-file={data}", f"--source={package}", "-m")
        failed: set[str] = set()
        for measuring in (covered, ()):  # the second run is one as for a mutant
            with patch.dict(os.environ, MUTATION_TESTS=str(notes), PYTHONDONTWRITEBYTECODE=""):
                # The status is not zero if a test fails; what it needs to be known from is written either way.
                subprocess.run([sys.executable, "-m", *measuring, *PYTEST, folder], stdout=subprocess.DEVNULL)
            noted = json.loads(notes.read_text())
            failed |= set(noted["failed"])
        found = CoverageData(str(data))
        found.read()
        lines = {
            Path(path).relative_to(Path.cwd()).as_posix(): {
                line: [test for test in tests if test] for line, tests in found.contexts_by_lineno(path).items()
            }
            for path in found.measured_files()
        }
        if not any(tests for file in lines.values() for tests in file.values()):
            raise RuntimeError(f"no test of {folder} runs a line of {package}: is it this tree's that they import?")
        return {"seconds": noted["seconds"], "failed": sorted(failed), "tests_of_lines": lines}

    def of_lines(self, module: str, lines: range | None) -> set[str]:
        """The tests that run one of these lines of a module; all for None."""
        if lines is None:
            return set(self.seconds) - set(self.failed)
        tests_of_lines = self._tests_of_lines.get(module, {})
        return {test for line in lines for test in tests_of_lines.get(str(line), ())} - set(self.failed)


def select_tests(mutant: Mutant, source: Source, known: Sequence[Tests]) -> dict[str, float]:
    """The tests for a mutant with their seconds, quickest first."""
    function = source.function_at((mutant.line, mutant.column))
    lines = None if function is None else range(function.lineno, (function.end_lineno or 0) + 1)
    found = [(tests.seconds[name], name) for tests in known for name in tests.of_lines(mutant.module, lines)]
    return {name: seconds for seconds, name in sorted(found)}


def run_mutant(mutant: Mutant, tests: dict[str, float], arguments: Path) -> tuple[str, str | None]:
    """Outcome, and what noticed the mutant."""
    if not tests:
        return "survived", None
    arguments.write_text("\n".join(tests))
    place = (mutant.line, mutant.column)
    mutation = MutationSpec(
        Path(mutant.module), mutant.operator, mutant.occurrence, place, (mutant.line, mutant.column + 1)
    )
    command = " ".join([sys.executable, "-m", *PYTEST, "-x", f"@{arguments}"])
    result = mutate_and_test([mutation], command, 60 + 5 * sum(tests.values()))
    output = result.output or ""
    if result.test_outcome == "survived":
        return "survived", None
    if result.test_outcome != "killed" or "ERROR: not found" in output:
        raise RuntimeError(f"the tests of {mutant} could not be run: {output}")
    if output == "timeout":
        return "timeout", None
    return "killed", next((x for x in output.splitlines() if x.startswith(("FAILED", "ERROR"))), output[-300:])


def state_of(tree: Path, package: str) -> str:
    """What the outcome of a mutant rests on: the package and its tests."""
    return "-".join(git(tree, "rev-parse", "--short=12", f"HEAD:{name}") for name in (package, "tests"))


def go_through(sample: Sequence[Mutant], tree: Path, folder: Path, state: str, known: list[Any]) -> Iterator[dict]:
    """The outcome of each mutant, run unless it is known, and written down as soon as it is."""
    path = folder / "outcomes.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(row["source"], row["operator"], row["occurrence"]): row for row in map(json.loads, lines)}
    equivalent = {(row["module"], row["function"], tuple(row["diff"])) for row in known}
    tests: dict[str, Tests] = {}
    for mutant in sample:
        source = git(tree, "rev-parse", f"HEAD:{mutant.module}")
        if (mutant.module, mutant.function, mutant.diff) in equivalent:
            yield {**mutant._asdict(), "outcome": "equivalent"}
            continue
        row = done.get((source, mutant.operator, mutant.occurrence))
        if row is None or (row["outcome"] == "survived" and row["state"] != state):
            folders = test_folders(tree, mutant.module)
            for name in folders:
                if name not in tests:
                    store = folder / f"{Path(name).stem}-{state}.json"
                    tests[name] = Tests(name, Path(mutant.module).parts[0], store)
            text = Source((tree / mutant.module).read_text())
            chosen = select_tests(mutant, text, [tests[name] for name in folders])
            start = time.monotonic()
            outcome, by = run_mutant(mutant, chosen, folder / "tests.txt")
            row = {**mutant._asdict(), "outcome": outcome, "by": by, "tests": len(chosen)}
            row |= {"seconds": round(time.monotonic() - start, 1), "source": source, "state": state}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        yield row


def summarize(rows: Sequence[dict[str, Any]], pool: int, left_out: Sequence[str]) -> dict[str, Any]:
    """The rate with its interval, the counts by module, and the survivors.

    Args:
        rows: the outcomes.
        pool: number of all mutants.
        left_out: tests that do not pass without a mutation.
    """
    counted = [row for row in rows if row["outcome"] != "equivalent"]
    noticed = sum(row["outcome"] != "survived" for row in counted)
    interval = binomtest(noticed, len(counted)).proportion_ci(0.95, method="wilson")
    modules: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = modules.setdefault(row["module"], dict.fromkeys(("killed", "timeout", "survived", "equivalent"), 0))
        counts[row["outcome"]] += 1
    shown = ("module", "line", "function", "operator", "diff", "tests")
    return {
        "mutants_in_all": pool,
        "sample": len(rows),
        "equivalent": len(rows) - len(counted),
        "killed": noticed,
        "killed_by_timeout": sum(row["outcome"] == "timeout" for row in counted),
        "killed_by_import": sum(row["by"] is not None and "::" not in row["by"] for row in counted),
        "rate": noticed / len(counted),
        "rate_95_percent": [interval.low, interval.high],
        "goal": {"at_least": GOAL, "met": noticed >= GOAL * len(counted)},
        "modules": dict(sorted(modules.items())),
        "survivors": [{key: row[key] for key in shown} for row in counted if row["outcome"] == "survived"],
        "tests_left_out": sorted(left_out),
        "operators": OPERATORS,
        "seconds": sum(row["seconds"] for row in counted),
    }


def main(argv: list[str] | None = None) -> None:
    """Draw, run, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="MODULE", help="draw from this file or folder alone")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; default benchmarks/results")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    folder = root / "outputs" / "mutation"
    folder.mkdir(parents=True, exist_ok=True)
    out = args.out or (folder if args.only else ROOT / "benchmarks" / "results")
    tree = folder / "tree"
    clone(root, tree)
    modules = modules_of(tree, args.only or CORE)
    state = state_of(tree, Path(modules[0]).parts[0])
    sample, pool = draw_sample(tree, modules, args.num_mutants, args.seed)
    known = json.loads(EQUIVALENT.read_text())
    rows = []
    # CI: Hypothesis draws the same examples in each run.
    with contextlib.chdir(tree), patch.dict(os.environ, CI="1", PYTHONPATH=str(Path(__file__).resolve().parent)):
        for row in go_through(sample, tree, folder, state, known):
            rows.append(row)
            print(f"{len(rows)}/{len(sample)} {row['outcome']}: {row['module']}:{row['line']}", flush=True)
            if row["outcome"] == "survived":
                print("\n".join(row["diff"]), flush=True)
    measured = [json.loads(path.read_text())["failed"] for path in folder.glob(f"*-{state}.json")]
    results = summarize(rows, pool, list(itertools.chain(*measured)))
    low, high = results["rate_95_percent"]
    print(
        f"{results['killed']} of {len(rows) - results['equivalent']}: {results['rate']:.1%} ({low:.1%} to {high:.1%})"
    )
    write_report("mutation", results, seed=args.seed, folder=out)


if __name__ == "__main__":
    main()
