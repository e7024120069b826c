"""Families of distributions that recognition networks return."""

from vadd.backbones.families.base import Family, Output
from vadd.backbones.families.flow import FlowNormal
from vadd.backbones.families.normal import DiagonalNormal, FullNormal, LowRankNormal
from vadd.backbones.families.one_hot import RelaxedOneHot, StraightThrough
from vadd.backbones.families.resolve import resolve_family

__all__ = [
    "DiagonalNormal",
    "Family",
    "FlowNormal",
    "FullNormal",
    "LowRankNormal",
    "Output",
    "RelaxedOneHot",
    "StraightThrough",
    "resolve_family",
]
