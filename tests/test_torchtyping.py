"""Annotations of torchtyping on parts of one's own are checked, though torchtyping's own checks no longer run."""

# ruff: noqa: F821 - names of axes

import os
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, no_type_check

import pyro
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, Recognition
from vadd.backbones.base import diagonal_normal
from vadd.errors import ConfigError
from vadd.priors import LatentPrior
from vadd.registry import register
from vadd.schedules import LinearSchedule
from vadd.testing import check_denoiser
from vadd.testing.torchtyping import as_jaxtyping, checked
from vadd.types import Distribution, Tokens

torchtyping = pytest.importorskip("torchtyping", reason="needs the extra torchtyping")
TensorType, is_float, is_named = torchtyping.TensorType, torchtyping.is_float, torchtyping.is_named

ROOT = Path(__file__).resolve().parents[1]


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@checked
def act(x: TensorType["batch", "dim", int], *more: TensorType["batch"], scale: float = 1, **rest: TensorType["dim"]):
    return x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: act(3), r"act: argument x must be TensorType\['batch', 'dim', torch.int64\], got int 3\.$"),
        (lambda x: act(x.float()), r"argument x .* got Tensor of shape \(2, 3\) and dtype torch.float32: .* int64"),
        (lambda x: act(x[0]), r"argument x .* got Tensor of shape \(3,\) .*: this array has 1 dimensions, not the 2"),
        (
            lambda x: act(x, x[:, 0], x[0]),
            r"argument more\[1\] .*batch is 3 .* 2\. Names were bound by argument x: Ten",
        ),
        (lambda x: act(x, dims=x[:, 0]), r"argument dims must be TensorType\['dim'\], .*argument x: .* shape \(2, 3\)"),
        (lambda x: act(x, scale="1"), r"argument scale must be float, got str '1'\."),
    ],
)
def test_messages_say_which_argument_what_was_expected_and_what_came(call, message):
    with pytest.raises(TypeCheckError, match=message):
        call(zeros(2, 3, dtype=torch.int64))


def test_messages_have_names_as_they_were_written():
    @checked
    def f(x: TensorType["two words", "_b"]) -> TensorType["_b"]:
        return x[:, 0]

    with pytest.raises(
        TypeCheckError, match=r"the size of dimension _b is 2 which .* 3\. Names were bound by argument x"
    ):
        f(zeros(2, 3))


def test_what_fits_passes():
    x = zeros(2, 3, dtype=torch.int64)
    assert act(x, x[:, 0], x[:, 1], scale=2, a=x[0], b=x[1]) is x  # an int is a float
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'x'"):
        act()


def test_paths_lead_to_the_tensor():
    class Held(NamedTuple):
        tensors: dict[str, list[TensorType["a"]]]

    @checked
    def f(held: Held) -> tuple[TensorType["a"], str]:
        return held.tensors["u"][0], 3

    with pytest.raises(TypeCheckError, match=r"argument held\.tensors\['v'\]\[1\] must be TensorType\['a'\], got .*3"):
        f(Held({"u": [zeros(2)], "v": [zeros(2), zeros(3)]}))
    with pytest.raises(TypeCheckError, match=r"the return value\[1\] must be str, got int 3"):
        f(Held({"u": [zeros(2)]}))
    with pytest.raises(TypeCheckError, match=r"f: the key 4 of argument held\.tensors must be str"):
        f(Held({4: [zeros(2)]}))
    with pytest.raises(TypeCheckError, match=r"argument held must be .*Held, got tuple of length 1"):
        f(({},))


def test_a_union_tells_why_no_member_fits():
    @checked
    def f(x: TensorType["a"], y: TensorType["a"] | TensorType["a", 4] | None):
        pass

    f(zeros(2), zeros(2, 4))
    f(zeros(2), None)
    with pytest.raises(
        TypeCheckError, match=r"y must be TensorType\['a'\] \| .* \| None, got .*a is 3 .*; .*argument x"
    ):
        f(zeros(2), zeros(3))
    with pytest.raises(TypeCheckError, match=r"\| None, got str 'none'\.$"):
        f(zeros(2), "none")


def test_names_are_shared_with_annotations_of_jaxtyping():
    def call(tokens, weights, result):
        @checked
        def f(tokens: Tokens, weights: TensorType["batch"]) -> Float[Tensor, "dim batch"]:
            return result

        return f(tokens, weights)

    tokens, bound = zeros(2, 3, dtype=torch.int64), r"argument tokens: Int\[Tensor, 'batch dim'\] has shape \(2, 3\)"
    call(tokens, zeros(2), zeros(3, 2))
    with pytest.raises(TypeCheckError, match=f"argument weights .*{bound}"):
        call(tokens, zeros(3), zeros(3, 2))
    with pytest.raises(TypeCheckError, match=f"the return value .*{bound}"):
        call(tokens, zeros(2), zeros(2, 2))


