"""MAUVE: how close samples of text are to real text, in the features of a language model."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vadd.errors import ConfigError
from vadd.metrics._checks import check_features, check_same_columns
from vadd.metrics.transformers_judge import TransformersJudge

__all__ = ["MauveScore", "mauve_score"]

_DEFAULT = "gpt2-large"


class MauveScore(NamedTuple):
    """MAUVE with what it depends on.

    Attributes:
        score: from near 0 to 1, 1 for equal histograms. What the literature reports; it falls with the number of
            samples, so that of two halves of real text belongs beside it.
        smoothed: the same of smoothed histograms, ``mauve_star`` of Pillutla et al. 2023.
        num_real, num_fake: samples on each side.
        num_buckets: cells of the histograms.
        features: what the samples were represented by. Values in other features than GPT-2 Large's compare with no
            published one.
    """

    score: float
    smoothed: float
    num_real: int
    num_fake: int
    num_buckets: int
    features: str

    def __str__(self) -> str:
        return (
            f"MAUVE {self.score:.3f} in {self.features} ({self.num_fake} samples against {self.num_real}, "
            f"{self.num_buckets} buckets)"
        )


def mauve_score(
    real_texts: Sequence[str] | Float[Tensor, "num_real columns"],
    fake_texts: Sequence[str] | Float[Tensor, "num_fake columns"],
    *,
    features: str | TransformersJudge | None = None,
    num_buckets: int | None = None,
    scale: float = 5.0,
    seed: int = 25,
    device: torch.device | str = "cpu",
) -> MauveScore:
    """MAUVE of samples against real text, by the package ``mauve-text`` (GPL-3.0; it is not installed with this one).

    Its authors advise about 5,000 texts a side, and to compare only at equal numbers, lengths and settings. Where no
    language model is at hand, the features of a :class:`CausalJudge` take the texts' place::

        mauve_score(judge.features(real), judge.features(fake), features=judge.feature_name)

    Args:
        real_texts, fake_texts: texts; or features, one row a text, which ``features`` then names.
        features: the model whose last hidden states represent texts: a :class:`TransformersJudge`, or a folder or name
            to load one from. Default ``"gpt2-large"``, as published.
        num_buckets: cells of the histograms; default a tenth of the samples of the smaller side.
        scale: the constant ``c`` in the exponent of the divergence curve.
        seed: of the clustering; the package's default is 25.
        device: where a model named here runs.

    Raises:
        ConfigError: if the package is missing, features have no name, or options are out of range.
        ShapeError, DtypeError, DomainError, NonFiniteError: on features that are not as described.
        DataError: if the model cannot be read.

    References:
        Pillutla et al., "MAUVE: Measuring the Gap Between Neural Text and Human Text", arXiv 2102.01454, and "MAUVE
        Scores for Generative Models: Theory and Practice", arXiv 2212.14578.
    """
    if not 0 < scale < float("inf") or (num_buckets is not None and num_buckets < 2):
        raise ConfigError(f"scale must be positive and num_buckets at least 2, got {scale} and {num_buckets}.")
    try:
        package: Any = import_module("mauve")
    except ImportError as error:
        raise ConfigError('MAUVE needs mauve-text, which needs faiss: pip install "vadd[mauve]".') from error
    if isinstance(real_texts, Tensor) and isinstance(fake_texts, Tensor):
        if not isinstance(features, str):
            raise ConfigError(f"features must name the network that made the features given, got {features!r}.")
        real, fake, name = real_texts, fake_texts, features
    elif isinstance(real_texts, Tensor) or isinstance(fake_texts, Tensor):
        raise ConfigError("real_texts and fake_texts must both be texts or both be features, got one of each.")
    else:
        features = _DEFAULT if features is None else features
        judge = TransformersJudge(features, device=device) if isinstance(features, str) else features
        real, fake, name = judge.features(real_texts), judge.features(fake_texts), judge.feature_name
    for side, values in (("real features", real), ("fake features", fake)):
        check_features(side, values, 2, "for a histogram")
    check_same_columns("real features", real, "fake features", fake)
    buckets = max(2, round(min(len(real), len(fake)) / 10)) if num_buckets is None else num_buckets
    if buckets > len(real) + len(fake):
        raise ConfigError(f"num_buckets must be at most the {len(real) + len(fake)} samples, got {num_buckets}.")
    found = package.compute_mauve(
        p_features=real.detach().double().cpu().numpy(),
        q_features=fake.detach().double().cpu().numpy(),
        num_buckets=buckets,
        mauve_scaling_factor=scale,
        seed=seed,
    )
    score, smoothed = float(found.mauve), float(found.mauve_star)
    if bool((found.p_hist == found.q_hist).all()):
        # All points of the package's curve then tie with its ends, and the order of sorting makes 0.75 or 1 of it.
        score, smoothed = 1.0, 1.0 if len(real) == len(fake) else smoothed
    return MauveScore(score, smoothed, len(real), len(fake), buckets, name)
