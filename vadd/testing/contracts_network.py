"""Checks that a denoiser or recognition network of your own keeps the contract of its base class."""

from typing import Any

import torch
from torch import Tensor

from vadd._seeds import seeded
from vadd.backbones.base import Denoiser, FeatureDenoiser, Recognition
from vadd.errors import ConfigError
from vadd.testing.contracts_shared import (
    BATCH,
    accepts_padding,
    check_distribution,
    check_gradients,
    check_plates,
    check_rows,
    perturbed,
    require,
    require_same,
    require_shape,
    rows_of,
    some_normal,
    some_padding,
    some_times,
    some_tokens,
    sum_of_squares,
)
from vadd.testing.density import check_density
from vadd.types import Distribution

__all__ = ["check_denoiser", "check_recognition"]


def check_denoiser(denoiser: Denoiser, num_tokens: int | None = None, *, condition: Tensor | None = None) -> None:
    """Check a denoiser: output, dependence on its inputs, gradients, rows apart, padding hidden.

    Args:
        denoiser: the network.
        num_tokens: length of the sequences to try; default ``denoiser.num_tokens``.
        condition: labels for three sequences, if the network needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    length = num_tokens or denoiser.num_tokens
    require(length is not None, "num_tokens must be given, for the denoiser has no default length.")
    assert length is not None
    denoiser = perturbed(denoiser)
    vocab_size, every = denoiser.vocab_size, slice(None)
    x_t, t = some_tokens(denoiser, vocab_size + 1, length), some_times(denoiser)
    z = some_normal(denoiser, denoiser.latent_shape)
    options = {} if condition is None else {"condition": condition}

    def run(rows: slice, x_t: Tensor = x_t, z: Tensor = z, **more: Tensor) -> Tensor:
        return denoiser(x_t[rows], t[rows], z[rows], **rows_of(options, rows), **more)

    logits = run(every)
    require_shape("the denoiser's output", logits, (BATCH, length, vocab_size))
    require(logits.is_floating_point(), f"the denoiser must return floating-point logits, not {logits.dtype}.")
    for name, tokens in (("", x_t), (" when all is masked", torch.full_like(x_t, vocab_size))):
        require(bool(run(every, tokens).isfinite().all()), f"the denoiser's logits must be finite{name}.")
    require(
        not torch.equal(logits, run(every, (x_t + 1) % (vocab_size + 1))),
        "the denoiser's output must depend on x_t.",
    )
    if z.numel():
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sum_of_squares(run(every, z=leaf)), leaf, allow_unused=True)
        require(
            gradient is not None and bool(gradient.flatten(1).any(1).all()),
            "the denoiser's output must depend on z, by differentiable operations, once its parameters "
            "differ from their start; if it is meant to read no latent, set latent_shape to (0,).",
        )
    check_gradients("the denoiser", denoiser, sum_of_squares(run(every)))
    check_rows("the denoiser", run)
    if isinstance(denoiser, FeatureDenoiser):
        _check_head(denoiser, x_t, t, z, options)
    if accepts_padding(denoiser):
        is_padding = some_padding(x_t)
        other = torch.where(is_padding, (x_t + 1) % (vocab_size + 1), x_t)
        padded = run(every, is_padding=is_padding)
        require(
            bool(padded.isfinite().all()),
            "logits must be finite even for a row that is all padding (the first).",
        )
        require_same(
            padded[~is_padding],
            run(every, other, is_padding=is_padding)[~is_padding],
            "the denoiser must not read tokens where is_padding is set",
        )


def check_recognition(
    recognition: Recognition, vocab_size: int, num_tokens: int, *, condition: Tensor | None = None
) -> None:
    """Check a recognition network: its distribution, dependence, gradients, rows apart, padding hidden.

    That the density is the one drawn from is checked as :func:`~vadd.testing.density.check_density` says.

    Args:
        recognition: the network; one that shares a denoiser has it attached.
        vocab_size: number of clean tokens ``V``.
        num_tokens: length of the sequences to try.
        condition: labels for three sequences, if the network needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    recognition = perturbed(recognition)
    every = slice(None)
    tokens, t = some_tokens(recognition, vocab_size, num_tokens), some_times(recognition)
    target = torch.zeros_like(tokens, dtype=torch.bool)
    target[:, ::2] = True
    options = {} if condition is None else {"condition": condition}

    def distribution(rows: slice, tokens: Tensor = tokens, target: Tensor = target, **more: Tensor) -> Distribution:
        return recognition(tokens[rows], target[rows], t[rows], **rows_of(options, rows), **more)

    def score(*args: Any, **more: Tensor) -> Tensor:
        return distribution(*args, **more).log_prob(z[args[0]])

    whole = distribution(every)
    check_distribution("the recognition network's distribution", whole, recognition.latent_shape)
    require(
        bool(whole.has_rsample),
        "the recognition network must return a reparameterized distribution (has_rsample), so that gradients "
        "reach it through its samples.",
    )
    with seeded(0, tokens.device):
        z = whole.sample().detach()
    require_shape("a sample of the recognition network", z, (BATCH, *recognition.latent_shape))
    require_shape("log_prob of the recognition network", score(every), (BATCH,))
    hidden = tokens.masked_fill(~target, vocab_size)
    nothing = torch.zeros_like(target)
    for name, value in (
        ("", score(every)),
        (" where hidden tokens are masked", score(every, hidden)),
        (" where the target is empty", score(every, tokens, nothing)),
    ):
        require(bool(value.isfinite().all()), f"log_prob of the recognition network must be finite{name}.")
    if not z.numel():
        return
    check_density("the recognition network", whole, z.device)
    check_plates(whole, z)
    require(
        not torch.equal(score(every), score(every, (tokens + 1) % vocab_size)),
        "the recognition network must depend on the tokens.",
    )
    require(
        not torch.equal(score(every), score(every, tokens, ~target)),
        "the recognition network must depend on target; one that reads the tokens alone collapses to the prior.",
    )
    with seeded(0, z.device):
        sample = whole.rsample()
    require(
        sample.requires_grad or not any(p.requires_grad for p in recognition.parameters()),
        "samples of the recognition network must carry gradients to its parameters; use rsample, not sample, "
        "and detach nothing.",
    )
    check_gradients("the recognition network", recognition, score(every).sum())
    check_rows("the recognition network", score)
    if accepts_padding(recognition):
        is_padding = some_padding(tokens)
        visible = target & ~is_padding
        other = torch.where(is_padding, (tokens + 1) % vocab_size, tokens)
        padded = score(every, tokens, visible, is_padding=is_padding)
        require(
            bool(padded.isfinite().all()),
            "log_prob must be finite even for a row that is all padding (the first).",
        )
        require_same(
            padded[1:],
            score(every, other, visible, is_padding=is_padding)[1:],
            "the recognition network must not read tokens where is_padding is set",
        )


def _check_head(denoiser: FeatureDenoiser, x_t: Tensor, t: Tensor, z: Tensor, options: dict[str, Tensor]) -> None:
    features = denoiser.features(x_t, t, z, **options)
    dense = denoiser(x_t, t, z, **options)
    require(
        features.shape[:2] == x_t.shape and features.ndim == 3,
        f"features must return (batch, dim, hidden), got {tuple(features.shape)} for {tuple(x_t.shape)} tokens.",
    )
    require_same(dense, denoiser.head(features), "forward must equal head(features(...))")
    where = x_t % 2 == 0
    require_same(
        dense[where],
        denoiser.head(features[where]),
        "head must treat each position on its own, mapping (..., hidden) to (..., vocab)",
    )
    try:
        width = denoiser.context_size
    except ConfigError:
        return  # it does not share its context
    shape = tuple(denoiser.context(x_t, t, z, **options).shape)
    require(
        shape[:1] + shape[2:] == (BATCH, width) and shape[1] in (1, x_t.shape[1]),
        f"context must return (batch, dim, context_size), or one position for all, with context_size {width}; got "
        f"{shape} for {tuple(x_t.shape)} tokens.",
    )