def test_names_hold_within_a_call_and_for_what_the_body_asks_jaxtyping():
    @checked
    def f(x: TensorType["a"], depth: int) -> bool:
        inside = isinstance(zeros(2), Float[Tensor, "a"])
        return inside and (depth == 0 or not f(zeros(7), depth - 1) and isinstance(zeros(2), Float[Tensor, "a"]))

    assert f(zeros(2), 1)
    assert not f(zeros(3), 0)


def test_a_default_is_not_checked():
    @checked
    def f(x: TensorType["a"], mask: TensorType["a"] = None):
        return mask

    assert f(zeros(2)) is None
    assert f(zeros(2), None) is None
    with pytest.raises(TypeCheckError, match="argument mask"):
        f(zeros(2), zeros(3))


@checked
class Everything:
    def method(self, x: TensorType["a"], y: TensorType["a"]) -> Self:
        return self

    @staticmethod
    def static(x: TensorType[2]):
        return x

    @classmethod
    def of(cls, x: TensorType[2]) -> "Everything":
        return cls()

    @property
    def value(self) -> TensorType[2]:
        return self._value

    @value.setter
    def value(self, new: TensorType[-1]):
        self._value = new

    @no_type_check
    def free(self, x: TensorType[2]):
        return x

    def unannotated(self, x):
        return x


def test_all_annotated_methods_of_a_class_are_checked():
    it = Everything.of(zeros(2))
    assert it.method(zeros(1), zeros(1)) is it
    it.value = zeros(3)
    for wrong in (
        lambda: it.method(zeros(1), zeros(2)),
        lambda: it.static(zeros(1)),
        lambda: Everything.static(zeros(1)),
        lambda: Everything.of(zeros(1)),
        lambda: it.value,
        lambda: setattr(it, "value", 3),
    ):
        with pytest.raises(TypeCheckError, match=r"^Everything\.(method|static|of|value): "):
            wrong()
    assert it.free(3) == it.unannotated(3) == 3

    @checked
    def wrong_return() -> Everything:
        return 3

    with pytest.raises(TypeCheckError, match="the return value must be Everything"):
        wrong_return()


def test_dataclasses_and_named_tuples_are_checked_when_made():
    @checked
    @dataclass(frozen=True)
    class Batch:
        x: TensorType["batch", "dim"]
        y: TensorType["batch"]

    @checked
    class Pair(NamedTuple):
        x: TensorType["batch"]
        y: TensorType["batch"]

    Batch(zeros(2, 3), zeros(2))
    Pair(zeros(2), y=zeros(2))
    with pytest.raises(TypeCheckError, match="argument y"):
        Batch(zeros(2, 3), zeros(3))
    with pytest.raises(TypeCheckError, match="argument y"):
        Pair(zeros(2), zeros(3))


def test_methods_of_an_object():
    class Free:
        def act(self, x: TensorType[2]):
            return self, x

    it = Free()
    assert checked(it.act)(zeros(2))[0] is it
    with pytest.raises(TypeCheckError, match=r"Free\.act: argument x"):
        checked(it.act)(zeros(3))


def test_generators_are_checked_item_by_item_and_work_as_before():
    closed = []

    @checked
    def rows(x: TensorType["batch", "dim"]) -> Iterator[TensorType["dim"]]:
        try:
            sent = yield x[0]
            try:
                yield sent
            except KeyError:
                yield x[1]
            yield x[:, 0]
        finally:
            closed.append(True)
        return "done"

    items = rows(zeros(2, 3))
    next(items)
    assert items.send(zeros(3)).shape == (3,)
    assert items.throw(KeyError()).shape == (3,)
    with pytest.raises(TypeCheckError, match=r"an item of the generator must be .*dim is 2 .*argument x"):
        next(items)
    items = rows(zeros(3, 3))
    assert len([next(items), items.send(zeros(3)), next(items)]) == 3
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "done"
    items = rows(zeros(3, 3))
    next(items)
    items.close()
    assert len(closed) == 3
    with pytest.raises(TypeCheckError, match="argument x"):
        rows(zeros(3))


STRINGS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torchtyping import TensorType
from vadd.testing.torchtyping import checked

