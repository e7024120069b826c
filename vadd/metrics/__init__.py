"""How close samples are to data, and how varied they are."""

from vadd.metrics.classifier import DigitClassifier, train_digit_classifier
from vadd.metrics.frechet import frechet_distance
from vadd.metrics.information import (
    entropy,
    factorized,
    jensen_shannon,
    pair_histogram,
    token_entropy,
    validity,
)
from vadd.metrics.neighbours import nearest_neighbours
from vadd.metrics.prdc import PRDC, prdc

__all__ = [
    "PRDC",
    "DigitClassifier",
    "entropy",
    "factorized",
    "frechet_distance",
    "jensen_shannon",
    "nearest_neighbours",
    "pair_histogram",
    "prdc",
    "token_entropy",
    "train_digit_classifier",
    "validity",
]
