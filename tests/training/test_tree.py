"""Nested states as JSON and tensors: exact both ways, anything else refused by name, hostile input met by an error."""

import enum
import json
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from vadd.errors import CheckpointError, ConfigError
from vadd.training.tree import pack, unpack

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def bits(tensor):
    dense = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return bytes(dense.reshape(-1).view(torch.uint8).tolist()) if dense.numel() else b""


def same(a, b):
    """Whether two states are alike to the type, the order of keys and the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and bits(a) == bits(b)
    if isinstance(a, dict):
        keys = [(type(key), key) for key in a] == [(type(key), key) for key in b]
        return keys and all(same(a[key], b[key]) for key in a) and same(vars_of(a), vars_of(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


def vars_of(value):
    return dict(vars(value)) if type(value) is OrderedDict else None


def round_trip(state):
    """By way of the bytes that files would hold."""
    structure, tensors = pack(state)
    return unpack(json.loads(json.dumps(structure, allow_nan=False)), load(save(tensors)))


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    width = torch.empty(0, dtype=dtype).element_size()
    count = int(np.prod(shape, dtype=int))
    data = bytearray(draw(st.binary(min_size=count * width, max_size=count * width)))
    if dtype == torch.bool:
        data = bytearray(byte & 1 for byte in data)
    value = torch.frombuffer(data, dtype=dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    if dtype == torch.complex64 and draw(st.booleans()):
        value = value.conj()
    return value.mT if value.ndim >= 2 and draw(st.booleans()) else value


texts = st.text(st.characters(), max_size=5) | st.text("$ab.\ud83d\ude00\0", max_size=4)
keys = texts | st.integers()
doubles = st.binary(min_size=8, max_size=8).map(lambda data: struct.unpack("d", data)[0]) | st.floats()
leaves = st.none() | st.booleans() | st.integers() | doubles | texts | tensors()
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(states)
@example({"$tensor": "0", "a": torch.ones(2)})
@example({1: 2, "1": 3, "$dict": []})
@example([float("nan"), -float("nan"), float("inf"), -float("inf"), -0.0, 5e-324])
@example([2**63, -(2**63), 2**63 - 1, 10**5000, -(10**5000)])
@example(["\ud83d\ude00", "\U0001f600", "\ud83d"])
def test_a_round_trip_is_exact(state):
    assert same(round_trip(state), state)


def test_the_comparison_of_these_tests_sees_differences():
    different = [
        *(1, 1.0, True, "1", None, [1], (1,), {"a": 1}, {1: 1}, OrderedDict(a=1), 0.0, -0.0),
        *({"a": 1, "b": 2}, {"b": 2, "a": 1}, torch.zeros(1), torch.zeros(()), torch.zeros(1).int(), -torch.zeros(1)),
    ]
    for i, a in enumerate(different):
        assert [j for j, b in enumerate(different) if same(a, b)] == [i]


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_an_optimizer_goes_on_as_if_nothing_had_been(make):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = make(net.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    x = torch.randn(8, 3)

    def step(net, optimizer, schedule):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        schedule.step()

    step(net, optimizer, schedule)
    state = [net.state_dict(), optimizer.state_dict(), schedule.state_dict()]
    stored = round_trip(state)
    assert same(stored, state)
    assert stored[0]._metadata == net.state_dict()._metadata != {}

    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    other_optimizer = make(other.parameters())
    other_schedule = torch.optim.lr_scheduler.ExponentialLR(other_optimizer, 0.9)
    for part, value in zip((other, other_optimizer, other_schedule), stored, strict=True):
        part.load_state_dict(value)
    step(net, optimizer, schedule)
    step(other, other_optimizer, other_schedule)
    assert same(
        [other.state_dict(), other_optimizer.state_dict(), other_schedule.state_dict()],
        [net.state_dict(), optimizer.state_dict(), schedule.state_dict()],
    )


def test_tensors_that_share_memory_come_back_apart():
    whole = torch.arange(6.0).share_memory_()
    state = {"whole": whole, "again": whole, "part": whole[2:4], "wide": whole[:1].expand(3)}
    _, packed = pack(state)
    assert len({value.untyped_storage().data_ptr() for value in packed.values()}) == 4
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in packed.values())
    back = round_trip(state)
    back["whole"].zero_()
    assert same(back, {**state, "whole": torch.zeros(6)})


def test_what_is_packed_does_not_change_with_the_state():
    value = torch.zeros(2, requires_grad=True)
    structure, tensors = pack([value])
    with torch.no_grad():
        value += 1
    (back,) = unpack(structure, tensors)
    assert same(back, torch.zeros(2))
    assert not back.requires_grad


def test_plain_json_stays_as_it_is():
    state = {"config": {"betas": [0.9, 0.99], "name": "run", "steps": 10, "clip": None, "compile": False}}
    assert pack(state) == (state, {})


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({1}, "set"),
        (lambda: 0, "function"),
        (b"", "bytes"),
        (1j, "complex"),
        (np.float64(1), r"numpy\.float64"),
        (np.zeros(1), r"numpy\.ndarray"),
        (enum.IntEnum("Level", ["a"]).a, "Level"),
        (Pair(1, 2), "Pair"),
        (torch.Size([1]), r"torch\.Size"),
        (defaultdict(dict), r"collections\.defaultdict"),
        (torch.float32, r"torch\.dtype"),
        (nn.Parameter(torch.ones(1)), r"Parameter.*detach"),
        (nn.Linear(1, 1), "Linear"),
        (torch.zeros(1, dtype=torch.complex128), "dtype torch.complex128"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (torch.zeros(1, device="meta"), "on meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_named_with_its_path(value, kind):
    state = {"optimizer": {"param_groups": [{"foo": value}]}}
    with pytest.raises(ConfigError, match=rf"^state\.optimizer\.param_groups\[0\]\.foo is .*{kind}"):
        pack(state)
    with pytest.raises(ConfigError, match=r"^metadata\[3\]\['a\.b'\]\[1\] is "):
        pack({3: {"a.b": (0, value)}}, "metadata")


@pytest.mark.parametrize("key", [True, None, 1.0, (1,), b"a"])
def test_keys_are_strings_or_integers(key):
    with pytest.raises(ConfigError, match=rf"^state\.a has the key .*of type {type(key).__name__}"):
        pack({"a": {key: 1}})


def test_attributes_are_not_lost_in_silence():
    state = OrderedDict(a=1)
    state.more = 2
    with pytest.raises(ConfigError, match=r"^state\.b is of type collections\.OrderedDict"):
        pack({"b": state})


def nested(levels, wrap):
    state = 0
    for _ in range(levels):
        state = wrap(state)
    return state


WRAPS = [lambda s: [s], lambda s: (s,), lambda s: {"a": s}, lambda s: {1: s}, lambda s: OrderedDict(a=s)]


@pytest.mark.parametrize("wrap", WRAPS)
def test_depth_has_a_limit(wrap):
    state = nested(64, wrap)
    assert same(round_trip(state), state)
    with pytest.raises(ConfigError, match="deeper than 64 levels"):
        pack(nested(65, wrap))


def test_a_state_that_contains_itself_is_refused():
    state = {}
    state["again"] = [state]
    with pytest.raises(ConfigError, match=r"^state\.again\[0\]\.again.* contains itself"):
        pack(state)


# What unpack meets in files that others wrote

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["0", "7f", "a", "zz", "-0x1", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$tuple", "$dict", "$ordered", "$tensor", "$text", "$float", "$int", "$other", "a"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_read_or_refused(value):
    for tensors in ({}, {"0": torch.ones(1)}):
        try:
            unpack(value, tensors)
        except CheckpointError:
            pass


@pytest.mark.parametrize("wrap", [WRAPS[0], WRAPS[2], lambda s: {"$tuple": [s]}, lambda s: {"$dict": [[1, s]]}])
@pytest.mark.parametrize("levels", [65, 100_000])
def test_deep_json_is_refused(wrap, levels):
    with pytest.raises(CheckpointError, match="deep"):
        unpack(nested(levels, wrap), {})


@pytest.mark.parametrize(
    "value",
    [
        {"$tensor": "1"},
        {"$tensor": 0},
        {"$other": 1},
        {"$tuple": "ab"},
        {"$tuple": [], "a": 1},
        {"$dict": [["a", 1], ["a", 2]]},
        {"$dict": [[None, 1]]},
        {"$dict": [[{"$tensor": "0"}, 1]]},
        {"$dict": [["a"]]},
        {"$dict": {"a": 1}},
        {"$ordered": []},
        {"$ordered": [[], {"__class__": 1}]},
        {"$float": "00"},
        {"$float": "zz"},
        {"$int": "zz"},
        {"$text": "ff"},
        {"a": {1, 2}},
        [{"$tensor": "0"}, {"$tensor": "0"}],
        [],
    ],
    ids=str,
)
def test_what_is_no_packed_state_is_refused(value):
    with pytest.raises(CheckpointError, match="packed state"):
        unpack(value, {"0": torch.ones(1)})


def test_counters_come_back_as_such():
    state = {"milestones": Counter({4: 2, 2: 1})}
    found = unpack(*pack(state))
    assert type(found["milestones"]) is Counter
    assert found == state
    assert list(found["milestones"].elements()) == [4, 4, 2]
