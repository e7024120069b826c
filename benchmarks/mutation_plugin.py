"""Plugin of pytest for ``mutation.py``: which test runs which line and how long it takes; nothing is shrunk.

Under ``coverage run`` each test is a context of its own, its fixtures included, and Hypothesis draws few examples, as
they all run much the same lines. The file that ``MUTATION_NOTES`` names gets the seconds of each test on the processor
and the names of those that did not pass, of files that could not be imported, too; while tests run it is empty.
The file that ``MUTATION_LIMITS`` names says how many seconds each may keep the processor, all its parameters together:
the process ends with the one that does longer.
"""

import json
import math
import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest
from hypothesis import Phase, settings

EXAMPLES_UNDER_COVERAGE = 10

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()
_limits: dict[str, float] = {}


def function_of(name: str) -> str:
    """The test function of an item, without its parameters."""
    return name.partition("[")[0]


def _note(text: str) -> None:
    if path := os.environ.get("MUTATION_NOTES"):
        Path(path).write_text(text)


def pytest_configure() -> None:
    options = {} if coverage.Coverage.current() is None else {"max_examples": EXAMPLES_UNDER_COVERAGE}
    # A failure is enough: no smallest example of it is looked for.
    settings.register_profile("mutation", settings(), phases=(Phase.explicit, Phase.generate), **options)
    settings.load_profile("mutation")
    _note("")
    if path := os.environ.get("MUTATION_LIMITS"):
        _limits.update(json.loads(Path(path).read_text()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running, name = coverage.Coverage.current(), function_of(item.nodeid)
    if running is not None:
        running.switch_context(name)
    start = time.process_time()
    if name in _limits:
        seconds = math.ceil(start + _limits[name] - _seconds[name])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    result = yield
    _seconds[name] += time.process_time() - start
    if running is not None:
        running.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(function_of(report.nodeid))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and report.nodeid:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    _note(json.dumps({"seconds": _seconds, "failed": sorted(_failed)}))
