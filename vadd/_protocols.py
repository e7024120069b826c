"""Protocols whose members may be parts of a ``torch.nn.Module``."""

from typing import Any, Protocol

__all__ = ["ByAttributes"]


class ByAttributes(type(Protocol)):  # pyright: ignore[reportGeneralTypeIssues] - it has no public name
    """Metaclass of a protocol that looks members up as they are used.

    From Python 3.12 on, protocols look past ``__getattr__``, by which a module finds its submodules and buffers.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        members = {*cls.__annotations__, *(name for name in vars(cls) if not name.startswith("_"))}
        return all(hasattr(instance, name) for name in members)
