"""Pyro distributions of the library."""

from vadd.distributions.masked_categorical import MaskedCategorical, sample_categorical
from vadd.distributions.one_hot import GumbelOneHot
from vadd.distributions.reshaped import Reshaped

__all__ = ["GumbelOneHot", "MaskedCategorical", "Reshaped", "sample_categorical"]
