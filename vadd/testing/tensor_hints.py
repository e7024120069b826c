"""Annotations that hold ``TensorType[...]`` somewhere inside, and values that do or do not fit them.

It needs torchtyping and beartype.
"""

import dataclasses
import functools
import typing
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NewType, get_args, get_origin, no_type_check

import torch
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning, BeartypeException
from jaxtyping import AbstractArray

from vadd.errors import ConfigError
from vadd.testing.tensor_bindings import Bindings, Fact, Mismatch, is_of_type
from vadd.testing.tensor_types import TensorPattern, is_tensor_type

__all__ = ["Hint", "read_hint"]

_SAYS_NOTHING = (typing.Self, typing.Never, typing.NoReturn)


def describe(value: Any) -> str:
    """A value in a message: shape and dtype of a tensor, and other values by their type."""
    name = type(value).__qualname__
    if isinstance(value, torch.Tensor):
        layout = "" if value.layout == torch.strided else f", {value.layout}"
        return f"{name} of shape {tuple(value.shape)} and dtype {value.dtype}{layout}"
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | str) and len(repr(value)) <= 40:
        return f"{name} {value!r}"
    return f"{name} of length {len(value)}" if isinstance(value, list | tuple | dict | set) else name


# Checks run in the frame of the call, see Bindings.
@no_type_check
class Hint:
    """An annotation.

    Attributes:
        text: for messages.
        is_walked: whether what is inside of a value is looked at item by item, as where there are tensors; all other
            annotations are beartype's, which looks at one item at random.
    """

    is_walked = True

    def __init__(self, text: str) -> None:
        self.text = text

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        """Where and why a value does not fit; None if it does, and names are bound then."""
        return None

    def _misfit(self, value: Any, path: str, reason: str = "", names: Mapping[str, str] | None = None) -> Mismatch:
        return Mismatch(path, self.text, describe(value), reason, names)


@no_type_check
class _Plain(Hint):
    """No tensor of torchtyping inside."""

    is_walked = False

    def __init__(self, hint: Any) -> None:
        super().__init__(_text(hint))
        self._hint, self._names = hint, _words(hint)

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        if not bindings.fits(value, self._hint):
            reason = self._hint.__instancecheck_str__(value) if hasattr(self._hint, "__instancecheck_str__") else ""
            return self._misfit(value, path, reason, self._names)
        bindings.add(Fact(path, self.text, value, (self._hint,), self._names))
        return None


@no_type_check
class _Tensor(Hint):
    def __init__(self, pattern: TensorPattern) -> None:
        super().__init__(pattern.text)
        self._pattern = pattern

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        pattern = self._pattern
        if not isinstance(value, pattern.array_type):
            return self._misfit(value, path)
        for detail in pattern.details:
            if not detail.check(value):
                return self._misfit(value, path, f"it is not {detail!r}")
        hints = pattern.annotations(bindings.groups)
        for hint in hints:
            if not bindings.fits(value, hint):
                reason = pattern.in_own_names(hint.__instancecheck_str__(value))
                return self._misfit(value, path, reason, pattern.names)
        groups = pattern.groups(value.shape, bindings.groups)
        bindings.add(Fact(path, self.text, value, hints, pattern.names), groups)
        return None


@no_type_check
class _Union(Hint):
    """The first member that fits counts."""

    def __init__(self, members: Sequence[Hint]) -> None:
        super().__init__(" | ".join(member.text for member in members))
        self._members = members

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        found = []
        for member in self._members:
            one = bindings.attempt(functools.partial(member.mismatch, value, path))
            if one is None:
                return None
            found.append(one)
        telling = [one for one in found if one.reason or one.path != path]
        if len(telling) != 1:
            reasons = [
                one.reason if one.path == path else f"{one.path} must be {one.expected}, got {one.got}"
                for one in telling
            ]
            names = {word: name for one in telling for word, name in (one.names or {}).items()}
            return self._misfit(value, path, "; ".join(reasons), names)
        (one,) = telling
        return one if one.path != path else dataclasses.replace(one, expected=self.text)


@no_type_check
class _Items(Hint):
    """Items of one kind; those of an iterator are left alone, which could be had once only."""

    def __init__(self, origin: type, items: Sequence[Hint]) -> None:
        (self._item,), self._origin = items, origin
        super().__init__(f"{origin.__name__}[{self._item.text}{', ...' if origin is tuple else ''}]")

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        if not isinstance(value, self._origin):
            return self._misfit(value, path)
        for i, item in enumerate(value if isinstance(value, Collection) else ()):
            found = self._item.mismatch(item, f"{path}[{i}]", bindings)
            if found is not None:
                return found
        return None


@no_type_check
class _Tuple(Hint):
    def __init__(self, items: Sequence[Hint]) -> None:
        super().__init__(f"tuple[{', '.join(item.text for item in items)}]")
        self._items = items

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        if not isinstance(value, tuple) or len(value) != len(self._items):
            return self._misfit(value, path)
        for i, (hint, item) in enumerate(zip(self._items, value, strict=True)):
            found = hint.mismatch(item, f"{path}[{i}]", bindings)
            if found is not None:
                return found
        return None


