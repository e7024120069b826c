"""Data sets as tokens: images and two-dimensional toy densities."""

from vadd.data.binarized_mnist import load_binarized_mnist
from vadd.data.binning import discretize, undiscretize
from vadd.data.cifar10 import load_cifar10_tokens
from vadd.data.digits import DigitTokens, load_digits_tokens
from vadd.data.image_dataset import ImageDataset
from vadd.data.images import ImageTokens, make_image_tokens
from vadd.data.mnist import load_mnist_tokens
from vadd.data.toys import TOY_LIMITS, TOY_NAMES, checkerboard_probabilities, sample_toy, toy_probabilities

__all__ = [
    "TOY_LIMITS",
    "TOY_NAMES",
    "DigitTokens",
    "ImageDataset",
    "ImageTokens",
    "checkerboard_probabilities",
    "discretize",
    "load_binarized_mnist",
    "load_cifar10_tokens",
    "load_digits_tokens",
    "load_mnist_tokens",
    "make_image_tokens",
    "sample_toy",
    "toy_probabilities",
    "undiscretize",
]
