"""The relaxed one-hot distribution is discrete but for its draws' gradients."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from vadd.distributions import GumbelOneHot

BATCH, CATEGORIES = 3, 4
NUM = 40_000


def logits():
    return torch.randn(BATCH, CATEGORIES, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_hard_draws_follow_the_discrete_law_at_every_temperature(temperature):
    r = GumbelOneHot(logits(), temperature)
    z = r.rsample((NUM,))
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(-1) == 1).all()
    # 12 frequencies, each within 5 of its largest standard errors: false alarms below 1e-5.
    assert (z.mean(0) - r.probs).abs().max() < 5 * 0.5 / NUM**0.5


def test_relaxed_draws_are_rows_of_the_simplex_whose_largest_entry_follows_the_law():
    r = GumbelOneHot(logits(), 0.7, is_hard=False)
    z = r.rsample((NUM,))
    torch.testing.assert_close(z.sum(-1), torch.ones(NUM, BATCH, dtype=torch.float64))
    assert ((z > 0) & (z < 1)).any()
    largest = torch.nn.functional.one_hot(z.argmax(-1), CATEGORIES).double().mean(0)
    assert (largest - r.probs).abs().max() < 5 * 0.5 / NUM**0.5


@pytest.mark.parametrize("is_hard", [True, False])
def test_the_gradient_is_that_of_the_relaxed_draw(is_hard):
    x, weights = logits().requires_grad_(), torch.randn(BATCH, CATEGORIES, dtype=torch.float64)
    torch.manual_seed(1)
    z = GumbelOneHot(x, 0.5, is_hard=is_hard).rsample()
    (gradient,) = torch.autograd.grad((weights * z).sum(), x)
    torch.manual_seed(1)
    noise = -torch.empty_like(x).exponential_().log()
    relaxed = ((x.log_softmax(-1) + noise) / 0.5).softmax(-1)
    (expected,) = torch.autograd.grad((weights * relaxed).sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().min() > 0


def test_density_entropy_and_plain_draws_are_discrete():
    x = logits()
    r, discrete = GumbelOneHot(x, 0.5, is_hard=False), dist.OneHotCategorical(logits=x)
    z = r.sample((10,))
    assert ((z == 0) | (z == 1)).all()
    torch.testing.assert_close(r.log_prob(z), discrete.log_prob(z))
    torch.testing.assert_close(r.entropy(), discrete.entropy())


@pytest.mark.parametrize("make", [lambda x: GumbelOneHot(x, 0.5), lambda x: dist.OneHotCategoricalStraightThrough(x)])
def test_the_divergence_of_rows_is_discrete_also_in_a_plate_of_particles(make):
    x, y = (torch.randn(BATCH, 2, CATEGORIES, dtype=torch.float64).softmax(-1) for _ in range(2))
    r = make(x.log() if "Gumbel" in type(make(x)).__name__ else x).to_event(1)
    p = dist.OneHotCategorical(probs=y).to_event(1)
    expected = (x * (x / y).log()).sum((-1, -2))
    torch.testing.assert_close(kl_divergence(r, p), expected)
    wide = kl_divergence(r.expand((5, BATCH)), p.expand((5, BATCH)))
    torch.testing.assert_close(wide, expected.expand(5, -1))
    assert r.expand((5, BATCH)).rsample().shape == (5, BATCH, 2, CATEGORIES)


def test_an_expanded_distribution_keeps_its_temperature_and_hardness():
    wide = GumbelOneHot(logits(), 0.3, is_hard=False).expand((2, BATCH))
    assert (type(wide), wide.temperature, wide.is_hard) == (GumbelOneHot, 0.3, False)


def test_a_waiting_time_of_zero_is_no_nan(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", torch.Tensor.zero_)
    assert GumbelOneHot(logits(), 0.5).rsample().isfinite().all()
