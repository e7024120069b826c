"""From bounds in nats per sequence to perplexities and bits per character, with standard errors."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.evaluation.result import BoundResult

__all__ = ["Estimate", "Perplexity", "perplexities"]

#: How many of a unit (tokens, words, characters) each sequence has, or all of them together.
Counts = Int[Tensor, " batch"] | int


class Estimate(NamedTuple):
    """A number with its standard errors.

    Attributes:
        value: the number.
        stderr: its standard error as an estimate for the population that the sequences are drawn from.
        estimator_stderr: its standard error for these very sequences: masks and latents alone. NaN for one draw.
    """

    value: float
    stderr: float
    estimator_stderr: float


@dataclass(frozen=True)
class Perplexity:
    r"""Rates of a bound: nats of all sequences over the tokens, words or characters of all sequences.

    Sequences of different length are weighed by it, as in :math:`R = \sum_i \ell_i / \sum_i n_i`, not as in a mean of
    their own rates. Standard errors are those of the ratio estimator, by the delta method:
    :math:`m / (m - 1) \sum_i (\ell_i - R n_i)^2 / (\sum_i n_i)^2` is the variance of :math:`R` for ``m`` sequences, and
    that of :math:`e^R` is :math:`e^{2R}` times as large. Sequences count as independent; rows cut from one text are
    not quite (:func:`~vadd.evaluation.document_bound` gives one figure a document).

    Where the result bounds a likelihood in expectation, so do these: by Jensen's inequality an exponential of it lies
    still higher. The figures of a DELBO that bounds none go by other names.

    Attributes:
        result: the bound.
        num_tokens, num_words, num_characters: counts of the text that was scored.
    """

    result: BoundResult
    num_tokens: Counts
    num_words: Counts | None = None
    num_characters: Counts | None = None

    @property
    def perplexity(self) -> Estimate:
        """Upper bound on the perplexity per token."""
        self.result.require_bound("perplexity")
        return _exp(self._rate("num_tokens"))

    @property
    def word_perplexity(self) -> Estimate:
        """Upper bound on the perplexity per word; compares models with different tokenizers."""
        self.result.require_bound("word_perplexity")
        return _exp(self._rate("num_words"))

    @property
    def bits_per_character(self) -> Estimate:
        """Upper bound on the bits per character; compares models with different tokenizers."""
        self.result.require_bound("bits_per_character")
        return _bits(self._rate("num_characters"))

    @property
    def delbo_perplexity(self) -> Estimate:
        """The published metric under a name of its own: exp of the DELBO per token, not a bound."""
        self.result.require_delbo("delbo_perplexity")
        return _exp(self._rate("num_tokens"))

    @property
    def delbo_word_perplexity(self) -> Estimate:
        """The published metric under a name of its own: exp of the DELBO per word, not a bound."""
        self.result.require_delbo("delbo_word_perplexity")
        return _exp(self._rate("num_words"))

    @property
    def delbo_bits_per_character(self) -> Estimate:
        """The published metric under a name of its own: DELBO in bits per character, not a bound."""
        self.result.require_delbo("delbo_bits_per_character")
        return _bits(self._rate("num_characters"))

    def _rate(self, name: str) -> Estimate:
        """Nats for each of a unit."""
        counts = getattr(self, name)
        if counts is None:
            raise ConfigError(f"{name} is not known: pass {name}=... to perplexities.")
        if isinstance(counts, int):
            # How they are spread over the sequences is not known: as the tokens are.
            tokens = self.num_tokens if isinstance(self.num_tokens, Tensor) else self.result.num_scored
            counts = tokens.double() * (counts / float(tokens.sum()))
        nats, counts = self.result.nats_per_sequence.double(), counts.double().to(self.result.nats_per_sequence.device)
        total, num = counts.sum(), len(nats)
        rate = nats.sum() / total
        residuals = nats - rate * counts
        spread = (num / (num - 1) * residuals.square().sum()).sqrt() / total if num > 1 else math.nan
        noise = self.result.stderr_per_sequence.double().square().sum().sqrt() / total
        return Estimate(float(rate), float(spread), float(noise))

    def __repr__(self) -> str:
        is_bound = self.result.bounds is not None
        units = {"num_tokens": "perplexity", "num_words": "word_perplexity", "num_characters": "bits_per_character"}
        names = [
            unit if is_bound else f"delbo_{unit}" for count, unit in units.items() if getattr(self, count) is not None
        ]
        parts = []
        for name in names:
            estimate: Estimate | None = getattr(self, name, None)  # a DELBO of several latents has no names
            if estimate is not None:
                parts.append(f"{name} {estimate.value:.3f} ± {estimate.stderr:.3f}")
        claim = f"bounds {self.result.bounds}" if is_bound else "bounds no likelihood"
        return f"Perplexity({self.result.kind}: {', '.join([*parts, claim])})"


def perplexities(
    result: BoundResult,
    *,
    num_tokens: Counts | None = None,
    num_words: Counts | None = None,
    num_characters: Counts | None = None,
) -> Perplexity:
    """Perplexities per token and word and bits per character of a bound, with standard errors.

    Args:
        result: of :func:`~vadd.evaluation.log_likelihood_bound` or :func:`~vadd.evaluation.document_bound`.
        num_tokens: tokens to share the nats among, integers of shape ``(batch,)``; default those that were scored.
        num_words: words of the text that was scored, integers of shape ``(batch,)``. A number is the total, which is
            divided among the sequences as their tokens are: then the standard error leaves out that sequences
            differ in words per token.
        num_characters: the same for characters.

    Raises:
        ConfigError: if a bound on the one jump of ``bound="conditional"``, which scores a random part of the text, is
            to be shared among words or characters; or a figure is asked for without its count.
        DomainError, DtypeError, ShapeError: if counts are negative, none at all, no integers, or of another number of
            sequences.
        NotABoundError: when a figure of the DELBO, which bounds nothing, is asked for under the name of a bound.
    """
    given = {"num_tokens": num_tokens, "num_words": num_words, "num_characters": num_characters}
    for name, counts in given.items():
        if counts is not None:
            _check(name, counts, len(result.nats_per_sequence))
    if result.kind == "conditional" and not (num_words is None and num_characters is None):
        raise ConfigError(
            'bound="conditional" scores a random part of the tokens, which has no words or characters: leave num_words '
            "and num_characters out, or evaluate another bound."
        )
    tokens = result.num_scored if num_tokens is None else num_tokens
    if int(result.num_scored.sum()) < 1:
        raise DomainError("nothing was scored: all tokens of the result are frozen or padding.")
    return Perplexity(result, tokens, num_words, num_characters)


def _check(name: str, counts: Counts, batch: int) -> None:
    if not isinstance(counts, Tensor):
        if isinstance(counts, bool) or not isinstance(counts, int):
            raise DtypeError(f"{name} must be integers, one a sequence, or their total, got {type(counts).__name__}.")
        if counts < 1:
            raise DomainError(f"{name} must be at least 1 in all, got {counts}.")
        return
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise DtypeError(f"{name} must hold integers, got {counts.dtype}.")
    if counts.shape != (batch,):
        raise ShapeError(f"{name} must have one entry for each of {batch} sequences, got shape {tuple(counts.shape)}.")
    if bool((counts < 0).any()) or int(counts.sum()) < 1:
        raise DomainError(f"{name} must not be negative, and at least 1 in all, got {counts.tolist()[:8]}.")


def _exp(rate: Estimate) -> Estimate:
    value = math.exp(rate.value)
    return Estimate(value, value * rate.stderr, value * rate.estimator_stderr)


def _bits(rate: Estimate) -> Estimate:
    return Estimate(*(part / math.log(2) for part in rate))
