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
from vadd.metrics.judge import CausalJudge
from vadd.metrics.judge_training import TrainedJudge, train_causal_judge
from vadd.metrics.kernel import SubsetDistance, kernel_distance, kernel_distance_of_subsets
from vadd.metrics.language import (
    GenerativePerplexity,
    JudgeScores,
    LanguageJudge,
    NatsPerToken,
    generative_perplexity,
    nats_per_token,
    share_of_real_words,
    unigram_entropy,
    words_of,
)
from vadd.metrics.mauve import MauveScore, mauve_score
from vadd.metrics.neighbours import nearest_neighbours
from vadd.metrics.pixels import to_uint8
from vadd.metrics.prdc import PRDC, prdc
from vadd.metrics.stored_classifier import load_image_classifier, save_image_classifier
from vadd.metrics.stored_judge import load_causal_judge, save_causal_judge
from vadd.metrics.transformers_judge import TransformersJudge

__all__ = [
    "PRDC",
    "CausalJudge",
    "DigitClassifier",
    "GenerativePerplexity",
    "ImageClassifier",
    "ImageDistances",
    "ImageFeatures",
    "InceptionFeatures",
    "JudgeScores",
    "LanguageJudge",
    "MauveScore",
    "NatsPerToken",
    "SubsetDistance",
    "TrainedJudge",
    "TransformersJudge",
    "entropy",
    "factorized",
    "frechet_distance",
    "generative_perplexity",
    "image_distances",
    "jensen_shannon",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "load_causal_judge",
    "load_image_classifier",
    "mauve_score",
    "nats_per_token",
    "nearest_neighbours",
    "pair_histogram",
    "prdc",
    "save_causal_judge",
    "save_image_classifier",
    "share_of_real_words",
    "to_uint8",
    "token_entropy",
    "train_causal_judge",
    "train_digit_classifier",
    "train_image_classifier",
    "unigram_entropy",
    "validity",
    "words_of",
]
