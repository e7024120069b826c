"""What one ``TensorType[...]`` of torchtyping asks of a tensor, in terms of jaxtyping.

It needs torchtyping, of which it reads the annotations alone: torchtyping's own checks use named tensors, which
PyTorch no longer has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import jaxtyping
import torch
from jaxtyping import AbstractArray, AbstractDtype, Float, Shaped
from torchtyping import DtypeDetail, ShapeDetail, TensorDetail, is_float

from vadd.errors import ConfigError

__all__ = ["TensorPattern", "is_tensor_type"]

_ANY_SHAPE = "..."
_SPELLED = "spelled_"


def is_tensor_type(hint: Any) -> bool:
    """Whether an annotation is a ``TensorType[...]``."""
    return _metadata(hint) is not None


def _metadata(hint: Any) -> Mapping[str, Any] | None:
    if get_origin(hint) is Annotated:
        for metadata in hint.__metadata__:
            if isinstance(metadata, dict) and "__torchtyping__" in metadata:
                return metadata
    return None


@dataclass(frozen=True)
class _Axis:
    """One axis, or a group of axes: jaxtyping's words for it, all of which hold; none where any size goes."""

    words: tuple[str, ...]
    is_group: bool = False

    def word(self, i: int) -> str:
        return self.words[i] if i < len(self.words) else _ANY_SHAPE if self.is_group else "_"


class TensorPattern:
    """One ``TensorType[...]``.

    Attributes:
        text: the annotation, for messages.
        array_type: ``torch.Tensor``, or what a subclass of ``TensorType`` stands for.
        names: the names of its axes and groups of axes, by jaxtyping's word for them.
        details: what jaxtyping has no word for: the layout, and extensions of torchtyping.

    Raises:
        ConfigError: if it is no ``TensorType[...]``, or asks for what no tensor can be.
    """

    text: str
    array_type: type[torch.Tensor]
    names: dict[str, str]
    details: tuple[TensorDetail, ...]

    def __init__(self, annotation: Any) -> None:
        metadata = _metadata(annotation)
        if metadata is None:
            raise ConfigError(f"expected an annotation TensorType[...] of torchtyping, got {annotation!r}.")
        self.array_type = get_args(annotation)[0]
        self.names = {}
        dims, dtype, others = None, None, []
        for detail in metadata["details"]:
            if isinstance(detail, ShapeDetail):
                dims = detail
            elif isinstance(detail, DtypeDetail):
                dtype = detail.dtype
            else:
                others.append(detail)
        self.text = f"{metadata['cls_name']}[{', '.join(repr(detail) for detail in metadata['details'])}]"
        if dims is not None and dims.check_names:
            raise ConfigError(
                f"{self.text} asks for named tensors, which PyTorch no longer has: leave out is_named. The names in "
                "the annotation still stand for sizes, which have to agree within a call."
            )
        if is_float in others and not (dtype is None or dtype.is_floating_point):
            raise ConfigError(f"{self.text} fits no tensor: is_float is at odds with {dtype}.")
        self._kind = _kind(dtype) if dtype is not None else Float if is_float in others else Shaped
        self.details = tuple(detail for detail in others if detail is not is_float)
        self._axes = [_Axis((), is_group=True)] if dims is None else self._read(dims)
        self._has_many_groups = sum(axis.is_group for axis in self._axes) > 1
        self._annotations = () if self._has_many_groups else self._build(self._axes)

    def _read(self, shape: ShapeDetail) -> list[_Axis]:
        axes: list[_Axis] = []
        for dim in shape.dims:
            name = dim.name if isinstance(dim.name, str) else None  # else torchtyping's marks of none
            if dim.size is ...:
                axis = _Axis((self._word(name, "*"),) if name is not None else (), is_group=True)
                if axes and not axis.words and axes[-1] == axis:
                    continue  # `..., ...` says no more than `...`
            else:
                names = [part for part in (name, dim.size) if isinstance(part, str)]
                fixed = (str(dim.size),) if isinstance(dim.size, int) and dim.size != -1 else ()
                axis = _Axis(fixed + tuple(dict.fromkeys(self._word(part) for part in names)))
            axes.append(axis)
        return axes

    def _word(self, name: str, star: str = "") -> str:
        """A name as jaxtyping has it: identifiers as they are, except those that begin with a blank mark."""
        plain = name.isidentifier() and not name.startswith(("_", _SPELLED))
        word = star + (name if plain else _SPELLED + name.encode().hex())
        self.names[word] = name
        return word

    def annotations(self, groups: Mapping[str, Sequence[int]]) -> tuple[type[AbstractArray], ...]:
        """Annotations of jaxtyping that together ask for the same shape and dtype.

        One says it all, unless an axis has a name and a size, or two names. jaxtyping takes one ``...`` an annotation:
        of several, all but one have to be known.

        Args:
            groups: sizes of named groups of axes, by jaxtyping's word for them.

        Raises:
            ConfigError: if more than one group of axes is unknown.
        """
        if not self._has_many_groups:
            return self._annotations
        axes: list[_Axis] = []
        for axis in self._axes:
            is_known = axis.is_group and axis.word(0) in groups
            axes += [_Axis((str(size),)) for size in groups[axis.word(0)]] if is_known else [axis]
        if sum(axis.is_group for axis in axes) > 1:
            raise ConfigError(
                f"where the groups of axes of {self.text} begin and end is not known: all but one of them must have "
                "names, and appear alone in an earlier argument."
            )
        return self._build(axes)

    def _build(self, axes: Sequence[_Axis]) -> tuple[type[AbstractArray], ...]:
        rows = [" ".join(axis.word(i) for axis in axes) for i in range(max([1, *(len(axis.words) for axis in axes)]))]
        kinds: list[Any] = [self._kind] + [Shaped] * (len(rows) - 1)
        return tuple(kind[self.array_type, row] for kind, row in zip(kinds, rows, strict=True))

    def groups(self, shape: Sequence[int], known: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Sizes of the named groups of axes in a shape that fits, of which :meth:`annotations` knew all but one."""
        lengths = [
            len(known[axis.word(0)]) if axis.word(0) in known else None if axis.is_group else 1 for axis in self._axes
        ]
        rest = len(shape) - sum(length for length in lengths if length is not None)
        found, start = {}, 0
        for axis, length in zip(self._axes, lengths, strict=True):
            end = start + (rest if length is None else length)
            if axis.is_group and axis.words:
                found[axis.words[0]] = tuple(shape[start:end])
            start = end
        return found

    def in_own_names(self, reason: str) -> str:
        """A message of jaxtyping, with the names as the annotation has them."""
        for word, name in self.names.items():
            reason = reason.replace(word, name) if _SPELLED in word else reason
        return reason


def _kind(dtype: torch.dtype) -> Any:
    """The class of jaxtyping for one dtype, or one like it."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.bool:
        return jaxtyping.Bool
    for kind in vars(jaxtyping).values():
        if isinstance(kind, type) and issubclass(kind, AbstractDtype) and getattr(kind, "dtypes", None) == (name,):
            return kind
    return type(name, (AbstractDtype,), {"dtypes": name})
