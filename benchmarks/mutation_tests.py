"""The tests for ``mutation.py``: which belong to a module, which run which lines, and what they say of a mutant."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_item import MutationSpec, TestOutcome
from coverage import CoverageData

BENCHMARKS = Path(__file__).resolve().parent
PYTEST = ("pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "mutation_plugin")
#: Hypothesis draws the same examples in each run.
ENVIRONMENT = {"CI": "1", "PYTHONPATH": str(BENCHMARKS)}
#: That each test may keep the processor: 10 times what it took under coverage, with fewer examples, and these.
LEAST_SECONDS = 30
SECONDS_ON_THE_CLOCK = 6 * 3600


def folders_of(tree: Path, module: str) -> list[str]:
    """Where the tests of a module are: ``tests/laws``, and where ``tests`` mirrors the module."""
    unit = Path(module).with_suffix("").parts[1]
    return [name for name in ("tests/laws", f"tests/{unit}", f"tests/test_{unit}.py") if (tree / name).exists()]


def run_tests(tree: Path, notes: Path, arguments: Iterable[str], before: Sequence[str] = ()) -> dict[str, Any]:
    """Run unmutated tests; the seconds of each, and which failed.

    Args:
        tree: where they run.
        notes: a file for what the plugin notes.
        arguments: of pytest.
        before: a module, with its arguments, that runs pytest.
    """
    environment = {**os.environ, **ENVIRONMENT, "MUTATION_NOTES": str(notes), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-m", *before, *PYTEST, *arguments]
    notes.unlink(missing_ok=True)
    # The status says whether a test failed, which the notes do, too.
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if not notes.exists() or not notes.read_text():
        raise RuntimeError(f"the tests did not run: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return json.loads(notes.read_text())


class Tests:
    """The tests of a folder or file, functions with all their parameters: the lines that each runs, and its seconds.

    Args:
        tree: the repository.
        folder: of the tests.
        modules: whose lines count.
        store: a file of what was measured before, written if it is not there.
    """

    def __init__(self, tree: Path, folder: str, modules: Sequence[str], store: Path) -> None:
        if not store.exists():
            store.write_text(json.dumps(self._measure(tree, folder, modules, store)))
        measured = json.loads(store.read_text())
        self.seconds: dict[str, float] = measured["seconds"]
        #: Those that did not pass.
        self.failed: list[str] = measured["failed"]
        self._tests_of_lines: dict[str, dict[str, list[str]]] = measured["tests_of_lines"]

    @staticmethod
    def _measure(tree: Path, folder: str, modules: Sequence[str], store: Path) -> dict[str, Any]:
        data = store.with_suffix(".coverage")
        data.unlink(missing_ok=True)
        covering = ("coverage", "run", f"--data-file={data}", f"--include={','.join(modules)}", "-m")
        noted = run_tests(tree, store.with_suffix(".notes"), [folder], covering)
        found = CoverageData(str(data))
        found.read()
        lines = {
            Path(path).relative_to(tree).as_posix(): {
                line: tests
                for line, found in found.contexts_by_lineno(path).items()
                if (tests := [t for t in found if t])
            }
            for path in found.measured_files()
        }
        if not any(lines.values()):
            raise RuntimeError(f"no test of {folder} runs a line of {modules}: is it this tree's that they import?")
        return {**noted, "tests_of_lines": lines}

    def of_lines(self, module: str, lines: range | None) -> set[str]:
        """The tests that run one of these lines of a module; all for None."""
        if lines is None:
            return set(self.seconds) - set(self.failed)
        tests_of_lines = self._tests_of_lines.get(module, {})
        return {test for line in lines for test in tests_of_lines.get(str(line), ())} - set(self.failed)


def run_mutant(tree: Path, mutation: MutationSpec, tests: Mapping[str, float], folder: Path) -> tuple[str, str]:
    """Run tests on a mutant until one fails.

    Args:
        tree: the repository, which has the mutation while they run.
        mutation: what to change, its path in the repository.
        tests: their seconds by their names, in order.
        folder: for files on the way.

    Returns:
        The outcome, ``"killed"``, ``"stopped"`` or ``"survived"``, and the test, or the file of tests that could not be
        imported.
    """
    if not tests:
        return "survived", ""
    names, notes, limits = (folder / f"tests.{suffix}" for suffix in ("txt", "notes", "limits"))
    names.write_text("\n".join(tests))
    notes.unlink(missing_ok=True)
    command = " ".join([sys.executable, "-m", *PYTEST, "-x", f"@{names}"])
    limits.write_text(json.dumps({test: LEAST_SECONDS + 10 * seconds for test, seconds in tests.items()}))
    environment = {**ENVIRONMENT, "MUTATION_NOTES": str(notes), "MUTATION_LIMITS": str(limits)}
    # Bytecode is told from its source by size and second: within one, that of the unmutated module would be run.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    Path(importlib.util.cache_from_source(str(mutation.module_path))).unlink(missing_ok=True)
    with contextlib.chdir(tree), patch.dict(os.environ, environment):
        # The limit on the clock is for tests that wait for what does not come, and for a busy machine.
        result = mutate_and_test([mutation], command, SECONDS_ON_THE_CLOCK)
    if result.test_outcome == TestOutcome.SURVIVED:
        return "survived", ""
    if result.test_outcome != TestOutcome.KILLED:
        raise RuntimeError(f"{mutation} could not be made: {result.output}")
    if not notes.exists():
        return "killed", "conftest.py"  # imported before plugins are asked
    if not (text := notes.read_text()):
        return "stopped", ""
    failed = json.loads(text)["failed"]
    if not failed:
        raise RuntimeError(f"the tests of {mutation} did not run: {result.output}")
    return "killed", failed[0]
