"""The example on network calls runs from end to end, and counts what it says."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from vadd.samplers import AncestralSampler
from vadd.testing import tiny_model

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "steps_vs_quality.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds to it
    spec = importlib.util.spec_from_file_location("steps_vs_quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke_run_writes_plot_and_report(script, tmp_path, capsys):
    script.main(["--smoke", "--quiet", "--out", str(tmp_path)])
    assert (tmp_path / "steps_vs_quality.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "steps_vs_quality.json").read_text())["results"]
    rows = {(row["model"], row["method"], row["setting"]): row for row in report["rows"]}
    assert {key[0] for key in rows} == {"MDM", "VADD"}
    assert {key[1] for key in rows} == set(script.STYLES)
    for model in ("MDM", "VADD"):
        calls = {key[1:]: row["calls"] for key, row in rows.items() if key[0] == model}
        assert calls["ancestral", "4 steps"] == 4
        assert calls["predictor-corrector", "4 steps"] == 7
        assert 3.9 < calls["cached", "4 steps"] <= 4  # 64 tokens: hardly any row reveals nothing
        assert calls["first-hitting", "one by one"] == 64
        assert 60 < calls["entropy-bounded", "0 nats"] <= 64
        assert 1 <= calls["entropy-bounded", "64 nats"] < 10
        # The same samples with and without the calls that reveal nothing.
        assert rows[model, "cached", "4 steps"]["mean"] == rows[model, "ancestral", "4 steps"]["mean"]
    assert report["real"]["mean"]["frechet"] < 10 < rows["VADD", "ancestral", "1 step"]["mean"]["frechet"]
    assert "calls: rows that the network reads" in capsys.readouterr().out


def test_rows_are_counted_call_by_call_and_the_model_is_left_as_it_was(script):
    model = tiny_model(3, 4)
    with script.counting(model) as seen:
        model.sample(5, num_steps=3, seed=0)
    assert seen == [5, 5, 5]
    with script.counting(model) as rows:
        model.sample(5, num_steps=30, method=AncestralSampler("rows"), seed=0)
    assert 0 < sum(rows) <= 4 * 5
    model.sample(5, num_steps=3, seed=0)
    assert seen == [5, 5, 5]
    assert "denoise" not in vars(model)
