"""Run-time checks of parts that carry annotations of torchtyping.

torchtyping's own checks, by ``patch_typeguard``, do not run any more: they use named tensors, which PyTorch no longer
has. Here ``TensorType[...]`` is translated to annotations of jaxtyping, and these are checked. It needs
``pip install "vadd[torchtyping]"``.
"""

import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar, no_type_check

import torch
from jaxtyping import AbstractArray, TypeCheckError, config

from vadd.errors import ConfigError

__all__ = ["as_jaxtyping", "checked"]

_Target = TypeVar("_Target")


@no_type_check  # it looks at its caller's frame, and its functions check in one frame of jaxtyping
def checked(target: _Target) -> _Target:
    """Check arguments and return values against their annotations whenever a function is called.

    A name of an axis stands for one size within a call: in arguments, inside of them, and in the return value. It is
    shared with annotations of jaxtyping. Annotations without tensors are left to beartype. Not checked are arguments
    that are their defaults, what iterators yield, and what is inside of annotations such as ``Callable[...]``. Of a
    generator function every item is checked.

    Nothing is checked with ``JAXTYPING_DISABLE=1`` in the environment, and in code that ``torch.compile`` compiles.

    Args:
        target: a function, a method, or a class, of which all annotated methods are meant that it defines itself. Place
            it above ``@dataclass``, and above ``@register`` or below.

    Returns:
        The same class, changed in place, or a function in place of the function.

    Raises:
        ConfigError: if torchtyping or beartype is missing, there is nothing to check, or an annotation cannot be
            checked. Annotations that name what is defined later are looked at in the first call.
        jaxtyping.TypeCheckError: a ``TypeError``, by the checked function, where a value does not fit.
    """
    _require()
    scope = _names_in_scope(sys._getframe(1))
    if isinstance(target, type):
        found = {name: _wrapped(member, {**scope, **vars(target)}) for name, member in vars(target).items()}
        for name, member in found.items():
            if member is not None:
                setattr(target, name, member)
        wrapped = target if any(member is not None for member in found.values()) else None
    elif inspect.ismethod(target):
        function = _wrapped(target.__func__, scope)
        wrapped = None if function is None else types.MethodType(function, target.__self__)
    else:
        wrapped = _wrapped(target, scope)
    if wrapped is None:
        name = getattr(target, "__qualname__", repr(target))
        raise ConfigError(f"checked needs a function or a class with annotated methods, got {name} without any.")
    return wrapped


def as_jaxtyping(annotation: Any) -> tuple[type[AbstractArray], ...]:
    """The annotations of jaxtyping that together say what a ``TensorType[...]`` says.

    One is enough, unless an axis has a name and a size, or two names.

    Raises:
        ConfigError: if torchtyping or beartype is missing, it is no ``TensorType[...]``, or jaxtyping has no words for
            it: for a layout, an extension of torchtyping, or two ``...``.
    """
    _require()
    from vadd.testing.tensor_types import TensorPattern

    pattern = TensorPattern(annotation)
    if pattern.details:
        raise ConfigError(f"jaxtyping has no word for {pattern.details[0]!r} in {pattern.text}; checked checks it.")
    return pattern.annotations({})


def _require() -> None:
    for package in ("torchtyping", "beartype"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"checks of torchtyping's annotations need the package {package}: pip install 'vadd[torchtyping]'."
            ) from error


def _names_in_scope(frame: types.FrameType | None) -> dict[str, Any]:
    """Names that annotations in strings may use besides those of the module: of the functions and classes around."""
    names: dict[str, Any] = {}
    while frame is not None and frame.f_globals.get("__name__", "").startswith("jaxtyping"):
        frame = frame.f_back  # older versions wrap functions under no_type_check, too
    module = frame and frame.f_globals
    while frame is not None and frame.f_globals is module:
        if frame.f_locals is not module:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


