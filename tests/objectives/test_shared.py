"""The training objective for one latent a trajectory, against enumeration; see ``test_finite_step.py``."""

import pytest
import torch

from vadd import RecognitionGuide, SharedLatentELBO
from vadd.errors import ConfigError, DomainError
from vadd.priors import LatentPrior
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing import exact_log_likelihood, exact_shared_bound, tiny_model

from ..evaluation.enumerated import Pinned, infinite_log_likelihood
from .test_finite_step import (
    COPIES,
    THRESHOLD,
    UNEVEN,
    X_0,
    Recorded,
    check_mean,
    make_pair,
    mean_terms,
)

pytestmark = pytest.mark.usefixtures("_double")

CASES = [
    (LinearSchedule(), {"num_steps": 1}),
    (CosineSchedule(), {"num_steps": 2}),
    (PolynomialSchedule(2.0), {"num_steps": 3, "time_grid": UNEVEN}),
    (GeometricSchedule(0.05, 5.0), {"num_steps": 4, "time_grid": cosine_grid}),
    (LinearSchedule(), {"num_steps": None}),
    (CosineSchedule(), {"num_steps": None}),
]


@pytest.mark.parametrize(("schedule", "options"), CASES)
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_mean_is_the_enumerated_bound(schedule, options, latent_dim):
    model, guide = make_pair(schedule, latent_dim)
    expected = exact_shared_bound(model, guide, X_0, num_times=40, **options)
    draws = mean_terms(SharedLatentELBO(model.process, **options), model, guide)
    check_mean(draws, expected)
    if options["num_steps"] is not None:
        exact = exact_log_likelihood(model, X_0, latents="shared", **options)
        assert (draws.mean(0) < exact + THRESHOLD * draws.std(0) / COPIES**0.5 + 1e-9).all()


def test_weights_of_infinitely_many_steps_bound_their_own_sampler_only():
    """With tokens that depend on each other strongly, they exceed the likelihood of one step."""
    model = tiny_model(2, 2, latent_dim=0, scale=2.5, seed=3)
    _, guide = make_pair(latent_dim=0)
    draws = mean_terms(SharedLatentELBO(model.process), model, guide)
    error = draws.std(0) / COPIES**0.5
    assert (draws.mean(0) < infinite_log_likelihood(model, X_0, "shared") + THRESHOLD * error).all()
    one_step = exact_log_likelihood(model, X_0, num_steps=1, latents="shared")
    assert (draws.mean(0) > one_step + THRESHOLD * error).any()


@pytest.mark.parametrize("num_steps", [2, None])
def test_frozen_tokens_and_padding_are_conditioned_on(num_steps):
    model, guide = make_pair(CosineSchedule(), tokens=4)
    is_frozen, is_padding = torch.tensor([False, True, False, False]), torch.tensor([False, False, False, True])
    alone = Pinned(model, guide, torch.tensor([0, 1, 0, 1]), is_frozen, is_padding)
    x_0 = alone.fill(X_0)
    elbo = SharedLatentELBO(model.process, num_steps)
    expected = exact_shared_bound(alone.pinned, alone.guide, X_0, num_steps=num_steps, num_times=40)
    flags = {"is_frozen": is_frozen.expand(x_0.shape), "is_padding": is_padding.expand(x_0.shape)}
    check_mean(mean_terms(elbo, model, guide, x_0, **flags), expected)
    terms = elbo.terms(model, guide, x_0, is_frozen=torch.ones_like(flags["is_frozen"]))
    assert (terms.total == 0).all()


class WatchedPrior(LatentPrior):
    """Keeps what it reads."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.latent_shape = inner, inner.latent_shape

    def forward(self, x_t, t, **options):
        self.x_t, self.t = x_t, t
        return self.inner(x_t, t, **options)


@pytest.mark.parametrize("num_steps", [3, None])
def test_prior_and_guide_see_the_start_and_the_kl_is_paid_once(num_steps):
    model, guide = make_pair()
    recorded, watched = Recorded(guide.recognition), WatchedPrior(model.prior)
    model = type(model)(model.denoiser, watched, model.process)
    x_0 = X_0.repeat(50, 1)
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[::2, 0] = True
    terms = SharedLatentELBO(model.process, num_steps).terms(
        model, RecognitionGuide(recorded), x_0, is_frozen=is_frozen
    )
    start = torch.where(is_frozen, x_0, 2)
    assert torch.equal(watched.x_t, start)
    assert (watched.t == 1).all()
    assert torch.equal(recorded.tokens, x_0)
    assert torch.equal(recorded.target, ~is_frozen)
    ones = torch.ones(len(x_0))
    kl = torch.distributions.kl_divergence(guide.recognition(x_0, ~is_frozen, ones), model.prior(start, ones))
    torch.testing.assert_close(terms.kl, kl)


def test_bad_options_are_refused():
    model, _ = make_pair()
    with pytest.raises(ConfigError, match="time_grid"):
        SharedLatentELBO(model.process, time_grid=UNEVEN)
    with pytest.raises(DomainError, match="num_steps"):
        SharedLatentELBO(model.process, 0)
    assert "one latent a trajectory" in SharedLatentELBO.bounds
