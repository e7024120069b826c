"""The reliability benchmark runs, what it finds is survived, and it notices what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark():
    import reliability_lab

    return reliability_lab


@pytest.mark.slow
def test_smoke_run_survives_and_reports(tmp_path):
    script = str(ROOT / "benchmarks" / "reliability.py")
    done = subprocess.run(
        [sys.executable, script, "--smoke", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "reliability.json").read_text())["results"]
    assert [(row["tried"], row["survived"]) for row in results["faults"]] == [(2, 2), (1, 1), (1, 1)]
    for row in results["faults"]:
        assert row["survived_means"]
        assert row["failures"] == []
        assert 0 < row["seconds_to_recover"]["median"] <= row["seconds_to_recover"]["max"]
    killed, flipped, stopped = results["faults"]
    assert killed["kills"] == {"save": 1, "update": 1}
    assert killed["metrics_have_equal_values"]
    assert "Going on from step-0000000010" in flipped["message"]
    assert "nonfinite-" in stopped["message"]
    assert str(tmp_path.parent) not in json.dumps(results)
    assert results["snapshot"]["bytes"] > 1e6
    for clock in ("processor", "clock"):
        assert results["trainer"][0][clock]["ratio"]["median"] > 0


@pytest.mark.slow
def test_all_faults_are_survived(tmp_path):
    script = str(ROOT / "benchmarks" / "reliability.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, "--out", str(tmp_path)], env=environment, timeout=3600)
    assert done.returncode == 0
    faults = json.loads((tmp_path / "reliability.json").read_text())["results"]["faults"]
    assert all(row["tried"] == row["survived"] > 0 for row in faults)
    assert sum(faults[0]["kills"].values()) == 20
    assert faults[0]["kills"]["save"] > 0


def test_a_check_that_fails_is_listed_and_not_survived(benchmark):
    fault = benchmark.Fault("fire", "It goes out.")
    fault.add(2.0, "help", it_burns=True)
    fault.add(4.0, None, it_burns=True, it_goes_out=False)
    report = fault.report()
    assert (report["tried"], report["survived"], report["failures"]) == (2, 1, ["try 2: it goes out"])
    assert report["seconds_to_recover"] == {"median": 3.0, "max": 4.0}
    assert report["message"] == "help"


def test_damage_is_noticed(benchmark, tmp_path):
    from reliability_program import make_trainer

    trainer = make_trainer(str(tmp_path), num_updates=2, save_every=1, batch_size=4)
    trainer.fit()
    assert benchmark.whole(tmp_path) == ([1, 2], True)
    assert benchmark.has_all_metrics(tmp_path, tmp_path)
    metrics = tmp_path / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "metrics.csv").write_text("".join(lines))
    metrics.write_text("".join([*lines, lines[-1]]))
    assert not benchmark.has_all_metrics(tmp_path, plain)
    metrics.write_text("".join(lines[:-1]))
    assert not benchmark.has_all_metrics(tmp_path, plain)
    state = benchmark.newest(tmp_path) / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    assert benchmark.whole(tmp_path) == ([], False)


def test_an_equal_result_is_equal_in_every_bit(benchmark):
    import torch

    plain = {"weights": torch.tensor([1.0, 2.0])}
    assert benchmark.same({"weights": torch.tensor([1.0, 2.0])}, plain)
    assert not benchmark.same({"weights": torch.tensor([1.0, 2.0 + 2**-22])}, plain)
    assert not benchmark.same(None, plain)
    assert not benchmark.same(plain, None)
