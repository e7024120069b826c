"""Parts that can be written to JSON and rebuilt from it, without executing anything that was stored."""

import functools
import inspect
from typing import Any, TypeVar

import torch
from torch import nn

from vadd.errors import CheckpointError, ConfigError

__all__ = ["build", "describe", "register"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PARTS: dict[str, type[nn.Module]] = {}
_Part = TypeVar("_Part", bound=type[nn.Module])


def register(cls: _Part) -> _Part:
    """Class decorator: remember the constructor's arguments, so that checkpoints can rebuild the part.

    Arguments must be numbers, strings, booleans, None, sequences of these, or registered parts.
    A user's own prior, network or schedule becomes storable by the same decorator.

    Raises:
        ConfigError: if another class of that name is registered.
    """
    name = cls.__name__
    known = _PARTS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"a part named {name} is already registered ({known.__module__}); rename yours.")
    construct: Any = cls.__init__
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def recording_init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if type(self) is cls:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            # A class without a constructor of its own has nn.Module's, with *args and **kwargs.
            named = [name for name, kind in signature.parameters.items() if kind.kind not in _VARIADIC]
            arguments = {name: bound.arguments[name] for name in named if name != "self"}
            # Parts among the arguments are submodules already: keep them out of nn.Module's bookkeeping.
            self.__dict__["_arguments"] = arguments

    setattr(cls, "__init__", recording_init)  # noqa: B010 - a plain assignment confuses type checkers
    _PARTS[name] = cls
    return cls


def describe(part: nn.Module) -> dict[str, Any]:
    """JSON-ready description of a registered part: its class name and constructor arguments.

    Raises:
        ConfigError: if the part's class is not registered, or an argument cannot be stored.
    """
    name = type(part).__name__
    if _PARTS.get(name) is not type(part):
        raise ConfigError(
            f"{name} cannot be described: decorate the class with vadd.registry.register, or pass the "
            "part itself when loading."
        )
    arguments = part.__dict__["_arguments"]
    return {"class": name, "arguments": {key: _to_json(key, value) for key, value in arguments.items()}}


def build(description: Any) -> nn.Module:
    """Rebuild a part from :func:`describe`'s output.

    Raises:
        CheckpointError: if it is no such description, or the class is unknown or does not accept the
            arguments.
    """
    try:
        name, arguments = description["class"], description["arguments"]
        values = {key: _from_json(value) for key, value in arguments.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"not the description of a part: {description!r}") from error
    if not isinstance(name, str) or name not in _PARTS:
        raise CheckpointError(
            f"unknown part {name!r}: import the module that registers it before loading, or pass the part "
            f"itself. Registered: {', '.join(sorted(_PARTS))}."
        )
    try:
        return _PARTS[name](**values)
    except TypeError as error:
        raise CheckpointError(f"{name} does not accept the stored arguments {values}: {error}") from error


def _to_json(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | torch.Size):
        return [_to_json(key, item) for item in value]
    if isinstance(value, nn.Module):
        return describe(value)
    raise ConfigError(f"argument {key} of type {type(value).__name__} cannot be stored as JSON.")


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return build(value)
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    return value
