"""Divergences and entropies: bounds, known values, and agreement with direct sums."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import DomainError, ShapeError
from vadd.metrics import entropy, factorized, jensen_shannon, pair_histogram, token_entropy, validity


@st.composite
def two_laws(draw):
    size = draw(st.integers(1, 12))
    weights = st.lists(st.integers(0, 5), min_size=size, max_size=size).filter(any)
    p, q = (torch.tensor(draw(weights), dtype=torch.float64) for _ in range(2))
    return p / p.sum(), q / q.sum()


@given(two_laws())
def test_divergence_is_symmetric_and_within_its_bounds(laws):
    p, q = laws
    divergence = jensen_shannon(p, q)
    assert divergence == pytest.approx(jensen_shannon(q, p), abs=1e-15)
    assert 0 <= divergence <= math.log(2) + 1e-12
    assert (divergence < 1e-12) == torch.allclose(p, q, atol=1e-7)


@given(two_laws())
def test_divergence_is_the_gain_of_entropy_by_mixing(laws):
    p, q = laws
    gain = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert jensen_shannon(p, q) == pytest.approx(gain, abs=1e-12)


def test_known_divergences():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.5])
    assert jensen_shannon(p, q) == pytest.approx(math.log(2), abs=1e-12)  # nothing in common
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert jensen_shannon(p, q) == pytest.approx(0.75 * math.log(4 / 3), abs=1e-12)


def test_floor_of_independent_tokens_for_two_copied_bits():
    copied = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    assert factorized(copied).tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert jensen_shannon(copied, factorized(copied)) == pytest.approx(0.75 * math.log(4 / 3), abs=1e-12)


def test_factorized_keeps_the_marginals():
    p = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = p / p.sum()
    product = factorized(p)
    assert torch.allclose(product.sum(0), p.sum(0))
    assert torch.allclose(product.sum(1), p.sum(1))
    assert torch.allclose(factorized(product), product)


def test_histogram_counts_pairs():
    tokens = torch.tensor([[0, 1], [0, 1], [2, 0], [1, 1]])
    expected = torch.tensor([[0, 0.5, 0], [0, 0.25, 0], [0.25, 0, 0]], dtype=torch.float64)
    assert torch.equal(pair_histogram(tokens, 3), expected)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_token_entropy_is_that_of_the_counts(batch, dim, vocab, seed):
    tokens = torch.randint(vocab, (batch, dim), generator=torch.Generator().manual_seed(seed))
    expected = [entropy(row.bincount(minlength=vocab).double() / dim) for row in tokens]
    assert token_entropy(tokens, vocab).tolist() == pytest.approx(expected, abs=1e-12)


def test_token_entropy_of_repetition_and_of_variety():
    tokens = torch.tensor([[3, 3, 3, 3], [0, 1, 2, 3]])
    assert token_entropy(tokens, 4).tolist() == pytest.approx([0, math.log(4)])


def test_validity_is_the_share_on_the_support():
    truth = torch.tensor([[0.6, 0.399], [0.001, 0.0]])
    p = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert validity(p, truth) == pytest.approx(0.6)
    assert validity(p, truth, threshold=0.01) == pytest.approx(0.3)
    assert validity(p, truth, threshold=0.5) == pytest.approx(0.1)
    assert validity(truth, truth) == pytest.approx(1)


def test_validity_without_a_support_to_speak_of_is_an_error(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(DomainError, match="threshold"):
        validity(half, half, threshold=-0.1)
    with pytest.raises(ShapeError):
        validity(half, torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize("p", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_what_is_no_law_is_an_error(p):
    with pytest.raises(DomainError, match="sum to 1"):
        jensen_shannon(torch.tensor([0.5, 0.5]), torch.tensor(p))


def test_bad_shapes_are_an_error(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ShapeError):
        jensen_shannon(half, torch.tensor([0.5, 0.25, 0.25]))
    with pytest.raises(ShapeError):
        factorized(half)
    with pytest.raises(ShapeError):
        pair_histogram(torch.zeros(4, 3, dtype=torch.int64), 2)
    with pytest.raises(ShapeError):
        token_entropy(torch.zeros(4, dtype=torch.int64), 2)


@pytest.mark.parametrize("token", [-1, 2])
def test_tokens_outside_the_vocabulary_are_an_error(token):
    tokens = torch.tensor([[0, token]])
    with pytest.raises(DomainError, match=r"\[0, 2\)"):
        pair_histogram(tokens, 2)
    with pytest.raises(DomainError, match=r"\[0, 2\)"):
        token_entropy(tokens, 2)