@no_type_check
def _wrapped(member: Any, scope: Mapping[str, Any]) -> Any:
    """A function, or what a class makes of it, with checks; None for anything else."""
    if isinstance(member, staticmethod | classmethod):
        function = _wrapped(member.__func__, scope)
        return None if function is None else type(member)(function)
    if isinstance(member, property):
        parts = [(part, part and _wrapped(part, scope)) for part in (member.fget, member.fset, member.fdel)]
        if all(new is None for _, new in parts):
            return None
        return property(*(old if new is None else new for old, new in parts), member.__doc__)
    if not inspect.isfunction(member) or not member.__annotations__ or getattr(member, "__no_type_check__", False):
        return None
    if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
        raise ConfigError(
            f"checked cannot check {member.__qualname__}, which is asynchronous; typing.no_type_check leaves it out."
        )
    checks = _Checks(member, scope)

    @functools.wraps(member)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if torch.compiler.is_compiling() or config.jaxtyping_disable:
            return member(*args, **kwargs)
        return checks.call(args, kwargs)

    return wrapper


@no_type_check
class _Checks:
    """The annotations of one function."""

    def __init__(self, function: Callable[..., Any], scope: Mapping[str, Any]) -> None:
        self._function, self._signature = function, inspect.signature(function)
        self._hints: dict[str, Any] | None = None
        self._scope = scope
        try:
            self._read()
        except NameError:  # perhaps defined later
            pass

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from vadd.testing.tensor_bindings import Bindings

        __tracebackhide__ = True
        if self._hints is None:
            try:
                self._read()
            except NameError as error:
                raise ConfigError(
                    f"an annotation of {self._function.__qualname__} cannot be checked, as {error}: import it, also "
                    "when the program runs, or define it before the first call."
                ) from error
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError:
            return self._function(*args, **kwargs)  # which says what is wrong in Python's words
        bindings = Bindings()
        with bindings:
            for name, value in arguments.items():
                self._check_argument(name, value, bindings)
            result = self._function(*args, **kwargs)
            if not inspect.isgeneratorfunction(self._function):
                self._check("return", result, "the return value", bindings)
                return result
        return self._checked_items(result, bindings)

    def _read(self) -> None:
        from vadd.testing.tensor_hints import read_hint

        module = inspect.unwrap(self._function).__globals__
        hints = {}
        for name, annotation in self._function.__annotations__.items():
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hint = typing.get_type_hints(holder, module, dict(self._scope), include_extras=True)[name]
                if name == "return" and inspect.isgeneratorfunction(self._function):
                    hint = (*typing.get_args(hint), Any)[0]  # of its items
                hints[name] = read_hint(hint, self._scope)
            except NameError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"the annotation of {name} in {self._function.__qualname__} cannot be checked: {error}"
                ) from error
        self._hints, self._scope = hints, {}

    def _check_argument(self, name: str, value: Any, bindings: Any) -> None:
        parameter = self._signature.parameters[name]
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            for i, one in enumerate(value):
                self._check(name, one, f"argument {name}[{i}]", bindings)
        elif parameter.kind == inspect.Parameter.VAR_KEYWORD:
            for key, one in value.items():
                self._check(name, one, f"argument {key}", bindings)
        elif value is not parameter.default:
            self._check(name, value, f"argument {name}", bindings)

    def _check(self, name: str, value: Any, path: str, bindings: Any) -> None:
        __tracebackhide__ = True
        hint = (self._hints or {}).get(name)
        mismatch = hint and hint.mismatch(value, path, bindings)
        if mismatch is not None:
            raise TypeCheckError(f"{self._function.__qualname__}: {bindings.message(mismatch)}")

    def _checked_items(self, items: Generator[Any, Any, Any], bindings: Any) -> Generator[Any, Any, Any]:
        """What ``yield from items`` does, with a check of each."""
        step: Callable[[], Any] = functools.partial(items.send, None)
        while True:
            try:
                item = step()
            except StopIteration as stop:
                return stop.value
            with bindings:
                self._check("return", item, "an item of the generator", bindings)
            try:
                step = functools.partial(items.send, (yield item))
            except GeneratorExit:
                items.close()
                raise
            except BaseException as error:
                step = functools.partial(items.throw, error)
