"""Perplexity of samples, their unigram entropy, and the share of real words: known values and laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import ConfigError, DomainError, NonFiniteError, ShapeError
from vadd.metrics import (
    JudgeScores,
    entropy,
    generative_perplexity,
    nats_per_token,
    share_of_real_words,
    token_entropy,
    unigram_entropy,
    words_of,
)


class UnigramJudge:
    """Independent tokens: what it says can be computed by hand."""

    name = "a unigram model"

    def __init__(self, p: torch.Tensor) -> None:
        self.log_p = p.log()

    def score(self, rows, is_padding=None, /) -> JudgeScores:
        is_padding = torch.zeros_like(rows, dtype=torch.bool) if is_padding is None else is_padding
        nats = -(self.log_p[rows] * ~is_padding).sum(-1)
        return JudgeScores(nats.double(), (~is_padding).sum(-1), token_entropy(rows, len(self.log_p)))


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_unigram_entropy_is_the_mean_of_that_of_each_samples_counts(batch, dim, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(vocab, (batch, dim), generator=generator)
    is_padding = torch.rand(batch, dim, generator=generator) < 0.4
    is_padding[:, 0] = False
    counted = [row[~flags].bincount(minlength=vocab).double() for row, flags in zip(rows, is_padding, strict=True)]
    expected = sum(entropy(counts / counts.sum()) for counts in counted) / batch
    assert unigram_entropy(rows, is_padding) == pytest.approx(expected, abs=1e-12)
    assert unigram_entropy(rows) == pytest.approx(float(token_entropy(rows, vocab).mean()), abs=1e-12)


def test_unigram_entropy_is_in_nats_and_not_that_of_the_pooled_tokens():
    rows = torch.tensor([[0, 0, 0, 0], [3, 3, 3, 3]])
    assert unigram_entropy(rows) == 0  # pooled: log 2
    assert unigram_entropy(torch.tensor([[0, 1, 2, 3]])) == pytest.approx(math.log(4))


def test_perplexity_of_a_uniform_judge_is_the_size_of_the_vocabulary():
    found = generative_perplexity(UnigramJudge(torch.full((7,), 1 / 7)), torch.randint(7, (5, 11)))
    assert found.perplexity == pytest.approx(7)
    assert found.stderr == pytest.approx(0, abs=1e-4)
    assert found.num_tokens == 55


def test_perplexity_weighs_tokens_alike_not_sequences():
    rows = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]])
    is_padding = torch.tensor([[False] * 4, [False, True, True, True]])
    found = generative_perplexity(UnigramJudge(torch.tensor([0.5, 0.25])), rows, is_padding)
    assert found.perplexity == pytest.approx(math.exp((4 * math.log(2) + math.log(4)) / 5))
    assert found.num_tokens == 5


def test_entropy_stands_beside_the_perplexity_and_betrays_repetition():
    judge = UnigramJudge(torch.tensor([0.6, 0.2, 0.2]))
    repeated = generative_perplexity(judge, torch.zeros(8, 30, dtype=torch.int64))
    drawn = torch.multinomial(torch.tensor([0.6, 0.2, 0.2]), 8 * 30, replacement=True).reshape(8, 30)
    honest = generative_perplexity(judge, drawn)
    assert repeated.perplexity < honest.perplexity
    assert repeated.entropy == 0 < honest.entropy == pytest.approx(unigram_entropy(drawn))
    assert str(honest).startswith(f"generative perplexity {honest.perplexity:.2f} ± ")
    assert "a unigram model" in str(honest)


def test_standard_error_covers_the_true_perplexity():
    # 400 sets of 50 samples of unequal length; 95% intervals hold the truth in 0.95 of them with deviation 0.011,
    # and the delta method costs little at this size. Errors too small by a fifth hold it in 0.88.
    p = torch.tensor([0.7, 0.2, 0.1])
    judge, truth = UnigramJudge(p), math.exp(entropy(p))
    hits = 0
    for _ in range(400):
        rows = torch.multinomial(p, 50 * 12, replacement=True).reshape(50, 12)
        is_padding = torch.arange(12) >= torch.randint(1, 13, (50, 1))
        found = generative_perplexity(judge, rows, is_padding)
        hits += abs(found.perplexity - truth) < 1.96 * found.stderr
    assert 0.91 <= hits / 400 <= 0.98


def test_one_sequence_has_no_standard_error():
    assert math.isnan(generative_perplexity(UnigramJudge(torch.tensor([1.0])), torch.zeros(1, 3).long()).stderr)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    scores = JudgeScores(torch.tensor([9000.0, 9000.0]), torch.tensor([3, 3]), torch.zeros(2))
    judge = UnigramJudge(torch.ones(1))
    judge.score = lambda rows, is_padding=None: scores
    assert generative_perplexity(judge, torch.zeros(2, 3).long()).perplexity == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_an_error(value):
    scores = JudgeScores(torch.tensor([1.0, value]), torch.tensor([3, 3]), torch.zeros(2))
    with pytest.raises(NonFiniteError, match="sequence 1"):
        nats_per_token(scores)


def test_words_are_runs_of_letters_with_apostrophes_inside():
    assert words_of("'Tis nine-ty, DON'T x2y _élan_.") == ["Tis", "nine", "ty", "DON'T", "x", "y", "élan"]


def test_real_words_are_counted_without_the_first_and_the_last():
    vocabulary = {"a", "rose", "is"}
    assert share_of_real_words(["ose is a rose is a ro"], vocabulary) == 1
    assert share_of_real_words(["a rose iz a", "a iz iz a", "a a"], vocabulary) == pytest.approx(1 / 4)
    assert share_of_real_words(["a Rose a"], vocabulary) == 0


@pytest.mark.usefixtures("_unchecked")
def test_bad_input_is_an_error():
    with pytest.raises(ConfigError, match=r"pass \[text\]"):
        share_of_real_words("one text", {"one"})
    for vocabulary in (["one"], set(), "one", 3, None):
        with pytest.raises(ConfigError, match="set of words"):
            share_of_real_words(["one text"], vocabulary)
    with pytest.raises(DomainError, match="longer samples"):
        share_of_real_words(["one text"], {"one"})
    rows = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(DomainError, match="row 1 is nothing but padding"):
        unigram_entropy(rows, torch.tensor([[False] * 3, [True] * 3]))
    with pytest.raises(ShapeError, match="is_padding must have the shape"):
        unigram_entropy(rows, torch.zeros(2, 4, dtype=torch.bool))
    for shape in ((3,), (0, 3), (3, 0)):
        with pytest.raises(ShapeError, match="both at least 1"):
            unigram_entropy(torch.zeros(shape, dtype=torch.int64))
