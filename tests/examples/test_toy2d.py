"""The example on toy densities runs from end to end and reports what it says."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "toy2d_svi.py"
MODELS = ["mdm", "paper", "default"]


@pytest.fixture
def toy2d(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds to it
    spec = importlib.util.spec_from_file_location("toy2d_svi", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke_run_writes_pictures_and_figures(toy2d, tmp_path, capsys):
    toy2d.main(["--smoke", "--quiet", "--toy", "swiss_roll", "--num-bins", "16", "--out", str(tmp_path)])
    assert (tmp_path / "swiss_roll.png").stat().st_size > 0
    report = json.loads((tmp_path / "toy2d.json").read_text())
    assert report["seed"] == 0
    toy = report["results"]["toys"]["swiss_roll"]
    assert list(toy["models"]) == MODELS
    for model in toy["models"].values():
        assert [row["steps"] for row in model["by_steps"]] == [1, 2, 5, 10]
        for row in model["by_steps"]:
            assert 0 < row["jsd"] <= math.log(2)
            assert 0 <= row["validity"] <= 1
            assert row["bound"] > 0
    # Untrained models are no better than independent tokens, which are worse than real data.
    assert toy["models"]["mdm"]["by_steps"][0]["jsd"] > toy["factorized"]["jsd"] > 2 * toy["fresh_data"]["jsd"]
    assert toy["factorized"]["validity"] < toy["fresh_data"]["validity"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*toy2d.MODELS.values(), "no bound on the likelihood"])


def test_an_interrupted_run_goes_on(toy2d, tmp_path, capsys):
    given = ["--smoke", "--quiet", "--toy", "circles", "--num-bins", "16", "--out", str(tmp_path)]
    reports = []
    for limit in (["--minutes", "1e-9"], [], ["--again"]):
        toy2d.main([*given, *limit])
        models = json.loads((tmp_path / "toy2d.json").read_text())["results"]["toys"]["circles"]["models"]
        reports.append({name: (model["updates"], model["delbo"]) for name, model in models.items()})
    assert [report["paper"][0] for report in reports] == [1, 10, 10]
    assert reports[1] == reports[2]  # one that was not interrupted
    assert reports[0]["mdm"][1] != reports[1]["mdm"][1]
    assert "time is up at update 1 of 10" in capsys.readouterr().err
