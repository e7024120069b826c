"""The annotation language of torchtyping: what a tensor fits, alone, among others, and inside of other values."""

# ruff: noqa: F821 - names of axes

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NewType, NotRequired, Required, TypedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from vadd.errors import ConfigError
from vadd.testing.torchtyping import as_jaxtyping, checked

torchtyping = pytest.importorskip("torchtyping", reason="needs the extra torchtyping")
TensorType, is_float, is_named = torchtyping.TensorType, torchtyping.is_float, torchtyping.is_named


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def accepts(*pairs: tuple[Any, Any]) -> bool:
    """Whether a function takes and returns these values under these annotations; the last pair is what it returns."""
    names = [f"x{i}" for i in range(len(pairs) - 1)]
    made = eval(f"lambda {', '.join(names)}: result", {"result": pairs[-1][1]})
    made.__annotations__ = dict(zip([*names, "return"], [hint for hint, _ in pairs], strict=True))
    try:
        checked(made)(*[value for _, value in pairs[:-1]])
    except TypeCheckError:
        return False
    return True


SIZES = st.integers(0, 3)
NAMES = st.sampled_from(["a", "b", "two words", "_c", "spelled_5f63"])
DTYPES = {"float32": float, "int64": int, "bool": bool, "bfloat16": torch.bfloat16}


@st.composite
def axes(draw) -> list[Any]:
    """Dimensions as one writes them in TensorType: sizes, names, slices, perhaps with a group of axes in front."""
    one = st.one_of(
        SIZES,
        st.just(-1),
        st.sampled_from([None, Any]),
        NAMES,
        st.builds(slice, NAMES | st.none(), SIZES),
        st.builds(slice, NAMES | st.none(), NAMES),
        st.builds(slice, NAMES, st.just(-1)),
    )
    groups = st.lists(st.just(...) | st.builds(slice, NAMES, st.just(...)), max_size=1)
    return draw(groups) + draw(st.lists(one, max_size=3))


def constraints(dims: Sequence[Any], shape: Sequence[int]) -> list[tuple[Any, Any]] | None:
    """Pairs that have to be equal, of a name, or a size, and what the shape has there; None for a wrong length."""
    dims, shape, found = list(dims), list(shape), []
    if dims and (dims[0] is ... or isinstance(dims[0], slice) and dims[0].stop is ...):
        group, *dims = dims
        if len(shape) < len(dims):
            return None
        front, shape = shape[: len(shape) - len(dims)], shape[len(shape) - len(dims) :]
        if group is not ...:
            found.append((("group", group.start), tuple(front)))
    if len(dims) != len(shape):
        return None
    for dim, size in zip(dims, shape, strict=True):
        parts = [dim.start, dim.stop] if isinstance(dim, slice) else [dim]
        for part in parts:
            if isinstance(part, str):
                found.append((("axis", part), size))
            elif isinstance(part, int) and part != -1:
                found.append((part, size))
    return found


def consistent(pairs: list[list[tuple[Any, Any]] | None]) -> bool:
    sizes: dict[Any, Any] = {}
    for found in pairs:
        if found is None:
            return False
        for key, value in found:
            if (key if isinstance(key, int) else sizes.setdefault(key, value)) != value:
                return False
    return True


@st.composite
def typed_tensors(draw) -> tuple[list[Any], str | None, Tensor]:
    """Dimensions, a dtype, and a tensor that is likely to fit them."""
    dims, dtype = draw(axes()), draw(st.sampled_from([None, *DTYPES]))
    shape = []
    for dim in dims:
        size = dim.stop if isinstance(dim, slice) else dim
        if size is ...:
            shape += draw(st.lists(st.integers(1, 2), max_size=2))
        elif isinstance(size, int) and size >= 0 and draw(st.integers(0, 5)):
            shape.append(size)
        else:
            shape.append(draw(st.integers(1, 2)))
    if not draw(st.integers(0, 9)):
        shape.append(1)
    given_dtype = dtype if dtype and draw(st.integers(0, 5)) else draw(st.sampled_from(list(DTYPES)))
    return dims, dtype, torch.zeros(shape, dtype=getattr(torch, given_dtype))


def annotation(dims: Sequence[Any], dtype: str | None) -> Any:
    return TensorType[(*(dims or [()]), *([] if dtype is None else [DTYPES[dtype]]))]


