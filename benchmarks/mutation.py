r"""Mutation testing of the mathematical core: which share of small mistakes, put in one at a time, the tests notice.

Mutants are those of Cosmic Ray and ``mutation_operators.py``, which also says what is left out. A sample is drawn
uniformly over all mutants of all modules of the core before any is run. Each is put into a clone of the last commit
and tested in a process of its own, with the quick tests (no ``slow`` or ``gpu`` mark) that

- lie in ``tests/laws`` or where ``tests`` mirrors the module: ``tests/objectives`` for ``vadd/objectives/elbo.py``, and
- run the function with the mutation, as coverage of the unmutated code says; all of them for code outside functions,

quickest first, until one fails. A test that does not pass without the mutation kills nothing, and is named in the
report. A test that keeps the processor for ten times what it took and half a minute is stopped; the mutant has been
noticed, and is counted apart, with those that crash.

Mutants that change nothing that a test could see stand in ``mutation_equivalent.json``, each with a reason; they are
not run, and no part of the rate. Interrupted, the program goes on where it stopped. It keeps outcomes under
``outputs/mutation`` while a mutant's module is as it was, and runs survivors again once the package or its tests have
changed.
"""

import argparse
import ast
import difflib
import hashlib
import json
import resource
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray import plugins
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_item import MutationSpec
from mutation_operators import OPERATORS, Source, positions
from mutation_tests import Tests, folders_of, run_mutant, run_tests
from scipy.stats import binomtest

from vadd.reporting import write_report

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "benchmarks" / "mutation_equivalent.json"
CORE = (
    *("vadd/schedules.py", "vadd/process.py", "vadd/distributions", "vadd/priors"),
    *("vadd/objectives", "vadd/samplers", "vadd/evaluation"),
)
GOAL = 0.9


class Mutant(NamedTuple):
    """A mutation of a module: by which operator, where, in which function, and the lines that it changes."""

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
    """So many mutants, uniformly without replacement, and the number of all; a larger sample begins with a smaller.

    Their order is that of a hash of seed, module, operator and line of code: a change elsewhere leaves it as it is.
    """
    sources = {module: Source((root / module).read_text()) for module in modules}
    pool, seen = [], Counter[str]()
    for module, source in sources.items():
        lines = source.text.splitlines()
        for operator, occurrence, (line, column) in positions(source):
            name = f"{seed} {module} {operator} {lines[line - 1][:column]}*{lines[line - 1][column:]}"
            seen[name] += 1
            rank = hashlib.sha256(f"{name} {seen[name]}".encode()).digest()
            pool.append((rank, module, operator, occurrence, line, column))
    sample = []
    for _, module, operator, occurrence, line, column in sorted(pool):
        if len(sample) == count:
            break
        source = sources[module]
        text: Any = mutate_code(source.text, plugins.get_operator(operator)(), occurrence)
        if ast.dump(ast.parse(text)) != ast.dump(ast.parse(source.text)):
            function = source.function_at((line, column))
            name = None if function is None else function.name
            changed = changed_lines(source.text, text)
            sample.append(Mutant(module, operator, occurrence, line, column, name, changed))
    return sample, len(pool)


def changed_lines(before: str, after: str) -> tuple[str, ...]:
    """The lines that differ, with their signs."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return tuple(line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---"))


def git(folder: Path, *arguments: str) -> str:
    """What git says there."""
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def seconds_of_children() -> float:
    """On the processor, of all processes that have been started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def clone(root: Path, tree: Path) -> None:
    """The last commit as a tree of its own, without what an interrupted run left there."""
    commit = git(root, "rev-parse", "HEAD")
    if not tree.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", root, tree], check=True)
    git(tree, "fetch", "--quiet", "origin")
    git(tree, "checkout", "--quiet", "--force", "--detach", commit)


