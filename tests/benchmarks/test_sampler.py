"""The sampler benchmark runs, adds up, and compares samplers that do the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vadd.samplers import AncestralSampler, FirstHittingSampler, StaticSampler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark_module():
    import sampler

    return sampler


@pytest.fixture
def vadd(benchmark_module):
    sizes = benchmark_module.Sizes.small()
    return sizes, sizes.model(has_latent=True)


def test_smoke_run_writes_every_comparison(tmp_path):
    script = str(ROOT / "benchmarks" / "sampler.py")
    done = subprocess.run(
        [sys.executable, script, "--smoke", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "sampler.json").read_text())["results"]
    names = {
        "methods": ["ancestral", "cached", "static", "first-hitting", "confidence"],
        "projection": ["at revealed positions", "at all positions"],
        "latent": ["MDM with AdaLN", "VADD", "MDM"],
    }
    if "peer" in results:
        names["peer"] = ["vadd", "flow_matching"]
    else:
        assert "flow_matching is not installed" in done.stdout
    for key, expected in names.items():
        result = results[key]
        assert list(result["alternatives"]) == expected
        assert result["baseline"] == expected[0]
        for name, entry in result["alternatives"].items():
            for row in entry.values():
                assert 0 < row["share_outside"] < 1
                assert all(ms > 0 for ms in row["ms"].values())
                assert row["ms"]["features"] + row["ms"]["projection"] < 2 * row["ms"]["step"]
                if name != expected[0]:
                    ratio = row["ratio"]
                    assert 0 < ratio["lower_quartile"] <= ratio["median"] <= ratio["upper_quartile"]
    operations = results["latent"]["operations"]
    assert operations["VADD"] == operations["MDM with AdaLN"] > operations["MDM"]
    assert results["goals"]["same_operations"]["met"]
    assert results["goals"]["judged_by"] == "processor"


def test_time_is_what_is_spent_in_trunk_and_projection(benchmark_module, vadd, monkeypatch):
    sizes, model = vadd
    clock = {"now": 0.0}
    monkeypatch.setattr(benchmark_module.time, "perf_counter", lambda: clock["now"])

    def slow(module, seconds):
        forward = module.forward

        def run(*args, **options):
            clock["now"] += seconds
            return forward(*args, **options)

        module.forward = run

    watch = benchmark_module.Watch(model.denoiser, torch.device("cpu"))
    slow(model.denoiser.trunk, 3.0)
    slow(model.denoiser.head, 2.0)
    slow(model.prior, 0.5)
    args = type("Args", (), {"device": "cpu", "seed": 0})
    alternatives = {
        name: (watch, lambda jump: benchmark_module.prepare(model, AncestralSampler(), sizes, 8, jump))
        for name in ("a", "b")
    }
    result = benchmark_module.compare(alternatives, 3, 8, args)
    row = result["alternatives"]["b"]["clock"]
    assert row["ms"] == pytest.approx({"step": 5500, "features": 3000, "projection": 2000, "outside": 500})
    assert row["share_outside"] == pytest.approx(0.5 / 5.5)
    assert row["ratio"]["median"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sampler", "index", "tolerance"),
    # First hitting skips steps that reveal nothing in a row, and so runs a little ahead.
    [
        (AncestralSampler(), 0, 0.03),
        (AncestralSampler(), 7, 0.03),
        (StaticSampler(), 5, 0.03),
        (FirstHittingSampler(), 4, 0.1),
    ],
    ids=["ancestral-0", "ancestral-7", "static-5", "first-hitting-4"],
)
def test_steps_are_those_of_a_run(benchmark_module, vadd, sampler, index, tolerance):
    # Over 6,400 positions: tolerances of 0.03 are those of five standard deviations or more.
    sizes, model = vadd
    mask_id = model.process.mask_id
    before = after = 0
    with torch.no_grad():
        for _ in range(100):
            step, _ = benchmark_module.prepare(model, sampler, sizes, 8, index)
            state = step.__closure__[[*step.__code__.co_freevars].index("state")].cell_contents
            before += int((state.x == mask_id).sum())
            after += int((step().x == mask_id).sum())
    total = 100 * sizes.batch_size * sizes.num_tokens
    assert before / total == pytest.approx(1 - index / 8, abs=tolerance)
    assert (before - after) / total == pytest.approx(1 / 8, abs=tolerance)


def test_dense_steps_are_the_same_steps(benchmark_module, vadd):
    sizes, model = vadd
    dense = benchmark_module.VADDModel(
        benchmark_module.DenseDenoiser(model.denoiser), model.prior, model.process
    ).eval()
    drawn = []
    for one in (model, dense):
        torch.manual_seed(0)
        step, _ = benchmark_module.prepare(one, AncestralSampler(), sizes, 8, 4)
        with torch.no_grad():
            drawn.append(step().x)
    assert torch.equal(*drawn)


def test_the_other_solver_gets_the_same_law(benchmark_module, vadd):
    pytest.importorskip("flow_matching")
    sizes, model = vadd
    mask_id, shape = model.process.mask_id, (sizes.batch_size, sizes.num_tokens)
    x = torch.randint(mask_id, shape).masked_fill(torch.rand(shape) < 0.5, mask_id)
    with torch.no_grad():
        torch.manual_seed(1)
        p = benchmark_module.peer_probabilities(model, x, torch.full((shape[0],), 0.5))
        torch.manual_seed(1)
        z = model.prior(x, torch.full((shape[0],), 0.5)).sample()
        logits = model.denoise(x, torch.full((shape[0],), 0.5), z).logits
    is_masked = x == mask_id
    torch.testing.assert_close(p[is_masked][:, :-1], logits[is_masked].softmax(-1))
    assert bool((p[is_masked][:, -1] == 0).all())
    assert torch.equal(p[~is_masked].argmax(-1), x[~is_masked])
    assert bool((p[~is_masked].max(-1).values == 1).all())


def test_the_other_solver_makes_one_step(benchmark_module, vadd):
    pytest.importorskip("flow_matching")
    sizes, model = vadd
    step, _ = benchmark_module.prepare_peer(model, sizes, 8, 2)
    calls = []
    denoise = model.denoise
    model.denoise = lambda *args, **options: (calls.append(args), denoise(*args, **options))[1]
    with torch.no_grad():
        step()
    ((x, t, _),) = calls
    assert (t == 0.75).all()
    assert float((x == model.process.mask_id).double().mean()) == pytest.approx(0.75, abs=0.25)  # 64 tokens
    step, _ = benchmark_module.prepare_peer(model, sizes, 8, 7)  # the last step has none after it
    with torch.no_grad(), pytest.raises(AssertionError, match="before its second step"):
        step()
