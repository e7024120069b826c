"""Gates: plans for every number of steps, round trips, and what is refused."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.errors import CheckpointError, ConfigError, DomainError
from vadd.priors import StandardNormalPrior
from vadd.samplers.gate import LatentGate, resolve_plan
from vadd.schedules import LinearSchedule
from vadd.training import load_checkpoint, save_checkpoint

MODES = ("fresh", "shared", "null")


@st.composite
def gates(draw):
    steps = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True))
    return LatentGate({n: tuple(draw(st.sampled_from(MODES)) for _ in range(n)) for n in steps})


@given(gates(), st.integers(1, 40))
def test_a_gate_has_a_plan_for_every_number_of_steps(gate, num_steps):
    plan = gate.plan(num_steps)
    assert len(plan) == num_steps
    assert set(plan) <= set(MODES)
    if num_steps in gate.plans:
        assert plan == gate.plans[num_steps]


@given(gates())
def test_gates_survive_json_and_copies(gate):
    assert LatentGate.from_json(json.loads(json.dumps(gate.to_json()))) == gate
    assert copy.deepcopy(gate) == gate


def test_a_missing_number_of_steps_takes_the_nearest_by_ratio_and_the_larger_of_two():
    gate = LatentGate({2: ("fresh",) * 2, 8: ("null",) * 8, 18: ("shared",) * 18})
    nearest = {n: gate.plan(n)[0] for n in (1, 3, 4, 5, 12, 11, 13, 1000)}
    assert nearest == {
        1: "fresh",
        3: "fresh",
        4: "null",  # twice 2, half of 8
        5: "null",
        11: "null",
        12: "shared",  # 3/2 of 8, 2/3 of 18, whose logarithms differ by a rounding error
        13: "shared",
        1000: "shared",
    }


def test_jumps_take_the_mode_of_the_jump_in_which_they_start():
    gate = LatentGate({4: ("shared", "fresh", "null", "shared")})
    assert gate.plan(8) == ("shared", "shared", "fresh", "fresh", "null", "null", "shared", "shared")
    assert gate.plan(2) == ("shared", "null")
    assert gate.plan(3) == ("shared", "fresh", "null")  # starts at 0, 1/3, 2/3 of the steps; jumps at 0, 1/4, 1/2, 3/4
    assert gate.plan(1) == ("shared",)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ({}, "one or more"),
        (None, "must map"),
        (["fresh"], "must map"),
        ({0: ()}, "positive numbers of steps"),
        ({-1: ("fresh",)}, "positive numbers of steps"),
        ({True: ("fresh",)}, "positive numbers of steps"),
        ({1.0: ("fresh",)}, "positive numbers of steps"),
        ({2: ("fresh",)}, "each of the 2 jumps, got 1"),
        ({1: ("other",)}, "one of fresh, shared, null"),
        ({1: ([],)}, "one of fresh, shared, null"),
        ({1: None}, "one of fresh, shared, null"),
    ],
)
def test_bad_plans_are_refused(plans, message):
    with pytest.raises(ConfigError, match=message):
        LatentGate(plans)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "plans", [None, 3, [], {}, {"a": ["fresh"]}, {"1": 3}, {"1": ["other"]}, {"2": ["fresh"]}, {"1": [["fresh"]]}]
)
def test_bad_descriptions_are_refused(plans):
    with pytest.raises(ConfigError):
        LatentGate.from_json(plans)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("num_steps", [0, -2, 1.5, True, None])
def test_plans_need_a_positive_number_of_steps(num_steps):
    with pytest.raises(DomainError, match="num_steps"):
        LatentGate({1: ("fresh",)}).plan(num_steps)


def test_one_mode_stands_for_all_jumps():
    assert resolve_plan("null", 3) == ("null",) * 3
    assert resolve_plan(["fresh", "null"], 2) == ("fresh", "null")
    with pytest.raises(ConfigError, match="each of the 3 jumps, got 2"):
        resolve_plan(("fresh", "null"), 3)


# The model that keeps one


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("gate", ["fresh", {2: ("fresh", "null")}, ("fresh",)])
def test_a_model_takes_gates_only(gate):
    model, _ = make_pair()
    with pytest.raises(ConfigError, match="LatentGate or None"):
        model.gate = gate
    assert model.gate is None


def make_pair():
    process = MaskingProcess(LinearSchedule(), 3)
    model = VADDModel(MLPDenoiser(3, 2, 1, hidden_size=4, depth=1), StandardNormalPrior(1), process)
    return model, RecognitionGuide(MLPRecognition(3, 2, 1, hidden_size=4, depth=1))


@pytest.mark.parametrize("gate", [None, LatentGate({1: ("null",), 3: ("shared", "fresh", "null")})])
@pytest.mark.parametrize("latents", MODES)
def test_checkpoints_keep_gate_and_latents(tmp_path, latents, gate):
    model, guide = make_pair()
    model.latents, model.gate = latents, gate
    loaded = load_checkpoint(save_checkpoint(tmp_path, model, guide)).model
    assert (loaded.latents, loaded.gate) == (latents, gate)
    header = json.loads((tmp_path / "checkpoint.json").read_text())
    del header["latents"], header["gate"]  # as written before there was a choice
    (tmp_path / "checkpoint.json").write_text(json.dumps(header))
    loaded = load_checkpoint(tmp_path).model
    assert (loaded.latents, loaded.gate) == ("fresh", None)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("field", [{"latents": "other"}, {"latents": None}, {"gate": "fresh"}, {"gate": {"2": []}}])
def test_damaged_fields_are_found(tmp_path, field):
    save_checkpoint(tmp_path, *make_pair())
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **field}))
    with pytest.raises(CheckpointError, match="cannot be built: .*(latents|gate)"):
        load_checkpoint(tmp_path)