def define():
    Tokens = TensorType["batch", "dim", int]

    @dataclass
    class Inner:
        x: Tokens

    @checked
    def f(inner: Inner, y: TensorType["batch": ..., "dim"], later: list[Later]) -> Later | TensorType["batch"]:
        return y[:, 0]

    return Inner, f

Inner, f = define()
x = torch.zeros(2, 3, dtype=torch.int64)
"""


def test_annotations_in_strings(monkeypatch):
    module = types.ModuleType("strings")
    monkeypatch.setitem(sys.modules, "strings", module)
    names = vars(module)
    exec(STRINGS, names)
    f, inner = names["f"], names["Inner"](names["x"])
    with pytest.raises(ConfigError, match=r"an annotation of define.<locals>.f .* name 'Later' is not defined: import"):
        f(inner, inner.x, [])
    names["Later"] = int
    assert f(inner, inner.x, [3]).shape == (2,)
    with pytest.raises(TypeCheckError, match=r"argument y"):
        f(inner, inner.x[:, :2], [3])
    with pytest.raises(TypeCheckError, match=r"argument inner\.x must be TensorType"):
        f(names["Inner"](inner.x.float()), inner.x, [3])
    with pytest.raises(TypeCheckError, match=r"argument later"):
        f(inner, inner.x, ["3"])


def test_strings_may_use_names_of_the_class_and_stand_below_other_decorators():
    @checked
    class Part:
        Vector = TensorType["a"]

        @torch.no_grad()
        def act(self, x: "Vector", y: "TensorType['a']"):
            return x

    Part().act(zeros(2), zeros(2))
    with pytest.raises(TypeCheckError, match=r"act: argument y"):
        Part().act(zeros(2), zeros(3))


def test_an_iterator_is_not_used_up():
    @checked
    def f(items: Iterable[TensorType["a"]]) -> Iterator[TensorType["a"]]:
        return iter(items)

    assert len(list(f(zeros(n) for n in range(3)))) == 3
    with pytest.raises(TypeCheckError, match=r"argument items\[1\]"):
        f([zeros(1), zeros(2)])
    with pytest.raises(TypeCheckError, match=r"argument items must be Iterable\[TensorType\['a'\]\], got int 3"):
        f(3)


def test_a_class_within_itself_and_foreign_classes_do_no_harm():
    @dataclass
    class Node:
        x: TensorType["a"]
        children: list["Node"]

    @dataclass
    class Foreign:
        x: "unknown.Type"

    @dataclass
    class Unknown:
        x: "TensorType['a'] | unknown.Type"

    @checked
    def f(node: Node, foreign: Foreign):
        pass

    @checked
    def g(unknown: Unknown):
        pass

    node = Node(zeros(2), [Node(zeros(3), [])])
    node.children.append(node)
    f(node, Foreign(3))
    with pytest.raises(TypeCheckError, match=r"argument node\.x"):
        f(Node(3, []), Foreign(3))
    with pytest.raises(TypeCheckError, match=r"argument foreign"):
        f(node, node)
    with pytest.raises(ConfigError, match="an annotation of .*g cannot be checked, as name 'unknown' is not defined"):
        g(Unknown(3))


@pytest.mark.parametrize("target", [3, lambda x: x, nn.Linear(1, 1), type("Empty", (), {})])
def test_nothing_to_check_is_an_error(target):
    with pytest.raises(ConfigError, match="needs a function or a class with annotated methods"):
        checked(target)


def test_what_cannot_be_checked_is_an_error():
    async def later(x: TensorType["a"]):
        pass

    def wrong(x: 3):
        pass

    def misspelled(x: "TensorType['a', ..., 3]"):
        pass

    with pytest.raises(ConfigError, match="later, which is asynchronous"):
        checked(later)
    with pytest.raises(ConfigError, match="the annotation of x in .*wrong cannot be checked"):
        checked(wrong)
    with pytest.raises(
        ConfigError, match="the annotation of x in .*misspelled cannot be checked: Having dimensions to"
    ):
        checked(misspelled)


@pytest.mark.usefixtures("_unchecked")
def test_nothing_is_checked_where_jaxtyping_is_disabled():
    assert act(3) == 3


def test_compiled_code_is_left_whole():
    compiled = torch.compile(lambda x: act(x) + 1, backend="eager", fullgraph=True)
    with pyro.validation_enabled():  # which the compiler switches off for good
        assert compiled(zeros(2, 3, dtype=torch.int64)).sum() == 6


@pytest.mark.parametrize("package", ["torchtyping", "beartype"])
@pytest.mark.parametrize("use", [checked, as_jaxtyping])
def test_a_missing_package_is_named(package, use, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    def f(x: int):
        pass

    with pytest.raises(ConfigError, match=rf"need the package {package}: pip install 'vadd\[torchtyping\]'"):
        use(f)


FRESH = """
import sys, typing
import vadd, vadd.training, vadd.testing
assert "torchtyping" not in sys.modules
import vadd.testing.torchtyping
assert "torchtyping" not in sys.modules
import torch
from torchtyping import TensorType
from vadd.testing.torchtyping import checked