def is_right(dtype: str | None, tensor: Tensor) -> bool:
    return dtype is None or tensor.dtype == getattr(torch, dtype)


@given(st.lists(typed_tensors(), min_size=1, max_size=4))
def test_a_call_is_accepted_exactly_if_dtypes_and_sizes_agree(values):
    expected = consistent([constraints(dims, tensor.shape) for dims, _, tensor in values])
    expected &= all(is_right(dtype, tensor) for _, dtype, tensor in values)
    assert accepts(*[(annotation(dims, dtype), tensor) for dims, dtype, tensor in values]) == expected


def nested(kind: str, hint: Any, tensors: list[Tensor]) -> tuple[Any, Any]:
    """An annotation with this one inside of it, and a value with these tensors."""
    if kind == "dict":
        return dict[str, hint], {str(i): tensor for i, tensor in enumerate(tensors)}
    if kind == "tuple":
        return tuple[(*([hint] * len(tensors)), int)], (*tensors, 3)
    if kind == "dataclass":
        cls = dataclass(type("Held", (), {"__annotations__": {"x": tuple[hint, ...]}}))
        return cls, cls(tuple(tensors))
    if kind == "named tuple":

        class Named(NamedTuple):
            n: int
            x: list[hint]

        return Named, Named(1, tensors)
    if kind == "typed dictionary":

        class Keys(TypedDict):
            x: Required[list[hint]]
            y: NotRequired[hint]

        return Keys, {"x": tensors[1:]} | ({"y": tensors[0]} if tensors else {})
    wrapped, value = nested("dict", hint, tensors) if kind == "optional dict" else (list[hint], tensors)
    return {
        "list": wrapped,
        "sequence": Sequence[hint],
        "typing.List": typing.List[hint],  # noqa: UP006
        "optional": typing.Optional[wrapped],  # noqa: UP045
        "optional dict": None | wrapped,
        "union": typing.Union[int, str, wrapped],  # noqa: UP007
        "annotated": typing.Annotated[wrapped, "told"],
        "new type": NewType("New", wrapped),
    }[kind], value


KINDS = ["dict", "tuple", "dataclass", "named tuple", "typed dictionary", "list", "sequence", "typing.List", "optional"]
KINDS += ["optional dict", "union", "annotated", "new type"]


@given(st.lists(st.tuples(st.sampled_from(KINDS), axes(), st.lists(typed_tensors(), max_size=3)), max_size=3))
def test_every_tensor_inside_counts(values):
    told = [
        (dims, [tensor for own, _, tensor in items if len(own) == len(dims)]) for _, dims, items in values
    ]  # tensors made for as many axes: some of them fit
    expected = consistent([constraints(dims, tensor.shape) for dims, tensors in told for tensor in tensors])
    pairs = [
        nested(kind, annotation(dims, None), tensors)
        for (kind, _, _), (dims, tensors) in zip(values, told, strict=True)
    ]
    assert accepts(*pairs, (None, None)) == expected


@given(*[st.lists(SIZES, max_size=2)] * 2, st.lists(st.integers(0, 1), max_size=4), st.booleans())
def test_several_groups_are_told_apart_where_all_but_one_are_known(a, b, other, is_right_shape):
    result = a + b + [5] if is_right_shape else other + [5]
    returned = (TensorType["a":..., "b":..., 5], zeros(*result))
    assert accepts((TensorType["a":...], zeros(*a)), (TensorType["b":...], zeros(*b)), returned) == (
        result[:-1] == a + b
    )
    assert accepts((TensorType["a":...], zeros(*a)), returned) == (result[: len(a)] == a and len(result) > len(a))


def test_a_group_that_was_told_apart_is_known_from_then_on():
    both, rest = TensorType["a":..., "b":...], TensorType["b":..., "c":...]
    known = [(TensorType["a":...], zeros(2)), (both, zeros(2, 3, 4))]
    assert accepts(*known, (rest, zeros(3, 4, 5)), (TensorType["c":...], zeros(5)))
    assert not accepts(*known, (rest, zeros(2, 3, 5)), (TensorType["c":...], zeros(5)))


