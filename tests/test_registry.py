"""Parts are described as JSON and rebuilt from it, and nothing else is."""

import json

import pytest
import torch
from torch import nn

from vadd.errors import CheckpointError, ConfigError
from vadd.priors import StandardNormalPrior
from vadd.registry import build, describe, register
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule


@register
class _Part(nn.Module):
    def __init__(self, size: int, *, sizes: tuple = (1, 2), inner: nn.Module | None = None, flag=None) -> None:
        super().__init__()
        self.size, self.sizes, self.inner = size, sizes, inner


def round_trip(part: nn.Module) -> nn.Module:
    return build(json.loads(json.dumps(describe(part))))


@pytest.mark.parametrize(
    "schedule",
    [LinearSchedule(), CosineSchedule(), PolynomialSchedule(0.7), GeometricSchedule(sigma_max=7.0)],
    ids=repr,
)
def test_schedules_are_rebuilt(schedule):
    rebuilt = round_trip(schedule)
    assert type(rebuilt) is type(schedule)
    assert repr(rebuilt) == repr(schedule)
    t = torch.linspace(0, 1, 7)
    assert torch.equal(rebuilt.alpha(t), schedule.alpha(t))


@pytest.mark.parametrize("shape", [3, (2, 4), [5], torch.Size([6]), 0])
def test_priors_are_rebuilt(shape):
    prior = StandardNormalPrior(shape)
    assert round_trip(prior).latent_shape == prior.latent_shape


def test_defaults_and_positional_arguments_are_remembered():
    assert describe(_Part(3)) == {
        "class": "_Part",
        "arguments": {"size": 3, "sizes": [1, 2], "inner": None, "flag": None},
    }


def test_parts_within_parts_are_rebuilt():
    rebuilt = round_trip(_Part(3, sizes=(4, (5, 6)), inner=_Part(1, inner=LinearSchedule()), flag=True))
    assert rebuilt.sizes == (4, (5, 6))
    assert rebuilt.inner.size == 1
    assert isinstance(rebuilt.inner.inner, LinearSchedule)


def test_arguments_are_no_second_home_of_submodules():
    part = _Part(1, inner=nn.Linear(2, 2))
    assert [name for name, _ in part.named_parameters()] == ["inner.weight", "inner.bias"]
    assert set(part.state_dict()) == {"inner.weight", "inner.bias"}


def test_a_subclass_must_register_itself():
    class Sub(LinearSchedule):
        pass

    with pytest.raises(ConfigError, match="Sub cannot be described"):
        describe(Sub())


def test_a_registered_subclass_describes_its_own_arguments():
    @register
    class _Doubled(PolynomialSchedule):
        def __init__(self, half: float) -> None:
            super().__init__(2 * half)

    assert describe(_Doubled(1.5))["arguments"] == {"half": 1.5}
    assert round_trip(_Doubled(1.5)).power == 3.0


def test_unregistered_parts_are_refused():
    with pytest.raises(ConfigError, match="Linear cannot be described"):
        describe(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="Linear cannot be described"):
        describe(_Part(1, inner=nn.Linear(1, 1)))


def test_arguments_that_are_not_json_are_refused_by_name():
    with pytest.raises(ConfigError, match="argument flag of type Tensor"):
        describe(_Part(1, flag=torch.zeros(1)))


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="_Part is already registered"):

        @register
        class _Part(nn.Module):
            pass


def test_a_class_of_another_module_cannot_take_a_name():
    impostor = type("LinearSchedule", (nn.Module,), {"__module__": "elsewhere"})
    with pytest.raises(ConfigError, match="LinearSchedule is already registered"):
        register(impostor)
    assert type(build({"class": "LinearSchedule", "arguments": {}})) is LinearSchedule


def test_a_module_may_be_run_again():
    again = type("_Part", (nn.Module,), {"__module__": __name__, "__qualname__": "_Part"})
    original = _Part
    try:
        assert register(again) is again
    finally:
        register(original)


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        "LinearSchedule",
        {},
        {"class": "LinearSchedule"},
        {"arguments": {}},
        {"class": "LinearSchedule", "arguments": []},
        {"class": "LinearSchedule", "arguments": None},
        {"class": "NoSuchPart", "arguments": {}},
        {"class": ["LinearSchedule"], "arguments": {}},
        {"class": "os.system", "arguments": {"command": "true"}},
        {"class": "LinearSchedule", "arguments": {"power": 2.0}},
        {"class": "_Part", "arguments": {}},
        {"class": "_Part", "arguments": {"size": 1, "inner": {"class": "NoSuchPart", "arguments": {}}}},
    ],
)
def test_what_is_no_description_is_refused(description):
    with pytest.raises(CheckpointError):
        build(description)
