"""Plugin of pytest for ``mutation.py``: notes which test runs which line and how long tests take, and shrinks nothing.

Under ``coverage run`` each test is a context of its own, its fixtures included. The file that ``MUTATION_TESTS`` names
gets the seconds of each test, and the names of those that did not pass.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest
from hypothesis import Phase, settings

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


def function_of(name: str) -> str:
    """The test function of an item, without its parameters."""
    return name.partition("[")[0]


def pytest_configure() -> None:
    # A failure is enough: no smallest example of it is looked for.
    settings.register_profile("mutation", settings(), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutation")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running = coverage.Coverage.current()
    if running is not None:
        running.switch_context(function_of(item.nodeid))
    result = yield
    if running is not None:
        running.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[function_of(report.nodeid)] += report.duration
    if report.failed:
        _failed.add(function_of(report.nodeid))


def pytest_sessionfinish() -> None:
    if path := os.environ.get("MUTATION_TESTS"):
        Path(path).write_text(json.dumps({"seconds": _seconds, "failed": sorted(_failed)}))
