"""The throughput benchmark runs, reports what it says, and measures what is known."""

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("step", "memory", "vadd", "pyro", "sampling", "evaluation", "scaling")


@pytest.fixture
def bench():
    from throughput_shared import Bench

    return Bench(torch.device("cpu"), rounds=2, is_smoke=True)


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_smoke_run_writes_its_sections_and_keeps_the_others(tmp_path):
    path = tmp_path / "throughput.json"
    path.write_text(json.dumps({"results": {"processes": "of an earlier run"}}))
    done = run("--smoke", "--threads", "1", "--only", *SECTIONS, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())["results"]
    assert results.pop("processes") == "of an earlier run"
    assert tuple(results) == SECTIONS
    for name, section in results.items():
        assert f"\n{name}, " in done.stdout
        assert section["clock"] == "processor"
        assert section["environment"]["machine"]["threads"] == 1
        assert "throughput.py --smoke" in section["environment"]["command"]
        assert section["rows"]
        assert not section.get("left_out")
        for row in section["rows"]:
            assert name == "scaling" or row["time"]["rounds"] == 2
            for goal in row.get("goals", {}).values():
                bound = goal.get("at_least", goal.get("at_most"))
                assert goal["met"] == (goal["got"] >= bound if "at_least" in goal else goal["got"] <= bound)
    assert results["step"]["expectation"]["agree"]
    assert {row["network"] for row in results["step"]["rows"]} > {"U-Net of CIFAR-10", "6 x 384"}
    assert list(results["vadd"]["rows"][0]["operations"]) == [
        "MDM",
        "default, own",
        "default, shared",
        "default, embedding",
        "paper, own",
    ]
    # Without all logits, and the gradient of all, at once.
    of_large = [row["memory"]["ratio"] for row in results["step"]["rows"] if row["vocab_size"] > 50_000]
    assert max(of_large) < 0.8
    assert [row["steps"] for row in results["sampling"]["rows"]] == [1, 4, 16]
    assert list(results["memory"]["rows"][0]["bytes"]) == ["plain", "ours", "ours, recomputing"]
    assert list(results["pyro"]["rows"][0]["time"]["steps"]) == ["plain PyTorch", "ELBO module", "SVI"]
    assert {row["vocab_size"] for row in results["evaluation"]["rows"]} == {27, 300}
    bounds = {"marginal", "continuous", "finite-step, T=4", "conditional", "delbo"}
    found = {m: {r["bound"] for r in results["evaluation"]["rows"] if r["model"] == m} for m in ("MDM", "VADD")}
    assert found == {"MDM": bounds, "VADD": bounds | {"shared-latent, T=4"}}
    assert all(len(row["values"]) >= 4 for row in results["scaling"]["rows"])


@pytest.mark.slow
def test_training_runs_in_one_process_and_in_two(bench):
    import throughput_scaling

    section = throughput_scaling.measure_processes(bench)
    if reason := throughput_scaling.why_not_two(bench):
        assert section["left_out"] == [reason]
    else:
        assert [row["processes"] for row in section["rows"]] == [1, 2]
        assert section["exponent"] == pytest.approx(math.log2(section["speedup"]["median"]))


def test_a_gpu_section_needs_a_gpu(capsys):
    import throughput

    with pytest.raises(SystemExit):
        throughput.parse(["--only", "accelerator"])
    assert "needs --device cuda" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        throughput.parse(["--rounds", "1"])
    assert "at least 2" in capsys.readouterr().err


def test_the_gpu_section_reports_work_and_waits(bench):
    import throughput_accelerator
    from tables_speed import THROUGHPUT

    section = throughput_accelerator.measure_accelerator(bench, compiles=False)
    waits = section["waits"]
    assert waits["eager"]["aten::nonzero"] == waits["eager, without checks"]["aten::nonzero"] == 1
    assert waits["plain"]["aten::nonzero"] == 0
    assert section["share_of_peak"] is None  # a CPU's peak is not known
    assert json.loads(json.dumps(section)) == section
    assert "eager, without checks" in THROUGHPUT["accelerator"](section)


@pytest.mark.usefixtures("_unchecked")
def test_plain_loss_and_ours_have_one_expectation():
    from throughput_training import compare_expectations

    assert compare_expectations(0)["agree"]