class Outcomes:
    """What becomes of mutants, each outcome written down as soon as it is known.

    Args:
        tree: the clone.
        folder: of the files.
        modules: those of the core.
    """

    def __init__(self, tree: Path, folder: Path, modules: Sequence[str]) -> None:
        self.tree, self.folder, self.modules = tree, folder, modules
        parts = (Path(modules[0]).parts[0], "tests")
        #: What survival rests on: the package and its tests.
        self.state = "-".join(git(tree, "rev-parse", "--short=12", f"HEAD:{part}") for part in parts)
        self._path, self._confirmed_path = folder / "outcomes.jsonl", folder / f"confirmed-{self.state}.json"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._rows = {(row["source"], row["operator"], row["occurrence"]): row for row in map(json.loads, lines)}
        #: Tests that killed, and whether they pass without a mutation.
        self._passes: dict[str, bool] = (
            json.loads(self._confirmed_path.read_text()) if self._confirmed_path.exists() else {}
        )
        self._tests: dict[str, Tests] = {}

    def of(self, mutant: Mutant) -> dict[str, Any]:
        """The outcome of a mutant: the one that is known, or a new one."""
        source = git(self.tree, "rev-parse", f"HEAD:{mutant.module}")
        key = source, mutant.operator, mutant.occurrence
        if key not in self._rows or not self._holds(self._rows[key]):
            tests, start = self._select(mutant), seconds_of_children()
            mutation = MutationSpec(
                self.tree / mutant.module, mutant.operator, mutant.occurrence, mutant[3:5], (mutant.line + 1, 0)
            )
            outcome, by = run_mutant(self.tree, mutation, tests, self.folder)
            row = {**mutant._asdict(), "outcome": outcome, "by": by, "tests": len(tests)}
            row |= {"seconds": round(seconds_of_children() - start, 1), "source": source, "state": self.state}
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self._rows[key] = row
        return self._rows[key]

    def _holds(self, row: dict[str, Any]) -> bool:
        """Whether an outcome needs no new run."""
        if row["outcome"] == "survived":
            return row["state"] == self.state
        path, _, name = row["by"].partition("::")
        is_there = not name or f"def {name.rpartition('::')[2]}(" in (self.tree / path).read_text()
        return is_there and self._passes.get(row["by"], True)

    def _select(self, mutant: Mutant) -> dict[str, float]:
        """The tests for a mutant with their seconds, quickest first."""
        function = Source((self.tree / mutant.module).read_text()).function_at((mutant.line, mutant.column))
        lines = None if function is None else range(function.lineno, (function.end_lineno or 0) + 1)
        found = []
        for name in folders_of(self.tree, mutant.module):
            if name not in self._tests:
                store = self.folder / f"{Path(name).stem}-{self.state}.json"
                self._tests[name] = Tests(self.tree, name, self.modules, store)
            tests = self._tests[name]
            found += [(tests.seconds[test], test) for test in tests.of_lines(mutant.module, lines)]
        return {test: seconds for seconds, test in sorted(found) if self._passes.get(test, True)}

    def confirm(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether all tests that killed pass without a mutation, run as they were then, without coverage."""
        killers = sorted({row["by"] for row in rows if "::" in row.get("by", "")} - self._passes.keys())
        if killers:
            failed = run_tests(self.tree, self.folder / "confirming.notes", killers)["failed"]
            self._passes |= {name: name not in failed for name in killers}
            self._confirmed_path.write_text(json.dumps(self._passes))
        return all(self._passes[name] for name in killers)

    def left_out(self) -> list[str]:
        """The tests that do not pass without a mutation."""
        failed = {name for tests in self._tests.values() for name in tests.failed}
        return sorted(failed | {name for name, passes in self._passes.items() if not passes})


def summarize(rows: Sequence[dict[str, Any]], pool: int) -> dict[str, Any]:
    """The rate with its interval, the counts by module, and the survivors.

    Args:
        rows: the outcomes.
        pool: number of all mutants.
    """
    counted = [row for row in rows if row["outcome"] != "equivalent"]
    noticed = sum(row["outcome"] != "survived" for row in counted)
    interval = binomtest(noticed, len(counted)).proportion_ci(0.95, method="wilson")
    modules: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = modules.setdefault(row["module"], dict.fromkeys(("killed", "stopped", "survived", "equivalent"), 0))
        counts[row["outcome"]] += 1
    shown = ("module", "line", "function", "operator", "diff", "tests")
    return {
        "mutants_in_all": pool,
        "sample": len(rows),
        "equivalent": len(rows) - len(counted),
        "noticed": noticed,
        "noticed_by_being_stopped": sum(row["outcome"] == "stopped" for row in counted),
        "noticed_by_an_import": sum(row["outcome"] == "killed" and "::" not in row["by"] for row in counted),
        "rate": noticed / len(counted),
        "rate_95_percent": [interval.low, interval.high],
        "goal": {"at_least": GOAL, "met": noticed >= GOAL * len(counted)},
        "modules": dict(sorted(modules.items())),
        "survivors": [{key: row[key] for key in shown} for row in counted if row["outcome"] == "survived"],
        "operators": OPERATORS,
        "seconds": sum(row["seconds"] for row in counted),  # on the processor, without what coverage takes
    }


def main(argv: list[str] | None = None) -> None:
    """Draw, run, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", metavar="MODULE", help="draw from this file or folder alone")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; default benchmarks/results")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    folder = root / "outputs" / "mutation"
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / "tree"
    clone(root, tree)
    core = modules_of(tree, CORE)
    sample, pool = draw_sample(tree, modules_of(tree, args.only) if args.only else core, args.num_mutants, args.seed)
    equivalent = {(row["module"], row["function"], tuple(row["diff"])) for row in json.loads(EQUIVALENT.read_text())}
    outcomes = Outcomes(tree, folder, core)
    while True:
        rows = []
        for mutant in sample:
            is_equivalent = (mutant.module, mutant.function, mutant.diff) in equivalent
            row = {**mutant._asdict(), "outcome": "equivalent"} if is_equivalent else outcomes.of(mutant)
            rows.append(row)
            print(f"{len(rows)}/{len(sample)} {row['outcome']}: {row['module']}:{row['line']}", flush=True)
            if row["outcome"] == "survived":
                print("\n".join(row["diff"]), flush=True)
        if outcomes.confirm(rows):
            break
    results = {**summarize(rows, pool), "tests_left_out": outcomes.left_out()}
    low, high = results["rate_95_percent"]
    print(f"{results['noticed']} of {len(rows) - results['equivalent']} noticed: {results['rate']:.1%}", end=" ")
    print(f"({low:.1%} to {high:.1%} for all)")
    out = args.out or (folder if args.only else ROOT / "benchmarks" / "results")
    write_report("mutation", results, seed=args.seed, folder=out)


if __name__ == "__main__":
    main()
