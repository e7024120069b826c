"""How close samples are to data, and how varied they are."""

from vadd.metrics.classifier import DigitClassifier, train_digit_classifier
from vadd.metrics.frechet import frechet_distance
from vadd.metrics.image_classifier import ImageClassifier, train_image_classifier
from vadd.metrics.image_features import ImageDistances, ImageFeatures, image_distances
from vadd.metrics.inception import InceptionFeatures
from vadd.metrics.information import (
    entropy,
    factorized,
    jensen_shannon,
    pair_histogram,
    token_entropy,
    validity,
)
from vadd.metrics.kernel import SubsetDistance, kernel_distance, kernel_distance_of_subsets
from vadd.metrics.neighbours import nearest_neighbours
from vadd.metrics.pixels import to_uint8
from vadd.metrics.prdc import PRDC, prdc
from vadd.metrics.stored_classifier import load_image_classifier, save_image_classifier

__all__ = [
    "PRDC",
    "DigitClassifier",
    "ImageClassifier",
    "ImageDistances",
    "ImageFeatures",
    "InceptionFeatures",
    "SubsetDistance",
    "entropy",
    "factorized",
    "frechet_distance",
    "image_distances",
    "jensen_shannon",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "load_image_classifier",
    "nearest_neighbours",
    "pair_histogram",
    "prdc",
    "save_image_classifier",
    "to_uint8",
    "token_entropy",
    "train_digit_classifier",
    "train_image_classifier",
    "validity",
]
