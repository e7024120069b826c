"""The DELBO against enumeration of all masks, with quadrature over a one-dimensional latent.

The statistical tests compare the mean of ``REPEATS`` independent batches with the exact value. Each is a
t-test whose threshold of 6.5 standard errors, with ``REPEATS - 1 = 59`` degrees of freedom, raises a
false alarm with probability 2e-8, so that all comparisons of this file together stay below 1e-6. Each asserts its
power: an error of ten per cent of the value exceeds the threshold by 3.3 standard errors, and so is
caught with probability 0.999.
"""

import itertools
import math

import pytest
import torch

from vadd import DELBO, RecognitionGuide
from vadd.backbones import EmptyRecognition
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing.oracle import all_masks, all_sequences, distribution_nodes, exact_delbo
from vadd.testing.tiny import TabularRecognition, tiny_model

VOCAB, LENGTH = 2, 3
REPEATS, COPIES = 60, 100
THRESHOLD, POWER_MARGIN = 6.5, 3.3
CUT = 1e-2  # a uniform time has no finite variance without a cut near t = 0

SCHEDULES = [LinearSchedule(), CosineSchedule(), PolynomialSchedule(2.0), GeometricSchedule(1e-2, 10.0)]
X_0 = all_sequences(VOCAB, LENGTH)


@pytest.fixture(autouse=True)
def _seed(_double):
    torch.manual_seed(7)


def make_pair(schedule=None, latent_dim=1):
    model = tiny_model(VOCAB, LENGTH, schedule=schedule, latent_dim=latent_dim, seed=3)
    recognition = TabularRecognition(VOCAB, LENGTH, scale=1.2, seed=4) if latent_dim else EmptyRecognition()
    return model, RecognitionGuide(recognition)


@torch.no_grad()
def terms_of_mask(model, guide, is_masked):
    """Reconstruction and KL of each sequence with one set of masked positions, unweighted."""
    is_masked = is_masked.expand(X_0.shape)
    x_t = torch.where(is_masked, VOCAB, X_0)
    t = torch.full((len(X_0),), 0.5)
    posterior = guide.recognition(X_0, is_masked, t)
    z, log_weights = distribution_nodes(posterior)
    reconstruction = -(log_weights.exp() * model.denoise(x_t, t, z).log_prob(X_0)).sum(0)
    loc, scale = posterior.base_dist.loc, posterior.base_dist.scale
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
    return reconstruction, kl


def incomplete_beta(n, low):
    """Integral over ``m`` from ``low`` to 1 of ``m**(n-1) (1-m)**(N-n)``."""
    return sum(math.comb(LENGTH - n, k) * (-1) ** k * (1 - low ** (n + k)) / (n + k) for k in range(LENGTH - n + 1))


def enumerated(model, guide, kl_weight=1.0, low=0.0):
    """The loss of each sequence from ``1 - alpha_t = low`` on, written out: a sum over sets of positions."""
    total = torch.zeros(len(X_0))
    for is_masked in all_masks(LENGTH)[1:]:
        reconstruction, kl = terms_of_mask(model, guide, is_masked)
        total += incomplete_beta(int(is_masked.sum()), low) * (reconstruction + kl_weight * kl)
    return total


class _Recording(DELBO):
    """Keeps the latest corrupted batch."""

    def corrupt(self, x_0, **options):
        self.batch = super().corrupt(x_0, **options)
        return self.batch


def assert_mean(values, expected):
    """Compare the mean of independent values with the exact one; see the head of this file."""
    error = values.std() / len(values) ** 0.5
    assert (THRESHOLD + POWER_MARGIN) * error < 0.1 * abs(expected), "too few draws for the stated power"
    assert abs(values.mean() - expected) < THRESHOLD * error


