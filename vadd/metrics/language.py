"""Numbers for samples of text: how probable a judge finds them, and how varied their tokens and words are."""

import math
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import ConfigError, DomainError, NonFiniteError, ShapeError
from vadd.metrics.information import entropies_of_rows
from vadd.types import Flags, Tokens

__all__ = [
    "GenerativePerplexity",
    "JudgeScores",
    "LanguageJudge",
    "NatsPerToken",
    "generative_perplexity",
    "nats_per_token",
    "share_of_real_words",
    "unigram_entropy",
    "words_of",
]

# Letters of any script, with apostrophes inside: don't is one word, 'tis is tis.
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


class JudgeScores(NamedTuple):
    """What a judge says of some sequences.

    Attributes:
        nats: negative log-probability of each sequence's scored tokens, float64, shape ``(num,)``.
        num_tokens: how many tokens of each were scored, shape ``(num,)``.
        entropy: of each sequence's own token frequencies, in nats per token, float64, shape ``(num,)``.
    """

    nats: Float[Tensor, " num"]
    num_tokens: Int[Tensor, " num"]
    entropy: Float[Tensor, " num"]


@runtime_checkable
class LanguageJudge(Protocol):
    """Assigns probabilities to sequences: :class:`CausalJudge` to tokens, :class:`TransformersJudge` to texts."""

    name: str

    def score(self, rows, is_padding=None, /) -> JudgeScores:
        """Nats, tokens and entropy of each sequence.

        Args:
            rows: the sequences: tokens of shape ``(num, dim)``, or texts.
            is_padding: positions of the tokens without data; default none.
        """
        ...


class NatsPerToken(NamedTuple):
    """Mean over the scored tokens; ``stderr`` is that of the mean over a population of such sequences."""

    mean: float
    stderr: float
    num_tokens: int


class GenerativePerplexity(NamedTuple):
    """How predictable samples are to a judge, and how varied.

    Attributes:
        perplexity: ``exp(total nats / total tokens)``, tokens of the judge.
        stderr: its standard error over sequences (delta method); NaN for a single one.
        num_tokens: tokens scored, over all sequences.
        entropy: mean unigram entropy of the samples in nats per token of the judge. Repetition lowers both: compare
            perplexities at like entropies only, and give both for real text beside them.
        judge: the name of the judge. Values of different judges do not compare.
    """

    perplexity: float
    stderr: float
    num_tokens: int
    entropy: float
    judge: str

    def __str__(self) -> str:
        return (
            f"generative perplexity {self.perplexity:.2f} ± {self.stderr:.2f} by {self.judge}, entropy "
            f"{self.entropy:.3f} nats per token ({self.num_tokens:,} tokens)"
        )


def generative_perplexity(
    judge: LanguageJudge, rows: Tokens | Sequence[str], is_padding: Flags | None = None
) -> GenerativePerplexity:
    """Perplexity of samples under a judge, with the entropy that keeps it honest.

    Args:
        judge: an autoregressive model; whether it scores the first token, its documentation says.
        rows: samples, as the judge reads them: token rows for :class:`CausalJudge`, texts for
            :class:`TransformersJudge`.
        is_padding: positions of token rows that hold no text.

    Raises:
        VADDError: if the judge cannot score the rows.

    References:
        Sahoo et al., "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524; of the need for the
        entropy beside it Zheng et al., arXiv 2409.02908.
    """
    scores = judge.score(rows, is_padding)
    found = nats_per_token(scores)
    perplexity = math.exp(found.mean) if found.mean < 700 else math.inf
    return GenerativePerplexity(
        perplexity, perplexity * found.stderr, found.num_tokens, float(scores.entropy.mean()), judge.name
    )


def nats_per_token(scores: JudgeScores) -> NatsPerToken:
    """Total nats over total tokens; the standard error is that of a ratio of means, NaN for a single sequence.

    Raises:
        NonFiniteError: if a score is NaN or infinite.
    """
    nats, num = scores.nats.double(), scores.num_tokens.double()
    if not bool(torch.isfinite(nats).all()):
        row = int((~torch.isfinite(nats)).int().argmax())
        raise NonFiniteError(f"the judge scores sequence {row} with {float(nats[row])} nats; run it in float32.")
    mean = nats.sum() / num.sum()
    count = len(nats)
    variance = (nats - mean * num).square().sum() * count / (count - 1) if count > 1 else torch.tensor(math.nan)
    return NatsPerToken(float(mean), float(variance.sqrt() / num.sum()), int(scores.num_tokens.sum()))


def unigram_entropy(rows: Tokens, is_padding: Flags | None = None) -> float:
    """Mean over samples of the entropy of the sample's own token frequencies, in nats per token.

    At most ``log dim``. It is the entropy that is published beside generative perplexities, about 5.4 nats for 1,024
    GPT-2 tokens of web text; it grows with the length of the samples, so compare equal lengths.

    Args:
        rows: samples.
        is_padding: positions that hold no text; they are not counted.

    Raises:
        ShapeError: if there are no tokens, or the two shapes differ.
        DomainError: if a row is nothing but padding.

    References:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models", arXiv 2409.02908.
    """
    is_padding = check_padding(rows, is_padding)
    return float(entropies_of_rows(rows, ~is_padding).mean())


def check_padding(rows: Tensor, is_padding: Tensor | None) -> Tensor:
    """The flags of padding, all False by default; raises unless every row holds a token."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise ShapeError(f"rows must have shape (batch, dim), both at least 1, got {tuple(rows.shape)}.")
    if is_padding is None:
        return torch.zeros_like(rows, dtype=torch.bool)
    if is_padding.shape != rows.shape:
        raise ShapeError(f"is_padding must have the shape {tuple(rows.shape)} of rows, got {tuple(is_padding.shape)}.")
    is_empty = is_padding.all(-1)
    if bool(is_empty.any()):
        raise DomainError(
            f"every row must hold a token, but row {int(is_empty.int().argmax())} is nothing but padding; leave such "
            "rows out and say how many there were."
        )
    return is_padding


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, with apostrophes inside (``don't``), in the case they are written in."""
    return _WORD.findall(text)


def share_of_real_words(texts: Iterable[str], vocabulary: AbstractSet[str]) -> float:
    """Share of the words in samples that occur in the training text; for models of characters.

    The first and the last word of a sample are not counted, since they may be cut. It says nothing about variety: give
    the value for held-out text beside it, which has new words too.

    Args:
        texts: samples.
        vocabulary: the words of the training text, ``set(words_of(text))``.

    Raises:
        ConfigError: if ``texts`` is one string, or the vocabulary is no set or empty.
        DomainError: if no sample has a third word.
    """
    if isinstance(texts, str):
        raise ConfigError("texts must be several texts, got one string; pass [text].")
    if not isinstance(vocabulary, AbstractSet) or not vocabulary:
        raise ConfigError(
            f"vocabulary must be a set of words, at least one, got {type(vocabulary).__name__}; "
            "pass set(words_of(training_text))."
        )
    words = [word for text in texts for word in words_of(text)[1:-1]]
    if not words:
        raise DomainError(
            "no word to count: the first and the last word of a sample are left out as they may be cut, and no sample "
            "has three; draw longer samples."
        )
    return sum(word in vocabulary for word in words) / len(words)
