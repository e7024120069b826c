"""What is short is run again, what is long is named with its time."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repeat():
    import repeat

    return repeat


def test_times_of_the_result_files_are_found(repeat):
    found = {benchmark.name: benchmark.seconds for benchmark in repeat.benchmarks()}
    assert min(found[name] for name in ("digits", "toy2d")) > 60
    assert min(found[name] for name in ("binarized_mnist", "latent_design")) > 3600
    names = list(found)
    assert names.index("digits") < names.index("infill")


def test_what_is_merged_is_run_before(repeat):
    (commands,) = (benchmark.commands for benchmark in repeat.benchmarks() if benchmark.name == "latent_design")
    assert ["--merge" in command for command in commands] == [False, False, True]


@pytest.mark.parametrize("name", ["text_wikitext2-gpt2", "text_wikitext2-bert"])
def test_the_judge_that_a_comparison_names_is_trained_before(name, repeat):
    (commands,) = (benchmark.commands for benchmark in repeat.benchmarks() if benchmark.name == name)
    before, command = (line.split() for line in commands)
    assert before[before.index("--out") + 1] == command[command.index("--judge") + 1]
    assert before[before.index("--tokenizer") + 1] == command[command.index("--tokenizer") + 1]


def test_sections_that_were_measured_apart_are_repeated_apart(repeat):
    (commands,) = (benchmark.commands for benchmark in repeat.benchmarks() if benchmark.name == "throughput")
    assert len(commands) > 1
    assert any("step" in command for command in commands)


@pytest.mark.parametrize(("options", "ran"), [([], ["short"]), (["--all"], ["long", "short"]), (["--list"], None)])
def test_short_ones_run_and_then_tables_and_pictures(options, ran, repeat, tmp_path, monkeypatch, capsys):
    import tables_shared

    for name, seconds, device in (("long", 7200, "cpu"), ("short", 60, "cpu"), ("elsewhere", 60, "a GPU")):
        results = {"runs": [{"training": {"seconds_of_this_call": seconds / 2}}] * 2}
        report = {"command": f"python {name}.py --quiet", "machine": {"device": device}, "results": results}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    commands = []

    def run(command, cwd):
        commands.append(command[1:])
        return SimpleNamespace(returncode=int("short.py" in command))

    monkeypatch.setattr(tables_shared, "RESULTS", tmp_path)
    monkeypatch.setattr(repeat.subprocess, "run", run)
    assert repeat.main(options) == (ran is not None)  # the failure counts
    after = [["benchmarks/tables.py"], ["benchmarks/pictures.py"]]
    assert commands == ([] if ran is None else [*([f"{name}.py", "--quiet"] for name in ran), *after])
    printed = capsys.readouterr().out
    assert "long: at least 120 minutes" in printed
    assert "elsewhere" not in printed
    assert ("what is not left out: at least 0.0 hours" in printed) == (options == ["--list"])  # a minute


@pytest.mark.parametrize(("of_training", "of_process", "seconds"), [(None, 1200, 1200), (3000, 10, 3000), (5, None, 5)])
def test_the_longer_of_training_and_process_counts(of_training, of_process, seconds, repeat, tmp_path, monkeypatch):
    import tables_shared

    report = {"command": "python some.py", "machine": {"device": "cpu"}, "results": {}}
    if of_training is not None:
        report["results"] = {"training": {"seconds_of_this_call": of_training}}
    if of_process is not None:
        report["seconds_of_process"] = of_process
    (tmp_path / "some.json").write_text(json.dumps(report))
    monkeypatch.setattr(tables_shared, "RESULTS", tmp_path)
    assert [benchmark.seconds for benchmark in repeat.benchmarks()] == [seconds]