@pytest.mark.usefixtures("_unchecked")
def test_another_expectation_is_noticed():
    from throughput_training import PlainMDLMLoss, compare_expectations

    class Wrong(PlainMDLMLoss):
        def forward(self, x_0):
            return 1.03 * super().forward(x_0)

    # Three percent are six standard errors: noticed in 98 of 100 seeds, where four are a false alarm in 16,000.
    assert not compare_expectations(0, plain=Wrong)["agree"]


@pytest.mark.parametrize("wrong", ["value", "gradient"])
def test_a_wrong_plain_loss_is_noticed(monkeypatch, wrong):
    import throughput_pyro

    workload = throughput_pyro.transformer_workload(4, 27, is_small=True)
    pair = workload.build()
    assert throughput_pyro.assert_same_loss(workload, *pair, seed=0) < 1e-3

    class Wrong(throughput_pyro.PlainLoss):
        def forward(self, x_0):
            loss = super().forward(x_0)
            if wrong == "value":
                return 1.001 * loss
            # The same value, a gradient too much: the location's own.
            extra = self.recognition.readout.family.loc.bias.sum()
            return loss + extra - extra.detach()

    monkeypatch.setattr(throughput_pyro, "PlainLoss", Wrong)
    with pytest.raises(AssertionError, match="plain loss" if wrong == "value" else "gradients differ"):
        throughput_pyro.assert_same_loss(workload, *pair, seed=0)


sizes = st.integers(1, 10_000)


@settings(max_examples=15)
@given(a=sizes, b=sizes, c=sizes)
def test_peak_memory_is_that_of_what_lives_together(a, b, c):
    from measuring import peak_memory

    def use():
        first, second = torch.empty(a), torch.empty(b)
        del first
        third = torch.empty(c)
        del second, third

    assert peak_memory(use, torch.device("cpu")) == 4 * max(a + b, b + c)
    assert peak_memory(lambda: None, torch.device("cpu")) == 0


def test_parameters_gradients_and_optimizer_are_no_part_of_a_steps_peak():
    from measuring import TrainingStep

    size = 500
    layer = nn.Linear(size, size, bias=False)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x_0):
            return self.layer(x_0.float()).sum()

    peak = TrainingStep(Loss(), torch.ones(1, size, dtype=torch.long), fused=True).peak_memory(0)
    # The new gradient, before it is added to the buffer, and vectors; each part of the optimizer would be as much more.
    assert 4 * size**2 <= peak < 5 * size**2


@given(
    exponent=st.floats(-3, 3),
    factor=st.floats(1e-3, 1e3),
    x=st.lists(st.integers(1, 10_000), min_size=4, max_size=8, unique=True),
)
def test_the_exponent_of_a_power_law_is_found(exponent, factor, x):
    from measuring import fit_exponent

    assert fit_exponent(x, [factor * value**exponent for value in x]) == pytest.approx(exponent, abs=1e-6)


@pytest.mark.parametrize(("power", "is_met"), [(0.9, True), (1.05, True), (1.2, False)])
def test_growth_judges_the_last_pair_by_the_operations_counted(power, is_met):
    from throughput_scaling import Axis, growth

    values = [2, 4, 8, 16]
    axis = Axis("size", values, values, time=1, memory=0)
    slower = (1.0, 3.0, 10.0)  # a machine that slows down from round to round
    cost = [1, 1, 1, 2**power]  # it begins to grow at the end
    memory = [7 + v for v in (0, 1, 0, 0)]
    found = growth(axis, values, [[s * c for s in slower] for c in cost], memory, [1, 1, 5, 10])
    assert found["goals"]["operations"]["met"]
    assert found["last"] == pytest.approx({"time": power, "memory": 0, "operations": 1})
    assert found["goals"]["time"]["met"] == is_met
    assert found["goals"]["memory"]["met"]
    found = growth(axis, values, [[s * v**power for s in slower] for v in values], memory, values)
    wasteful = growth(axis, values, [[v**2] * 3 for v in values], memory, [v**2 for v in values])
    assert wasteful["goals"]["time"]["met"]
    assert not wasteful["goals"]["operations"]["met"]
    quartiles = [found["exponents"]["time"][key] for key in ("lower_quartile", "median", "upper_quartile")]
    assert quartiles == pytest.approx([power] * 3)


