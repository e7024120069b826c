"""Data sets as tokens: handwritten digits and two-dimensional toy densities."""

from vadd.data.binning import discretize, undiscretize
from vadd.data.digits import DigitTokens, load_digits_tokens
from vadd.data.mnist import MnistTokens, load_mnist_tokens
from vadd.data.toys import TOY_LIMITS, TOY_NAMES, checkerboard_probabilities, sample_toy, toy_probabilities

__all__ = [
    "TOY_LIMITS",
    "TOY_NAMES",
    "DigitTokens",
    "MnistTokens",
    "checkerboard_probabilities",
    "discretize",
    "load_digits_tokens",
    "load_mnist_tokens",
    "sample_toy",
    "toy_probabilities",
    "undiscretize",
]
