"""Pyro distributions of the library."""

from vadd.distributions.masked_categorical import MaskedCategorical, sample_categorical

__all__ = ["MaskedCategorical", "sample_categorical"]
