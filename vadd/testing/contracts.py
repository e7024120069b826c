"""Checks that a part of your own keeps the contract of its base class.

Each check returns nothing, or raises an ``AssertionError`` whose message says what to change. The part
itself is left as it was: the checks work on a copy in evaluation mode, with small noise added to the
parameters where zero-initialized ones would hide a path.
"""

import copy

import torch
from torch import Tensor

from vadd._seeds import seeded
from vadd.priors.base import LatentPrior
from vadd.schedules import NoiseSchedule
from vadd.testing.contracts_shared import (
    BATCH,
    accepts_padding,
    check_distribution,
    check_gradients,
    check_plates,
    check_rows,
    perturbed,
    require,
    require_close,
    require_same,
    require_shape,
    rows_of,
    some_padding,
    some_times,
    some_tokens,
)
from vadd.testing.density import check_density
from vadd.types import Distribution

__all__ = ["check_prior", "check_schedule"]


def check_schedule(schedule: NoiseSchedule) -> None:
    """Check a noise schedule: exact ends, monotony, derivative, inverse, mask probability, weight.

    Raises:
        AssertionError: naming the method to correct.
    """
    for dtype in (torch.float32, torch.float64):
        ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        require(ends == [1.0, 0.0], f"alpha must be exactly 1 at t = 0 and 0 at t = 1, got {ends} in {dtype}.")
        masked = schedule.mask_probability(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        require(
            masked == [0.0, 1.0],
            f"mask_probability must be exactly 0 at t = 0 and 1 at t = 1, got {masked} in {dtype}.",
        )
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:-1]
    alpha = schedule.alpha(t)
    require(bool((alpha.diff() <= 0).all()), "alpha must decrease with t.")
    leaf = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(leaf).sum(), leaf)
    require_close(schedule.alpha_dot(t), slope, 1e-6, "alpha_dot must be the derivative of alpha")
    values = torch.linspace(0, 1, 101, dtype=torch.float64)
    require_close(schedule.alpha(schedule.inverse(values)), values, 1e-6, "alpha(inverse(a)) must be a")
    masked = schedule.mask_probability(t)
    require_close(masked, 1 - alpha, 1e-9, "mask_probability must be 1 - alpha")
    round_trip = schedule.mask_probability(schedule.time_of(values))
    require_close(round_trip, values, 1e-6, "mask_probability(time_of(p)) must be p")
    small = torch.logspace(-6, -2, 30, dtype=torch.float64).float()
    ratio = schedule.mask_probability(small).double() / schedule.mask_probability(small.double())
    require_close(
        ratio,
        torch.ones_like(ratio),
        1e-5,
        "mask_probability must keep its digits in float32 near t = 0, where 1 - alpha cancels; compute it "
        "directly or in float64; its ratio to the float64 value is not 1",
    )
    weight = schedule.weight(t)
    require(bool((weight > 0).all()), "weight must be positive for 0 < t < 1.")
    expected = -schedule.alpha_dot(t) / masked
    require_close(
        weight / expected, torch.ones_like(t), 1e-6, "weight must be -alpha_dot / mask_probability; the ratio"
    )


def check_prior(prior: LatentPrior, vocab_size: int, num_tokens: int, *, condition: Tensor | None = None) -> None:
    """Check a prior: shapes, finite samples and densities, rows apart, padding hidden, gradients, copies, plates.

    That the density is the one drawn from is checked as :func:`~vadd.testing.density.check_density` says.

    Args:
        prior: the prior; one that shares a denoiser or a recognition network has it attached.
        vocab_size: number of clean tokens ``V``.
        num_tokens: length of the sequences to try.
        condition: labels for three sequences, if the prior needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    prior = perturbed(prior)
    x_t, t = some_tokens(prior, vocab_size + 1, num_tokens), some_times(prior)
    options = {} if condition is None else {"condition": condition}
    distribution = prior(x_t, t, **options)
    check_distribution("the prior", distribution, prior.latent_shape)
    with seeded(0, x_t.device):
        z = distribution.sample()
    require_shape("a sample of the prior", z, (BATCH, *prior.latent_shape))
    require(z.is_floating_point(), f"samples of the prior must be floating-point, not {z.dtype}.")
    require(bool(z.isfinite().all()), "samples of the prior must be finite.")
    log_prob = distribution.log_prob(z)
    require_shape("log_prob of the prior", log_prob, (BATCH,))
    require(bool(log_prob.isfinite().all()), "log_prob of the prior must be finite at its own samples.")
    check_plates(distribution, z)
    is_one_hot = bool((((z == 0) | (z == 1)).all(-1) & (z.sum(-1) == 1)).all())
    if z.numel() and (is_one_hot or not distribution.has_enumerate_support):  # other discrete values have no density
        check_density("the prior", distribution, z.device)

    def score(rows: slice, x_t: Tensor = x_t, **more: Tensor) -> Tensor:
        return prior(x_t[rows], t[rows], **rows_of(options, rows), **more).log_prob(z[rows])

    every = slice(None)
    for name, tokens in (("all", torch.full_like(x_t, vocab_size)), ("nothing", x_t % vocab_size)):
        require(bool(score(every, tokens).isfinite().all()), f"log_prob must be finite when {name} is masked.")
    check_rows("the prior", score)
    if accepts_padding(prior):
        is_padding = some_padding(x_t)
        other = torch.where(is_padding, (x_t + 1) % (vocab_size + 1), x_t)
        padded = score(every, is_padding=is_padding)
        require(
            bool(padded.isfinite().all()), "log_prob must be finite even for a row that is all padding (the first)."
        )
        require_same(
            padded[1:],
            score(every, other, is_padding=is_padding)[1:],
            "the prior must not read tokens where is_padding is set",
        )
    if any(p.requires_grad for p in prior.parameters()):
        check_gradients("the prior", prior, score(every).sum())
    _check_latent_gradient(distribution, z)
    try:
        copy.deepcopy(prior)
    except RuntimeError as error:
        raise AssertionError(
            f"the prior must be copyable after a call, as averaged weights need: {error} Keep no results of a call "
            "in the module; transforms with a cache do."
        ) from error


def _check_latent_gradient(distribution: Distribution, z: Tensor) -> None:
    """The guide is trained through its draw, which the prior scores."""
    if not z.numel() or distribution.support.is_discrete or distribution.has_enumerate_support:
        return
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distribution.log_prob(leaf).sum(), leaf, allow_unused=True)
    require(
        gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()),
        "log_prob of the prior must pass finite gradients to the latent, by which the guide is trained.",
    )
