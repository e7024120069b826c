"""What a benchmark's result file says about the run, and what it refuses."""

import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyro
import pytest
import torch

import vadd
import vadd.reporting
from vadd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report():
    return vadd.reporting


@pytest.fixture
def repository(tmp_path, report, monkeypatch):
    """A repository of one commit, in which the benchmarks believe to be."""
    if shutil.which("git") is None:
        pytest.skip("needs git")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "start")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py")])
    return tmp_path, git("rev-parse", "HEAD")


def test_the_file_holds_the_results_and_the_environment(report, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "speed.py"), "--note", "two words"])
    before = datetime.now(UTC).replace(microsecond=0)
    path = report.write_report("speed", {"ratio": 1.5}, seed=7, folder=tmp_path / "new")
    assert path == tmp_path / "new" / "speed.json"
    content = json.loads(path.read_text())
    assert content["name"] == "speed"
    assert content["results"] == {"ratio": 1.5}
    assert content["seed"] == 7
    assert content["command"] == "python benchmarks/speed.py --note 'two words'"
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["pyro"] == pyro.__version__
    assert content["versions"]["vadd"] == vadd.__version__
    assert content["machine"]["cpu"]
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["device"] == "cpu"
    assert before <= datetime.fromisoformat(content["date"]) <= datetime.now(UTC)


def test_threads_are_those_of_this_process(report):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert report.environment(seed=0)["machine"]["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_seconds_are_those_on_the_clock_since_the_module_was_imported(report, tmp_path, monkeypatch):
    imported = report._IMPORTED
    assert 0 <= report.environment(seed=0)["seconds_of_process"] <= time.monotonic() - imported + 0.1
    monkeypatch.setattr(report, "_IMPORTED", imported - 1000)
    least = time.monotonic() - imported + 999.9
    content = json.loads(report.write_report("speed", {}, seed=0, folder=tmp_path).read_text())
    assert least <= content["seconds_of_process"] <= time.monotonic() - imported + 1000.1


def test_seconds_of_a_process_begin_with_it():
    code = "import vadd.reporting as r; print(r.environment(seed=0)['seconds_of_process'])"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 <= float(done.stdout) <= time.monotonic() - start


def test_the_command_names_no_folder_outside_the_repository(report, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py"), "-v"])
    assert report.environment(seed=0)["command"] == "python speed.py -v"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()], ids=["nan", "inf", "object"])
def test_values_that_json_lacks_are_refused_and_nothing_is_written(report, tmp_path, value):
    with pytest.raises(ConfigError, match="results must be values that JSON can hold"):
        report.write_report("speed", {"ratio": value}, seed=0, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_clean_tree_is_clean_and_earlier_results_do_not_count(report, repository):
    root, commit = repository
    assert report.environment(seed=0)["git"] == {"commit": commit, "dirty": False}
    report.write_report("speed", {}, seed=0, folder=root / "benchmarks" / "results")
    assert report.environment(seed=0)["git"] == {"commit": commit, "dirty": False}


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_a_changed_or_new_file_makes_the_tree_dirty(report, repository, name):
    root, commit = repository
    (root / name).write_text("a = 2\n")
    assert report.environment(seed=0)["git"] == {"commit": commit, "dirty": True}


def test_outside_a_repository_there_is_no_commit(report, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "speed.py")])
    assert report.environment(seed=0)["git"] == {"commit": None, "dirty": None}
