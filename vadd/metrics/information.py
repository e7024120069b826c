"""Divergences and entropies of discrete laws, in nats."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import DomainError, ShapeError
from vadd.types import PerSequence, Tokens

__all__ = ["entropy", "factorized", "jensen_shannon", "pair_histogram", "token_entropy", "validity"]


def jensen_shannon(p: Float[Tensor, "*outcomes"], q: Float[Tensor, "*outcomes"]) -> float:
    r"""Jensen-Shannon divergence :math:`H(\frac{p+q}{2}) - \frac{H(p)+H(q)}{2}`, 0 to ``log 2`` nats.

    Between histograms it is biased upwards, by up to about ``occupied cells / (8 draws)`` for each
    histogram: state bins and sample sizes, and give the value for two draws of real data beside it.

    Args:
        p: probabilities over all entries, any shape.
        q: probabilities of the same shape.

    Raises:
        ShapeError: if the shapes differ.
        DomainError: if entries are negative or do not sum to one.

    References:
        Lin, "Divergence Measures Based on the Shannon Entropy", 1991.
    """
    if p.shape != q.shape:
        raise ShapeError(f"p and q must have the same shape, got {tuple(p.shape)} and {tuple(q.shape)}.")
    p, q = _probabilities("p", p), _probabilities("q", q)
    middle = (p + q) / 2
    # As two relative entropies, which keeps small divergences accurate.
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return max(float(divergence), 0.0)  # rounding can leave a negative zero


def entropy(p: Float[Tensor, "*outcomes"]) -> float:
    """Shannon entropy in nats of probabilities of any shape.

    Raises:
        DomainError: if entries are negative or do not sum to one.
    """
    p = _probabilities("p", p)
    return -float(torch.xlogy(p, p).sum())


def factorized(p: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Product of the two marginals of a joint law: the best that independent tokens can do.

    Its divergence from ``p`` is the floor of a one-step sampler without a latent.

    Raises:
        ShapeError: if ``p`` is not a matrix.
        DomainError: if entries are negative or do not sum to one.
    """
    if p.ndim != 2:
        raise ShapeError(f"p must be a matrix of joint probabilities, got shape {tuple(p.shape)}.")
    p = _probabilities("p", p)
    return p.sum(1, keepdim=True) * p.sum(0, keepdim=True)


def pair_histogram(tokens: Int[Tensor, "num 2"], vocab_size: int) -> Float[Tensor, "vocab vocab"]:
    """Relative frequency of each pair of tokens, float64, first token along the rows.

    Raises:
        ShapeError: if ``tokens`` are not pairs, or there are none.
        DomainError: if a token lies outside ``[0, vocab_size)``.
    """
    if tokens.ndim != 2 or tokens.shape[1] != 2 or tokens.shape[0] == 0:
        raise ShapeError(f"tokens must have shape (num, 2) with num at least 1, got {tuple(tokens.shape)}.")
    _check_tokens(tokens, vocab_size)
    counts = torch.bincount(tokens[:, 0] * vocab_size + tokens[:, 1], minlength=vocab_size**2)
    return (counts.double() / tokens.shape[0]).reshape(vocab_size, vocab_size)


def validity(p: Float[Tensor, "*outcomes"], truth: Float[Tensor, "*outcomes"], *, threshold: float = 0.0) -> float:
    """Share of ``p`` on the support of ``truth``: the outcomes more probable than ``threshold``.

    Where the truth has tails there is no natural support: state the threshold, and give the value
    for real data beside it. It says nothing about coverage: one valid outcome alone has validity 1.

    Args:
        p: probabilities or relative frequencies over all outcomes, any shape.
        truth: probabilities of the same shape.
        threshold: in ``[0, 1)``.

    Raises:
        ShapeError: if the shapes differ.
        DomainError: if entries are negative or do not sum to one, or the threshold lies outside its range.
    """
    if p.shape != truth.shape:
        raise ShapeError(f"p and truth must have the same shape, got {tuple(p.shape)} and {tuple(truth.shape)}.")
    if not 0 <= threshold < 1:
        raise DomainError(f"threshold must lie in [0, 1), got {threshold}.")
    p, truth = _probabilities("p", p), _probabilities("truth", truth)
    return float(p[truth > threshold].sum())


def token_entropy(tokens: Tokens, vocab_size: int) -> PerSequence:
    """Entropy of the tokens inside each sequence, in nats per token.

    That of the relative frequencies in the row, 0 if one token is repeated throughout and at most
    ``log min(dim, vocab_size)``. A low value beside a low perplexity betrays repetition.

    Raises:
        ShapeError: if ``tokens`` do not have shape ``(batch, dim)``, both at least 1.
        DomainError: if a token lies outside ``[0, vocab_size)``.
    """
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ShapeError(f"tokens must have shape (batch, dim), both at least 1, got {tuple(tokens.shape)}.")
    _check_tokens(tokens, vocab_size)
    return entropies_of_rows(tokens, torch.ones_like(tokens, dtype=torch.bool))


def entropies_of_rows(tokens: Int[Tensor, "batch dim"], is_counted: Bool[Tensor, "batch dim"]) -> PerSequence:
    """Entropy of the counted tokens of each row, NaN where none is; of whatever values, unchecked."""
    # Runs of equal tokens in the sorted rows, so that memory does not grow with the vocabulary.
    ordered, order = tokens.sort(-1)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = is_new.long().cumsum(-1) - 1
    counts = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    counts.scatter_add_(1, run, is_counted.gather(1, order).double())
    p = counts / counts.sum(-1, keepdim=True)
    return -torch.xlogy(p, p).sum(-1)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Sum of p log(p/q) over the outcomes of p; q is positive there."""
    occurs = p > 0
    return (p[occurs] * torch.log(p[occurs] / q[occurs])).sum()


def _probabilities(name: str, p: Tensor) -> Tensor:
    tolerance = 1e-4 if p.dtype != torch.float64 else 1e-8
    wide = p.detach().double()
    total = float(wide.sum())
    if not (bool((wide >= 0).all()) and abs(total - 1) <= tolerance):
        raise DomainError(
            f"{name} must hold non-negative probabilities that sum to 1, got entries from "
            f"{float(wide.min()):.6g} that sum to {total:.6g}; divide counts by their sum."
        )
    return wide


def _check_tokens(tokens: Tensor, vocab_size: int) -> None:
    low, high = (int(value) for value in torch.aminmax(tokens))
    if low < 0 or high >= vocab_size:
        raise DomainError(f"tokens must lie in [0, {vocab_size}), got values from {low} to {high}.")