@pytest.mark.parametrize(
    ("rounds", "number"), [((2, 9, 0.0), 2), ((2, 3, 1e9), 3), (4, 4)], ids=["least", "most", "given"]
)
def test_rounds_rotate_under_equal_seeds(rounds, number):
    from measuring import Rounds, time_in_turns

    drawn = []
    steps = {name: lambda name=name: drawn.append((name, float(torch.rand(())))) for name in "abc"}
    given = Rounds(*rounds) if isinstance(rounds, tuple) else rounds
    times = time_in_turns(steps, rounds=given, warmup=1, seed=5, device=torch.device("cpu"))
    assert [len(values) for values in times.values()] == [number] * 3
    turns = [drawn[i : i + 3] for i in range(0, len(drawn), 3)]
    assert len(turns) == number + 1
    assert len({turn[0][0] for turn in turns}) == 3  # each comes first once
    seeds = [{value for _, value in turn} for turn in turns]
    assert all(len(values) == 1 for values in seeds)
    assert len(set.union(*seeds)) == len(turns)


def test_ratios_are_taken_within_a_round():
    from measuring import compare

    # A machine that slows down tenfold halfway: medians of the times would compare unlike rounds.
    now = calls = 0

    def advance(seconds):
        def step():
            nonlocal now, calls
            calls += 1
            now += seconds * (1 if calls <= 6 else 10)

        return step

    steps = {"base": advance(1.0), "other": advance(1.5)}
    found = compare(steps, rounds=5, warmup=1, seed=0, device=torch.device("cpu"), clock=lambda: now)
    assert calls == 12
    ratio = found["steps"]["other"]["ratio"]
    assert [ratio[key] for key in ("lower_quartile", "median", "upper_quartile")] == pytest.approx([1.5] * 3)


def test_operations_of_a_step_are_those_counted():
    from measuring import count_operations
    from throughput_accelerator import model_operations

    from vadd import MaskingProcess
    from vadd.backbones import DiTDenoiser, EmptyRecognition
    from vadd.recipes import get_recipe
    from vadd.schedules import LinearSchedule

    size = {"hidden_size": 16, "depth": 2}
    recipe, process = get_recipe("mdm"), MaskingProcess(LinearSchedule(), 30)
    model, guide = recipe.pair(DiTDenoiser(30, 12, 0, num_heads=2, **size), EmptyRecognition(), process)
    objective = recipe.objective(process)
    drawn = objective.draw(model, torch.randint(30, (4, 12)))
    loss = objective(model, guide)
    _, counted = count_operations(lambda: loss(drawn).backward())
    scored = int(drawn.batch.target.sum())
    assert model_operations(**size, vocab_size=30, length=12, num_tokens=48, num_scored=scored) == counted


def test_waits_are_counted():
    from measuring import count_waits

    x = torch.tensor([0.0, 1.0])

    def wait():
        x.nonzero()
        return x.sum().item() + x.max().item()

    found = count_waits(wait, torch.device("cpu"))
    assert found == {"aten::nonzero": 1, "aten::_local_scalar_dense": 2, "aten::masked_select": 0}


def test_waits_on_a_gpu_are_pytorchs_warnings(monkeypatch):
    import measuring

    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])

    def switch(mode):
        modes.append(mode)
        warnings.warn("a prototype feature that does not yet detect all synchronizing operations", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    monkeypatch.setattr(measuring, "synchronize", lambda device: None)

    def run():
        assert modes[-1] == "warn"
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    assert measuring.count_waits(run, torch.device("cuda")) == {"synchronizations": 3}
    assert modes[-1] == "default"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_are_those_of_known_gpus(name, peak):
    from throughput_accelerator import peak_of

    assert peak_of(name) == peak


def test_the_network_alone_reads_what_the_bound_reads(bench):
    from throughput_running import network_alone, rows_read

    from vadd.evaluation import log_likelihood_bound

    preset = bench.text_preset("cpu")
    model, guide = bench.text_pair("default", 27, preset)
    x_0 = bench.tokens(27, 3, preset.length)

    def bound():
        log_likelihood_bound(model, guide, x_0, bound="marginal", num_latents=5, num_draws=2, rows_per_call=6)

    calls = rows_read(model.denoiser, bound)
    assert sum(calls) == 3 * 5 * 2
    assert max(calls) <= 6
    assert rows_read(model.denoiser, network_alone(model, calls, preset.length)) == calls
