"""Bounds and samplers with every prior, against enumeration on sequences of two tokens.

Latents have one or two components and are integrated on a grid, or two groups of three and are summed over.
"""

import pytest
import torch
from scipy import stats

from vadd import MaskingProcess, VADDModel
from vadd.evaluation import log_likelihood_bound
from vadd.priors import CategoricalPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing import (
    all_sequences,
    exact_finite_step_bound,
    exact_log_likelihood,
    exact_sampler_distribution,
    exact_shared_bound,
)

from .parts import READS_TOKENS, TINY, perturb, tiny_pair

X_0 = all_sequences(2, 2)
COPIES, THRESHOLD = 500, 7.0  # a deviation of seven standard errors is a false alarm below 1e-11


def accuracy(name):
    """Of the quadrature: see ``vadd.testing.nodes``."""
    return 1e-4 if name in ("flow", "flow of one component", "zuko") else 1e-6


@pytest.mark.parametrize("explains", ["masked", "revealed"])
@pytest.mark.parametrize("name", TINY)
def test_the_finite_step_bound_never_exceeds_the_likelihood(name, explains):
    for seed, num_steps in ((0, 1), (1, 2), (2, 3)):
        model, guide = tiny_pair(name, scale=1.5, seed=seed, explains=explains)
        bound = exact_finite_step_bound(model, guide, X_0, num_steps=num_steps, target=explains)
        exact = exact_log_likelihood(model, X_0, num_steps=num_steps)
        assert (bound <= exact + accuracy(name)).all()
        assert float(exact.exp().sum()) == pytest.approx(1, abs=accuracy(name))


@pytest.mark.parametrize("name", TINY)
def test_the_shared_latent_bound_never_exceeds_the_likelihood(name):
    for seed, num_steps in ((0, 1), (1, 2)):
        model, guide = tiny_pair(name, scale=1.5, seed=seed)
        bound = exact_shared_bound(model, guide, X_0, num_steps=num_steps)
        exact = exact_log_likelihood(model, X_0, num_steps=num_steps, latents="shared")
        assert (bound <= exact + accuracy(name)).all()


def estimates(model, guide, copies=COPIES, **options):
    result = log_likelihood_bound(model, guide, X_0.repeat(copies, 1), rows_per_call=16_384, **options)
    return -result.nats_per_sequence.reshape(copies, -1)


def assert_mean(draws, expected, slack):
    """The mean of each sequence, and of all; an error of a tenth of the latter is caught with probability 0.999."""
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() < THRESHOLD * error + slack).all()
    pooled = draws.mean(1)
    error = pooled.std() / len(draws) ** 0.5
    assert (pooled.mean() - expected.mean()).abs() < THRESHOLD * error + slack
    assert (THRESHOLD + 3.1) * error < 0.1 * expected.mean().abs(), "too few draws for the stated power"


@pytest.mark.parametrize("name", TINY)
def test_estimates_have_the_enumerated_mean(name):
    """One guide draw: the KL, analytic or estimated, is charged rightly."""
    model, guide = tiny_pair(name, scale=1.5)
    expected = exact_finite_step_bound(model, guide, X_0, num_steps=2)
    draws = estimates(model, guide, 6 * COPIES, bound="finite-step", num_steps=2)
    assert_mean(draws, expected, accuracy(name))
    expected = exact_shared_bound(model, guide, X_0, num_steps=2)
    draws = estimates(model, guide, 6 * COPIES, bound="shared-latent", num_steps=2)
    assert_mean(draws, expected, accuracy(name))


@pytest.mark.parametrize(
    ("name", "proposal"),
    [(name, "mixture") for name in TINY]
    + [(n, p) for n in ("trunk", "flow", "categorical") for p in ("guide", "prior")],
)
def test_more_latents_tighten_the_bound_and_never_pass_the_likelihood(name, proposal):
    """With 1, or 2, and 32 draws inside the logarithm: prior and guide are weighed by their own densities."""
    model, guide = tiny_pair(name, scale=1.5)
    exact = exact_log_likelihood(model, X_0, num_steps=1)
    options = {"bound": "finite-step", "num_steps": 1, "proposal": proposal}
    few = estimates(model, guide, num_latents=2, **options)
    many = estimates(model, guide, num_latents=32, **options)
    error = many.std(0) / COPIES**0.5
    assert (many.mean(0) <= exact + THRESHOLD * error + accuracy(name)).all()
    assert (many.mean(0) >= few.mean(0) - THRESHOLD * (error + few.std(0) / COPIES**0.5)).all()
    # The gap of 32 draws is below 0.25 where the proposal covers the prior; a density too small leaves one.
    if proposal != "guide":
        assert (exact - many.mean(0) < 0.4).all()


@pytest.mark.parametrize("name", [*READS_TOKENS, "mixture", "vamp categorical"])
@pytest.mark.parametrize("latents", ["fresh", "shared"])
def test_drawn_sequences_follow_the_enumerated_law(name, latents):
    """Chi-square over nine sequences, 20,000 draws, false-alarm rate 1e-7 each.

    Power: with a fresh latent at each step, the law of the model with the prior's start in its place (the standard
    normal, the uniform one) would be told apart with probability above 0.999.
    """
    model, _ = tiny_pair(name, vocab=3, scale=2.0, seed=3)
    perturb(model.prior, 0.8, seed=9)
    options = {"num_steps": 2, "latents": latents}
    expected = exact_sampler_distribution(model, 2, **options)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-6)
    threshold = stats.chi2.isf(1e-7, 8)
    drawn = model.sample(20_000, generator=torch.Generator().manual_seed(0), **options)
    counts = torch.bincount((drawn * torch.tensor([3, 1])).sum(-1), minlength=9)
    assert float(((counts - 20_000 * expected) ** 2 / (20_000 * expected)).sum()) < threshold
    if latents == "fresh":
        start = CategoricalPrior((2, 3)) if "categorical" in name else StandardNormalPrior(2)
        other = VADDModel(model.denoiser, start.double(), MaskingProcess(LinearSchedule(), 3))
        wrong = exact_sampler_distribution(other, 2, **options)
        distance = float((20_000 * (wrong - expected) ** 2 / expected).sum())
        assert stats.ncx2.sf(threshold, 8, distance) > 0.999
