"""The benchmark of latent designs runs from training to table, and every design can be built."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "latent_design.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("latent_design", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    designs = ["mdm", "default", "fresh-null"]
    benchmark.main(["--smoke", "--quiet", "--data", "digits", "--designs", *designs, "--runs", str(folder)])
    return folder


def test_runs_merge_into_results_and_a_picture(benchmark, runs, tmp_path, capsys):
    benchmark.main(["--merge", "--runs", str(runs), "--out", str(tmp_path), "--figures", str(tmp_path)])
    digits = json.loads((tmp_path / "latent_design.json").read_text())["results"]["data"]["digits"]
    assert list(digits["designs"]) == ["mdm", "default", "fresh-null"]
    for design in digits["designs"].values():
        assert list(design["curves"]["sampler"]) == [str(t) for t in benchmark.STEPS]
    # Without training, 64 tokens of 17 levels cost about 64 log 17 = 181 nats.
    assert digits["goals"]["reference"] == pytest.approx(181, abs=10)
    gap = digits["goals"]["minus_mdm"]["mdm"]["1"]
    assert (gap["nats"], gap["stderr"]) == (0.0, 0.0)
    assert digits["designs"]["default"]["cost"]["training_flops"]["mean"] < 1.4
    assert (tmp_path / "latent_design.png").stat().st_size > 10_000
    assert "default" in capsys.readouterr().out


def test_a_run_that_is_there_is_not_repeated(benchmark, runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    benchmark.main(["--smoke", "--quiet", "--data", "digits", "--designs", "mdm", "--runs", str(runs)])
    assert {path: path.stat().st_mtime_ns for path in runs.iterdir()} == before
    assert "is there" in capsys.readouterr().out


def test_every_design_can_be_built_and_trained(benchmark):
    data = benchmark.DATA["digits"](None)
    for name, design in benchmark.DESIGNS.items():
        model, guide, objective = benchmark.build(design, data)
        loss = objective(model, guide)(data.train[:4])
        assert loss.isfinite(), name


def test_merging_nothing_is_an_error(benchmark, tmp_path):
    with pytest.raises(SystemExit, match="no runs"):
        benchmark.main(["--merge", "--runs", str(tmp_path)])
