"""Nested states, such as optimizers have, as JSON and tensors: exact both ways, and nothing stored is ever executed."""

import math
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vadd.errors import CheckpointError, ConfigError

__all__ = ["pack", "unpack"]

# Those that every supported version of safetensors and of torch can write and read.
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
}
# Above what any state needs, below what JSON parsers and Python's stack bear.
_MAX_DEPTH = 64
_TAG = "$"
_SURROGATE = re.compile("[\ud800-\udfff]")


def pack(state: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Split a nested state into JSON and tensors; :func:`unpack` puts it together again, exactly.

    Args:
        state: dicts (with string and integer keys), OrderedDicts (with the ``_metadata`` of a module's state dict),
            Counters, lists, tuples, tensors, floats (also inf and NaN), integers, booleans, strings, None; at most 64
            levels. Only these types, no subclasses of them.
        name: what error messages call the state.

    Returns:
        JSON-ready structure, without non-finite numbers, and the tensors that it refers to: dense copies on the CPU
        without gradient, each with memory of its own. Names are of no meaning.

    Raises:
        ConfigError: if the state holds anything else; the message names its path and type.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(state, name, tensors, _MAX_DEPTH), tensors


def unpack(structure: Any, tensors: dict[str, Tensor]) -> Any:
    """Put a state together again from what :func:`pack` returned, or from what was stored of it.

    Args:
        structure: JSON values; they may come from an untrusted file.
        tensors: by name; they are used as they are, each once.

    Raises:
        CheckpointError: if these are no packed state, or structure and tensors do not belong together.
    """
    left = dict(tensors)
    try:
        state = _unpack(structure, left, _MAX_DEPTH)
    except RecursionError as error:
        raise CheckpointError("the packed state is nested too deeply.") from error
    if left:
        raise CheckpointError(f"the packed state does not refer to {len(left)} of {len(tensors)} tensors.")
    return state


def _pack(value: Any, path: str, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth < 0:
        raise ConfigError(
            f"{_shortened(path)} lies deeper than {_MAX_DEPTH} levels, which cannot be stored: flatten the state, and "
            "see that nothing in it contains itself."
        )
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind in (int, float, str):
        return _pack_plain(value)
    if kind is list or kind is tuple:
        items = [_pack(item, f"{path}[{i}]", tensors, depth - 1) for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind is dict:
        return _pack_dict(value, path, tensors, depth)
    if kind is Counter:  # the milestones of a learning-rate scheduler
        return {"$counter": _pack_items(value, path, tensors, depth)}
    if kind is OrderedDict and set(vars(value)) <= {"_metadata"}:
        items = _pack_items(value, path, tensors, depth)
        attributes = {key: _pack(item, f"{path}.{key}", tensors, depth - 1) for key, item in vars(value).items()}
        return {"$ordered": [items, attributes]}
    if kind is Tensor:
        return _pack_tensor(value, path, tensors)
    raise ConfigError(
        f"{path} is of type {_type_name(kind)}, which cannot be stored: a state holds dicts, lists, tuples, tensors, "
        "numbers, booleans, strings and None, and no subclasses of them. Convert it (a parameter by .detach(), an "
        "array by .tolist()), or leave it out."
    )


def _pack_plain(value: int | float | str) -> Any:
    """An integer, float or string: itself where JSON keeps it exactly."""
    if isinstance(value, str):
        # JSON would read a pair of lone surrogates as one character.
        return {"$text": value.encode("utf-8", "surrogatepass").hex()} if _SURROGATE.search(value) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    # Python refuses decimal integers of thousands of digits.
    return value if abs(value) < 2**63 else {"$int": hex(value)}


def _pack_dict(value: dict[Any, Any], path: str, tensors: dict[str, Tensor], depth: int) -> Any:
    items = _pack_items(value, path, tensors, depth)
    if all(isinstance(key, str) and not key.startswith(_TAG) for key, _ in items):
        return dict(items)
    return {"$dict": items}


def _pack_items(value: dict[Any, Any], path: str, tensors: dict[str, Tensor], depth: int) -> list[Any]:
    items = []
    for key, item in value.items():
        if type(key) not in (int, str):
            raise ConfigError(
                f"{path} has the key {key!r} of type {_type_name(type(key))}, which cannot be stored: keys are strings "
                "or integers."
            )
        inside = f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"
        items.append([_pack_plain(key), _pack(item, inside, tensors, depth - 1)])
    return items


def _pack_tensor(value: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.device.type == "meta":
        raise ConfigError(
            f"{path} is a tensor of dtype {value.dtype}, layout {value.layout} on {value.device}, which cannot be "
            "stored: convert it to a dense one of another dtype, or leave it out."
        )
    name = str(len(tensors))
    # One copy that is dense, on the CPU, and shares its memory with no other tensor.
    tensors[name] = torch.empty(value.shape, dtype=value.dtype, device="cpu").copy_(value.detach())
    return {"$tensor": name}


def _unpack(value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth < 0:
        raise CheckpointError(f"the packed state is deeper than {_MAX_DEPTH} levels.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_unpack(item, tensors, depth - 1) for item in value]
    if not isinstance(value, dict):
        raise CheckpointError(f"the packed state holds a {_type_name(type(value))}, which is no JSON value.")
    if not any(isinstance(key, str) and key.startswith(_TAG) for key in value):
        return _unpack_items(list(value.items()), tensors, depth)
    tag, content = next(iter(value.items()))
    if len(value) > 1 or tag not in _READ:
        raise CheckpointError(f"the packed state holds an unknown entry with the keys {_shortened(str(list(value)))}.")
    expected, read = _READ[tag]
    try:
        if not isinstance(content, expected):
            raise TypeError(f"{_type_name(type(content))} instead of {_type_name(expected)}")
        return read(content, tensors, depth)
    except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise CheckpointError(f"the packed state holds a {tag[1:]} that cannot be read: {error!r}") from error


def _unpack_items(items: list[Any], tensors: dict[str, Tensor], depth: int) -> dict[Any, Any]:
    unpacked = {}
    for packed_key, item in items:
        key = _unpack(packed_key, tensors, 0)
        if type(key) not in (int, str) or key in unpacked:
            raise ValueError(f"key {key!r} that is there twice or is no string or integer")
        unpacked[key] = _unpack(item, tensors, depth - 1)
    return unpacked


def _unpack_ordered(content: Any, tensors: dict[str, Tensor], depth: int) -> OrderedDict[Any, Any]:
    items, attributes = content
    ordered = OrderedDict(_unpack_items(items, tensors, depth))
    if not set(attributes) <= {"_metadata"}:
        raise ValueError(f"attributes {attributes!r}")
    for key, item in attributes.items():
        setattr(ordered, key, _unpack(item, tensors, depth - 1))
    return ordered


# What stands behind a tag, and how it is read.
_READ: dict[str, tuple[type, Callable[[Any, dict[str, Tensor], int], Any]]] = {
    "$tuple": (list, lambda content, tensors, depth: tuple(_unpack(item, tensors, depth - 1) for item in content)),
    "$dict": (list, _unpack_items),
    "$counter": (list, lambda content, tensors, depth: Counter(_unpack_items(content, tensors, depth))),
    "$ordered": (list, _unpack_ordered),
    "$tensor": (str, lambda content, tensors, depth: tensors.pop(content)),
    "$text": (str, lambda content, tensors, depth: bytes.fromhex(content).decode("utf-8", "surrogatepass")),
    "$float": (str, lambda content, tensors, depth: struct.unpack(">d", bytes.fromhex(content))[0]),
    "$int": (str, lambda content, tensors, depth: int(content, 16)),
}


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shortened(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:100]} ... {text[-40:]}"
