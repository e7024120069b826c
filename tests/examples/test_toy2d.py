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
MODELS = ["MDM", "VADD"]


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
        assert [row["steps"] for row in model["by_steps"]] == [1, 2, 4, 8]
        for row in model["by_steps"]:
            assert 0 < row["jsd"] <= math.log(2)
            assert 0 <= row["validity"] <= 1
            assert row["bound"] > 0
    # Untrained models are no better than independent tokens, which are worse than real data.
    assert toy["models"]["MDM"]["by_steps"][0]["jsd"] > toy["factorized"]["jsd"] > 2 * toy["fresh_data"]["jsd"]
    assert toy["factorized"]["validity"] < toy["fresh_data"]["validity"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*MODELS, "no bound on the likelihood"])


def test_updates_fit_the_time_limit(toy2d):
    import argparse

    data = toy2d.draw("circles", 1000, 16, 0)
    options = {"seed": 0, "num_bins": 16, "learning_rate": 1e-3, "kl_warmup": 0.3, "batch_size": 32}
    for minutes, expected in ((1e-6, 1), (1e6, 50)):
        args = argparse.Namespace(**options, num_updates=50, minutes=minutes, quiet=True)
        assert toy2d.affordable_updates(data, args) == expected
