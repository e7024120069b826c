"""The step benchmark runs, reports what it says, and notices when the two losses differ."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = {
    "training_step": ["plain PyTorch", "ELBO module", "SVI"],
    "vadd_training_step": ["MDM", "VADD"],
    "vadd_sampling_step": ["MDM", "VADD"],
}


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import step_overhead

    return step_overhead


def test_smoke_run_writes_every_comparison(tmp_path):
    script = str(ROOT / "benchmarks" / "step_overhead.py")
    done = subprocess.run(
        [sys.executable, script, "--smoke", "--threads", "1", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "step_overhead.json").read_text())
    assert report["machine"]["threads"] == 1
    assert len(report["results"]) == 2
    for name, result in report["results"].items():
        assert name in done.stdout
        for key, steps in COMPARISONS.items():
            assert list(result[key]["steps"]) == steps
            assert result[key]["baseline"] == steps[0]
            for row in list(result[key]["steps"].values())[1:]:
                ratio = row["ratio"]
                assert 0 < ratio["lower_quartile"] <= ratio["median"] <= ratio["upper_quartile"]
                assert math.isfinite(row["difference_ms"]["median"])
        # Two networks of equal size against one, and the same network but for the latent's path.
        mdm, vadd = result["operations"]["MDM"], result["operations"]["VADD"]
        for kind in ("forward", "backward"):
            assert 1.8 < vadd[kind] / mdm[kind] < 2.2
        assert 1 < vadd["sampling_step"] / mdm["sampling_step"] < 1.3


@pytest.mark.parametrize("wrong", ["value", "gradient"])
def test_a_wrong_plain_loss_is_noticed(benchmark_module, monkeypatch, wrong):
    torch.manual_seed(0)
    workload = benchmark_module.transformer_workload(4, 2, is_small=True)
    pair = workload.build(workload.latent_size)
    assert benchmark_module.assert_same_loss(workload, *pair, seed=0) < 1e-3

    class Wrong(benchmark_module.PlainLoss):
        def forward(self, x_0):
            loss = super().forward(x_0)
            if wrong == "value":
                return 1.001 * loss
            # The same value, a gradient too much: the location's own.
            extra = self.recognition.readout.family.loc.bias.sum()
            return loss + extra - extra.detach()

    monkeypatch.setattr(benchmark_module, "PlainLoss", Wrong)
    with pytest.raises(AssertionError, match="plain loss" if wrong == "value" else "gradients differ"):
        benchmark_module.assert_same_loss(workload, *pair, seed=0)


def test_ratios_are_taken_within_a_round(benchmark_module, monkeypatch):
    # A machine that slows down tenfold halfway: medians of the times would compare unlike rounds.
    clock = {"now": 0.0, "calls": 0}

    def advance(seconds):
        def step():
            clock["calls"] += 1
            clock["now"] += seconds * (1 if clock["calls"] <= 6 else 10)

        return step

    monkeypatch.setattr(benchmark_module.time, "perf_counter", lambda: clock["now"])
    result = benchmark_module.compare(
        {"base": advance(1.0), "other": advance(1.5)}, rounds=5, warmup=1, seed=0, device=torch.device("cpu")
    )
    ratio = result["steps"]["other"]["ratio"]
    assert clock["calls"] == 12
    assert [ratio[key] for key in ("lower_quartile", "median", "upper_quartile")] == pytest.approx([1.5] * 3)
