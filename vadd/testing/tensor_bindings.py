"""The names of axes that are bound in one call."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, no_type_check

from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import AbstractArray, jaxtyped

__all__ = ["Bindings", "Fact", "Mismatch", "is_of_type"]


@dataclass(frozen=True)
class Fact:
    """A value that fits its annotation, and so binds names.

    Attributes:
        path: where the value is, such as ``argument x[0]``.
        text: the annotation, for messages.
        value: the value.
        hints: annotations that it fits, of which those of jaxtyping bind names.
        names: names of axes, by jaxtyping's word for them; empty where they are not known.
    """

    path: str
    text: str
    value: Any
    hints: tuple[Any, ...]
    names: Mapping[str, str]


@dataclass(frozen=True)
class Mismatch:
    """A value that does not fit: where, what was expected, what came, and why it does not fit."""

    path: str
    expected: str
    got: str
    reason: str = ""
    names: Mapping[str, str] | None = None


@functools.cache
def _conf() -> BeartypeConf:
    return BeartypeConf(is_pep484_tower=True)  # an int is a float


# Whatever asks jaxtyping has to do so in the frame of the call: a type checker that decorates this package, and gives
# each function a frame of its own, is told to leave these functions alone.
@no_type_check
def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation of jaxtyping, whose names are bound then, or any other."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return isinstance(value, hint)
    return is_bearable(value, hint, conf=_conf())


@no_type_check
class Bindings:
    """The names that the values of one call have bound; jaxtyping knows them inside of the context.

    Attributes:
        facts: what has bound them, in order.
        groups: sizes of the named groups of axes.
    """

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.groups: dict[str, tuple[int, ...]] = {}
        self._context: Any = None
        self._num_fits = 0

    def __enter__(self) -> "Bindings":
        self._context = jaxtyped("context")
        self._context.__enter__()
        for fact in self.facts:
            for hint in fact.hints:
                is_of_type(fact.value, hint)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._context.__exit__(*exception)

    def fits(self, value: Any, hint: Any) -> bool:
        """Whether a value fits an annotation; names are bound then, and wait for :meth:`add`."""
        fits = is_of_type(value, hint)
        self._num_fits += fits
        return fits

    def add(self, fact: Fact, groups: Mapping[str, tuple[int, ...]] | None = None) -> None:
        """Keep what fits."""
        self.facts.append(fact)
        self.groups.update(groups or {})

    def attempt(self, check: Callable[["Bindings"], Mismatch | None]) -> Mismatch | None:
        """A check that leaves nothing bound where it fails."""
        num_facts, groups, num_fits = len(self.facts), dict(self.groups), self._num_fits
        mismatch = check(self)
        if mismatch is not None and self._num_fits > num_fits:
            del self.facts[num_facts:]
            self.groups = groups
            self.__exit__(None, None, None)
            self.__enter__()
        return mismatch

    def message(self, mismatch: Mismatch) -> str:
        """The mismatch in words, with the values before it that bound the same names."""
        words = f"{mismatch.path} must be {mismatch.expected}, got {mismatch.got}"
        words += f": {mismatch.reason}." if mismatch.reason else "."
        first = {word: fact for fact in reversed(self.facts) for word in fact.names}
        related = {id(first[word]): first[word] for word in mismatch.names or {} if word in first}
        told = [f"{fact.path}: {fact.text} has shape {tuple(fact.value.shape)}" for fact in related.values()]
        return words + (f" Names were bound by {'; '.join(told)}." if told else "")