def test_groups_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ConfigError, match="begin and end is not known.*appear alone in an earlier argument"):
        accepts((TensorType["a":..., "b":...], zeros(2, 2)), (None, None))
    failing = tuple[TensorType["a":...], int] | tuple[TensorType[...], str]
    with pytest.raises(ConfigError, match="begin and end is not known"):
        accepts((failing, (zeros(2), "")), (TensorType["a":..., "b":...], zeros(2, 2)), (None, None))


@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
def test_a_member_of_a_union_that_fails_binds_nothing(a, b, c):
    one = tuple[TensorType["a"], TensorType["a", 3]]
    other = tuple[TensorType["b"], TensorType["b", -1]]
    value = (zeros(a), zeros(a, 4))  # the first member binds a, and then fails
    assert accepts((one | other, value), (TensorType["a"], zeros(c)), (TensorType["b"], zeros(b))) == (a == b)


def test_tuples_and_typed_dictionaries_have_all_their_parts():
    hint = TensorType["a"]
    for number in range(4):
        assert accepts((tuple[hint, hint], (zeros(1),) * number)) == (number == 2)

    class Keys(TypedDict):
        x: hint
        y: NotRequired[hint]

    assert [accepts((Keys, value)) for value in ({"x": zeros(1)}, {"y": zeros(1)}, {}, 3)] == [True] + [False] * 3


def test_floats_of_any_width():
    for dtype in [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool, torch.cfloat]:
        value = zeros(2, dtype=dtype)
        assert accepts((TensorType["a", is_float], value)) == dtype.is_floating_point
    with pytest.raises(ConfigError, match=r"fits no tensor: is_float is at odds with torch\.int64"):
        accepts((TensorType["a", int, is_float], zeros(2)))


def test_float_is_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        hint = TensorType["a", float]
    finally:
        torch.set_default_dtype(torch.float32)
    assert accepts((hint, zeros(2, dtype=torch.float64)))
    assert not accepts((hint, zeros(2)))


@pytest.mark.parametrize("dtype", sorted({str(x) for x in vars(torch).values() if isinstance(x, torch.dtype)}))
def test_every_dtype_is_told_from_the_others(dtype):
    hint = TensorType[eval(dtype)]
    (name,) = {part.dtypes for part in as_jaxtyping(hint)}
    assert dtype.removeprefix("torch.") in name
    for other in (torch.float32, torch.int64, torch.uint8, torch.bool, torch.complex64):
        assert accepts((hint, zeros(1, dtype=other))) == (str(other) == dtype)


def test_layouts():
    dense = torch.eye(2)
    assert accepts((TensorType["a", "a", torch.strided], dense))
    assert not accepts((TensorType["a", "a", torch.strided], dense.to_sparse()))
    assert accepts((TensorType["a", "a", torch.sparse_coo], dense.to_sparse()))
    with pytest.raises(ConfigError, match=r"jaxtyping has no word for torch\.strided"):
        as_jaxtyping(TensorType["a", torch.strided])


def test_extensions_of_torchtyping():
    class Positive(torchtyping.TensorDetail):
        def __repr__(self):
            return "positive"

        def check(self, tensor):
            return bool((tensor > 0).all())

        @classmethod
        def tensor_repr(cls, tensor):
            return ""

    class ParameterType(TensorType):
        base_cls = nn.Parameter

    assert accepts((TensorType["a", Positive()], torch.ones(2)))
    assert not accepts((TensorType["a", Positive()], zeros(2)))
    assert accepts((ParameterType["a"], nn.Parameter(zeros(2))))
    assert not accepts((ParameterType["a"], zeros(2)))
    assert accepts((TensorType, zeros(2)))  # without brackets: any tensor
    assert not accepts((TensorType, 2))


def test_named_tensors_are_refused():
    with pytest.raises(ConfigError, match=r"annotation of x0 in <lambda> .*is_named\] asks for named tensors, which"):
        accepts((TensorType["a", is_named], zeros(2)), (None, None))


@pytest.mark.parametrize("hint", [3, int, TensorType, list[TensorType["a"]], typing.Annotated[int, "a"]])
def test_what_is_no_annotation_of_a_tensor_has_no_translation(hint):
    with pytest.raises(ConfigError, match=r"expected an annotation TensorType\[\.\.\.\]"):
        as_jaxtyping(hint)