@checked
def f(
    x: TensorType["a"], y: typing.List[TensorType["a"] | tuple[TensorType["b"], TensorType["b"]]], *z: typing.List[int]
) -> TensorType["a"]:
    return y[0]

f(torch.zeros(2), [torch.zeros(2), (torch.zeros(3), torch.zeros(3))], [3])
for y in ([torch.zeros(3)], [torch.zeros(2), (torch.zeros(3), torch.zeros(4))]):
    try:
        f(torch.zeros(2), y)
    except TypeError as error:
        print(error)
"""


@pytest.mark.parametrize("setting", ["0", "1"])
def test_in_a_fresh_interpreter_with_and_without_the_checks_of_the_library(setting):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH],
        cwd=ROOT,
        env={**os.environ, "VADD_TYPECHECK": setting},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(" must")[0] for line in done.stdout.splitlines()] == ["f: argument y[0]", "f: argument y[1][1]"]


@checked
@register
class AnnotatedConvolution(Denoiser):
    """A backbone as someone with torchtyping would write it."""

    def __init__(self, vocab_size: int, latent_shape: int = 0, hidden_size: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.latent_shape = vocab_size, torch.Size([latent_shape])
        self.embedding = nn.Embedding(vocab_size + 1, hidden_size)
        self.mix = nn.Conv1d(hidden_size, hidden_size, 5, padding="same")
        self.latent = nn.Linear(latent_shape, hidden_size)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(
        self, x_t: TensorType["batch", "dim", int], t: TensorType["batch"], z: TensorType["batch", "latent", float]
    ) -> TensorType["batch", "dim", "vocab", float]:
        hidden = self.mix(self.embedding(x_t).mT).mT + self.latent(z)[:, None]
        return self.head(torch.relu(hidden))


@checked
class AnnotatedRecognition(Recognition):
    def __init__(self, latent_size: int, wrong: bool = False) -> None:
        super().__init__()
        self.latent_shape, self.wrong = torch.Size([latent_size]), wrong
        self.table = nn.Embedding(9, 2 * latent_size)

    def moments(
        self, tokens: TensorType["batch", "dim", int]
    ) -> tuple[TensorType["batch", "d"], TensorType["batch", "d"]]:
        return self.table(tokens).mean(1 - self.wrong).chunk(2, -1)

    def forward(
        self, tokens: TensorType["batch", "dim", int], target: TensorType["batch", "dim", bool], t: TensorType["batch"]
    ) -> Distribution:
        return diagonal_normal(*self.moments(tokens))


@checked
class AnnotatedPrior(LatentPrior):
    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_shape = torch.Size([latent_size])

    def forward(self, x_t: TensorType["batch", "dim", int], t: TensorType["batch"]) -> Distribution:
        return diagonal_normal(*torch.zeros(2, len(x_t), *self.latent_shape))


@checked
def words(rows: int) -> dict[str, TensorType["rows", 6, int]]:
    return {"x_0": torch.randint(8, (rows, 1)).expand(-1, 6)}


def losses(guide: RecognitionGuide) -> list[float]:
    process = MaskingProcess(LinearSchedule(), vocab_size=8)
    model = VADDModel(AnnotatedConvolution(8, 4), AnnotatedPrior(4), process)
    loss = DELBO(process)(model, guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        value = loss(words(64)["x_0"])
        value.backward()
        optimizer.step()
        found.append(value.item())
    assert model.eval().sample(3, num_steps=2, length=6).shape == (3, 6)
    return found


def test_annotated_parts_of_a_model_train():
    check_denoiser(AnnotatedConvolution(8, 4), num_tokens=6)
    first, second = losses(RecognitionGuide(AnnotatedRecognition(4)))
    assert first != second


def test_a_wrong_network_is_found_in_training():
    with pytest.raises(
        TypeCheckError, match=r"AnnotatedRecognition\.moments: the return value\[0\] must be .*batch is 6"
    ):
        losses(RecognitionGuide(AnnotatedRecognition(4, wrong=True)))


def test_torchtyping_does_not_check_by_itself():
    (detail,) = TensorType["a"].__metadata__[0]["details"]
    with pytest.raises(AttributeError, match="names"):
        detail.check(zeros(2))