@no_type_check
class _Mapping(Hint):
    def __init__(self, origin: type, key_and_item: Sequence[Hint]) -> None:
        (self._key, self._item), self._origin = key_and_item, origin
        super().__init__(f"{origin.__name__}[{self._key.text}, {self._item.text}]")

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        if not isinstance(value, self._origin):
            return self._misfit(value, path)
        for key, item in value.items():
            found = self._key.mismatch(key, f"the key {key!r} of {path}", bindings)
            found = found or self._item.mismatch(item, f"{path}[{key!r}]", bindings)
            if found is not None:
                return found
        return None


@no_type_check
class _Fields(Hint):
    """A dataclass, named tuple or typed dictionary."""

    def __init__(self, cls: type, fields: Mapping[str, Hint]) -> None:
        super().__init__(cls.__qualname__)
        self._cls, self._fields = cls, fields

    def mismatch(self, value: Any, path: str, bindings: Bindings) -> Mismatch | None:
        is_dictionary = typing.is_typeddict(self._cls)
        if not isinstance(value, dict if is_dictionary else self._cls):
            return self._misfit(value, path)
        for name, field in self._fields.items():
            if is_dictionary and name not in value:
                if name in self._cls.__required_keys__:
                    return self._misfit(value, path, f"the key {name!r} is missing")
                continue
            item, where = (value[name], f"[{name!r}]") if is_dictionary else (getattr(value, name), f".{name}")
            found = field.mismatch(item, path + where, bindings)
            if found is not None:
                return found
        return None


def read_hint(hint: Any, scope: Mapping[str, Any] | None = None, inside: tuple[type, ...] = ()) -> Hint:
    """An annotation in a form that values are checked against.

    Args:
        hint: the annotation, no string.
        scope: names that the annotations of its fields, where they are strings, may use besides those of their module.
        inside: classes whose fields it is the annotation of. Within itself, a class is not looked into.

    Raises:
        ConfigError: if no value could be checked against it.
        NameError: if a field's annotation names what is not known.
    """
    while isinstance(hint, NewType) or hasattr(hint, "__value__"):
        hint = hint.__supertype__ if isinstance(hint, NewType) else hint.__value__
    if is_tensor_type(hint):
        return _Tensor(TensorPattern(hint))
    if any(hint is one for one in _SAYS_NOTHING):
        return Hint(_text(hint))

    def read(*hints: Any) -> list[Hint]:
        return [read_hint(one, scope, inside) for one in hints]

    origin, arguments = get_origin(hint), get_args(hint)
    walked: Hint | None = None
    if origin in (Annotated, typing.Required, typing.NotRequired):
        (walked,) = read(arguments[0])
    elif origin in (typing.Union, UnionType):
        walked = _walked(_Union, read(*arguments))
    elif origin is tuple and arguments[1:] != (...,):
        walked = _walked(_Tuple, read(*arguments))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        walked = _walked(functools.partial(_Mapping, origin), read(*arguments))
    elif isinstance(origin, type) and issubclass(origin, Iterable) and (len(arguments) == 1 or origin is tuple):
        walked = _walked(functools.partial(_Items, origin), read(arguments[0]))
    elif (cls := _class_with_fields(origin or hint)) is not None and cls not in inside:
        fields = {name: read_hint(one, scope, (*inside, cls)) for name, one in _fields(cls, scope).items()}
        walked = _Fields(cls, fields) if any(field.is_walked for field in fields.values()) else None
    return walked if walked is not None and walked.is_walked else _plain(hint)


def _walked(kind: Callable[[Sequence[Hint]], Hint], parts: Sequence[Hint]) -> Hint | None:
    return kind(parts) if any(part.is_walked for part in parts) else None


def _plain(hint: Any) -> Hint:
    try:
        with warnings.catch_warnings():  # of annotations in typing's words, once
            warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
            is_of_type(None, hint)
    except BeartypeException as error:
        raise ConfigError(f"beartype cannot check the annotation {_text(hint)}: {error}") from error
    return _Plain(hint)


def _class_with_fields(cls: Any) -> type | None:
    if not isinstance(cls, type):
        return None
    is_named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    return cls if is_named_tuple or dataclasses.is_dataclass(cls) or typing.is_typeddict(cls) else None


def _fields(cls: type, scope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Names and annotations of the fields; none where a class without tensors names what cannot be resolved."""
    try:
        types = typing.get_type_hints(cls, localns=dict(scope or {}), include_extras=True)
    except NameError:
        told = [text for base in cls.__mro__ for text in getattr(base, "__annotations__", {}).values()]
        if any("TensorType" in str(text) for text in told):
            raise
        return {}
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else types
    return {name: types[name] for name in names}


def _text(hint: Any) -> str:
    if hint is NoneType:
        return "None"
    return hint.__qualname__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _words(hint: Any) -> dict[str, str]:
    """The names in an annotation of jaxtyping."""
    is_array = isinstance(hint, type) and issubclass(hint, AbstractArray)
    words = hint.dim_str.split() if is_array else []
    return {word: word for word in words if word.lstrip("*#").isidentifier() and not word.startswith("_")}
