"""Families by name."""

from collections.abc import Callable

from vadd.backbones.families.base import Family
from vadd.backbones.families.flow import FlowNormal
from vadd.backbones.families.normal import DiagonalNormal, FullNormal, LowRankNormal
from vadd.backbones.families.one_hot import RelaxedOneHot, StraightThrough
from vadd.errors import ConfigError

__all__ = ["resolve_family"]

_FAMILIES: dict[str, Callable[[], Family]] = {
    "diagonal": DiagonalNormal,
    "low-rank": LowRankNormal,
    "full": FullNormal,
    "flow": FlowNormal,
    "straight-through": StraightThrough,
    "relaxed": RelaxedOneHot,
}


def resolve_family(family: str | Family) -> Family:
    """The family of a name, with its default options, or the family itself.

    Raises:
        ConfigError: on an unknown name.
    """
    if isinstance(family, Family):
        return family
    if family not in _FAMILIES:
        raise ConfigError(f"family must be one of {', '.join(_FAMILIES)} or a Family, got {family!r}.")
    return _FAMILIES[family]()