def test_the_oracle_agrees_with_the_sum_written_out():
    model, guide = make_pair(CosineSchedule())
    for kl_weight in (0.0, 0.3, 1.0):
        expected = -exact_delbo(model, guide, X_0, kl_weight=kl_weight)
        torch.testing.assert_close(enumerated(model, guide, kl_weight), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("latent_dim", [1, 0])
def test_mean_loss_by_count_is_the_enumerated_one(schedule, latent_dim):
    model, guide = make_pair(schedule, latent_dim)
    elbo = DELBO(model.process, kl_weight=0.3)
    loss_fn = elbo(model, guide)
    x_0 = X_0.repeat(COPIES, 1)
    with torch.no_grad():
        values = torch.stack([loss_fn(x_0[torch.randperm(len(x_0))]) for _ in range(REPEATS)])
    expected = -exact_delbo(model, guide, X_0, kl_weight=0.3).mean() if latent_dim else mdm_loss(model)
    assert_mean(values, expected)


def mdm_loss(model):
    total = 0.0
    for is_masked in all_masks(LENGTH)[1:]:
        x_t = torch.where(is_masked, VOCAB, X_0)
        scores = model.denoise(x_t, torch.full((len(X_0),), 0.5), torch.zeros(len(X_0), 0)).log_prob(X_0)
        total = total - incomplete_beta(int(is_masked.sum()), 0.0) * scores.mean().detach()
    return total


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mean_loss_at_uniform_times_is_the_same_for_every_schedule(schedule):
    """Rows with ``1 - alpha_t`` below the cut are left out, on both sides of the comparison."""
    model, guide = make_pair(schedule)
    elbo = _Recording(model.process, times="uniform")
    x_0 = X_0.repeat(3 * COPIES, 1)
    values = []
    with torch.no_grad():
        for _ in range(REPEATS):
            terms = elbo.terms(model, guide, x_0[torch.randperm(len(x_0))])
            is_kept = schedule.mask_probability(elbo.batch.t) > CUT
            values.append((terms.total * is_kept).mean())
    invariant, _ = make_pair(LinearSchedule())
    assert_mean(torch.stack(values), enumerated(invariant, guide, low=CUT).mean())


@pytest.mark.parametrize("times", ["count", "uniform"])
def test_each_masked_set_has_its_enumerated_terms(times):
    """The KL is exact in every row; the reconstruction in the mean over latents, for each set and sequence.

    56 means of over 500 draws each, of bounded values; threshold 6.5, family-wise false-alarm rate
    below 1e-7 by the normal approximation.
    """
    model, guide = make_pair()
    elbo = _Recording(model.process, times=times)
    x_0 = X_0.repeat(40_000, 1)
    with torch.no_grad():
        terms = elbo.terms(model, guide, x_0)
        weights = elbo.weigh(elbo.batch)
    sequence = torch.arange(len(X_0)).repeat(40_000)
    for is_masked in all_masks(LENGTH)[1:]:
        reconstruction, kl = terms_of_mask(model, guide, is_masked)
        has_set = (elbo.batch.is_masked == is_masked).all(-1)
        for k in range(len(X_0)):
            rows = has_set & (sequence == k)
            assert rows.sum() > 500
            torch.testing.assert_close(terms.kl[rows], weights.latent[rows] * kl[k], rtol=1e-9, atol=1e-12)
            draws = terms.reconstruction[rows] / weights.likelihood[rows]
            error = draws.std() / len(draws) ** 0.5
            assert 9.6 * error < 0.2 * reconstruction[k].clamp(min=1.0)  # a fifth, or 0.2 nats, is caught
            assert abs(draws.mean() - reconstruction[k]) < 6.5 * error + 1e-12


def test_the_enumerated_loss_differs_between_kl_weights():
    """What the statistical tests compare is not insensitive to what they vary."""
    model, guide = make_pair()
    losses = [float(enumerated(model, guide, w).mean()) for w in (0.0, 0.3, 1.0)]
    for a, b in itertools.pairwise(losses):
        assert b > 1.1 * a
