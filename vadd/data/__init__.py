"""Data sets as tokens: real handwritten digits and two-dimensional toy densities."""

from vadd.data.binning import discretize, undiscretize
from vadd.data.digits import DigitTokens, load_digits_tokens
from vadd.data.toys import TOY_LIMITS, TOY_NAMES, checkerboard_probabilities, sample_toy, toy_probabilities

__all__ = [
    "TOY_LIMITS",
    "TOY_NAMES",
    "DigitTokens",
    "checkerboard_probabilities",
    "discretize",
    "load_digits_tokens",
    "sample_toy",
    "toy_probabilities",
    "undiscretize",
]
