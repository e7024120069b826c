"""Training objectives for a fresh latent at each step, against enumeration.

The mean of many independent rows is compared with the exact value. Threshold 7 standard errors (rows are
stratified, which makes the true error smaller): false alarms below 1e-10 for each comparison by the normal
approximation, below 1e-6 for the file. Each asserts its power: an error of five per cent of the value
is caught with probability 0.999.
"""

import jaxtyping
import pyro
import pytest
import torch

from vadd import ContinuousTimeELBO, FiniteStepELBO, RecognitionGuide
from vadd.backbones.base import Recognition
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import log_likelihood_bound
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing import exact_finite_step_bound, exact_log_likelihood, tiny_model
from vadd.testing.oracle import all_sequences

from ..evaluation.enumerated import Pinned, guide_for, value_of

THRESHOLD, POWER_MARGIN, EFFECT = 7.0, 3.1, 0.05
COPIES = 6000
UNEVEN = torch.tensor([1.0, 0.7, 0.1, 0.0])
X_0 = all_sequences(2, 2)


pytestmark = pytest.mark.usefixtures("_double")


def make_pair(schedule=None, latent_dim=1, explains="masked", tokens=2):
    model = tiny_model(2, tokens, schedule=schedule, latent_dim=latent_dim, scale=1.5, time_scale=1.0, seed=3)
    return model, guide_for(model, explains=explains, seed=4)


def mean_terms(elbo, model, guide, x_0=X_0, copies=COPIES, repeats=12, **flags):
    """Mean over copies and repetitions, one value a copy."""
    flags = {name: value.repeat(copies, 1) for name, value in flags.items()}
    torch.manual_seed(1)
    with torch.no_grad():
        runs = [elbo.terms(model, guide, x_0.repeat(copies, 1), **flags).total for _ in range(repeats)]
    return -torch.stack(runs).mean(0).reshape(copies, -1)


def check_mean(draws, expected):
    weights = torch.linspace(0.5, 1.5, draws.shape[1]) / draws.shape[1]
    pooled, exact = draws @ weights, expected @ weights
    error = pooled.std() / len(pooled) ** 0.5
    assert (THRESHOLD + POWER_MARGIN) * error < EFFECT * abs(exact), "too few draws for the stated power"
    assert abs(pooled.mean() - exact) < THRESHOLD * error + 1e-9


CASES = [
    (LinearSchedule(), {"num_steps": 1}),
    (CosineSchedule(), {"num_steps": 2}),
    (PolynomialSchedule(2.0), {"num_steps": 3, "time_grid": UNEVEN}),
    (GeometricSchedule(0.05, 5.0), {"num_steps": 4, "time_grid": cosine_grid}),
]


@pytest.mark.parametrize(("schedule", "options"), CASES)
@pytest.mark.parametrize("target", ["masked", "revealed"])
def test_the_mean_is_the_enumerated_bound(schedule, options, target):
    model, guide = make_pair(schedule, explains=target)
    expected = exact_finite_step_bound(model, guide, X_0, target=target, **options)
    draws = mean_terms(FiniteStepELBO(model.process, target=target, **options), model, guide)
    check_mean(draws, expected)
    exact = exact_log_likelihood(model, X_0, **options)
    error = draws.std(0) / COPIES**0.5
    assert (draws.mean(0) < exact + THRESHOLD * error + 1e-9).all()


@pytest.mark.parametrize("target", ["masked", "revealed"])
def test_without_a_latent_it_is_masked_diffusion_on_the_grid(target):
    model, guide = make_pair(CosineSchedule(), latent_dim=0, explains=target)
    options = {"num_steps": 3, "time_grid": UNEVEN}
    expected = value_of(model, guide, X_0, "finite-step", **options)
    check_mean(mean_terms(FiniteStepELBO(model.process, target=target, **options), model, guide), expected)
    one_step = mean_terms(FiniteStepELBO(model.process, 1, target=target), model, guide, copies=2)
    torch.testing.assert_close(one_step, exact_log_likelihood(model, X_0, num_steps=1).expand(2, -1))


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_mean_of_infinitely_many_steps(schedule, latent_dim):
    model, guide = make_pair(schedule, latent_dim, tokens=3)
    x_0 = all_sequences(2, 3)
    expected = value_of(model, guide, x_0, "continuous")
    check_mean(mean_terms(ContinuousTimeELBO(model.process), model, guide, x_0, copies=3000), expected)


@pytest.mark.parametrize("target", ["masked", "revealed", "continuous"])
def test_frozen_tokens_and_padding_are_conditioned_on(target):
    explains = "masked" if target == "continuous" else target
    model, guide = make_pair(CosineSchedule(), tokens=4, explains=explains)
    is_frozen, is_padding = torch.tensor([False, True, False, False]), torch.tensor([False, False, False, True])
    alone = Pinned(model, guide, torch.tensor([0, 1, 0, 1]), is_frozen, is_padding)
    x_0 = alone.fill(X_0)
    if target == "continuous":
        elbo, expected = ContinuousTimeELBO(model.process), value_of(alone.pinned, alone.guide, X_0, "continuous")
    else:
        elbo = FiniteStepELBO(model.process, 2, target=target)
        expected = exact_finite_step_bound(alone.pinned, alone.guide, X_0, num_steps=2, target=target)
    flags = {"is_frozen": is_frozen.expand(x_0.shape), "is_padding": is_padding.expand(x_0.shape)}
    check_mean(mean_terms(elbo, model, guide, x_0, **flags), expected)
    nothing_free = {"is_frozen": torch.ones_like(flags["is_frozen"])}
    terms = elbo.terms(model, guide, x_0, **nothing_free)
    assert (terms.total == 0).all()


class Recorded(Recognition):
    """Keeps what it may read."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.latent_shape = inner, inner.latent_shape

    def forward(self, tokens, target, t, **options):
        self.tokens, self.target = tokens, target
        return self.inner(tokens, target, t, **options)


@pytest.mark.parametrize("target", ["masked", "revealed"])
def test_rows_that_reveal_nothing_cost_nothing_and_hidden_tokens_stay_hidden(target):
    model, guide = make_pair(explains=target)
    recorded = Recorded(guide.recognition)
    elbo = FiniteStepELBO(model.process, 3, target=target)
    x_0 = X_0.repeat(100, 1)
    terms = elbo.terms(model, RecognitionGuide(recorded, explains=target), x_0)
    nothing = ~recorded.target.any(-1)
    assert 20 < nothing.sum() < 380
    assert (terms.reconstruction[nothing] == 0).all()
    assert (terms.kl[nothing] == 0).all()
    assert (terms.kl[~nothing] > 0).all()
    is_hidden = recorded.tokens == 2
    assert is_hidden.any() == (target == "revealed")
    assert not (is_hidden & recorded.target).any()
    assert torch.equal(recorded.tokens[~is_hidden], x_0[~is_hidden])


def test_loss_gradient_and_evaluation_agree():
    """The loss that is trained is the mean of the terms, and the bound that is reported for the same pair."""
    model, guide = make_pair(CosineSchedule())
    elbo = FiniteStepELBO(model.process, 2, generator=torch.Generator())
    values = []
    for compute in (
        lambda: elbo.terms(model, guide, X_0).total.mean(),
        lambda: elbo(model, guide)(X_0),
        lambda: elbo.differentiable_loss(model, guide, X_0),
        lambda: torch.as_tensor(elbo.loss(model, guide, X_0)),
    ):
        pyro.set_rng_seed(5)
        elbo.generator.manual_seed(5)
        values.append(compute())
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])
    values[1].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*model.parameters(), *guide.parameters()))
    draws = mean_terms(elbo, model, guide)
    reported = log_likelihood_bound(
        model, guide, X_0.repeat(COPIES, 1), bound="finite-step", num_steps=2, rows_per_call=8192
    )
    other = -reported.nats_per_sequence.reshape(COPIES, -1).mean(1)
    error = (draws.mean(1).var() / COPIES + other.var() / COPIES) ** 0.5
    assert abs(draws.mean() - other.mean()) < THRESHOLD * error


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 0}, DomainError, "num_steps"),
        ({"num_steps": True}, DomainError, "num_steps"),
        ({"num_steps": 2, "time_grid": torch.tensor([1.0, 0.0])}, ConfigError, "time_grid"),
        ({"num_steps": 2, "time_grid": torch.tensor([1.0, 0.5, 0.1])}, DomainError, "time_grid"),
        ({"num_steps": 2, "target": "hidden"}, ConfigError, "target"),
        ({"num_steps": 2, "kl_weight": -1.0}, DomainError, "kl_weight"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    model, _ = make_pair()
    with pytest.raises((error, jaxtyping.TypeCheckError), match=message):
        FiniteStepELBO(model.process, **options)


@pytest.mark.parametrize("target", ["masked", "revealed"])
def test_a_guide_that_explains_something_else_is_refused(target):
    model, guide = make_pair(explains="masked" if target == "revealed" else "revealed")
    elbo = FiniteStepELBO(model.process, 2, target=target)
    for run in (elbo.terms, elbo.loss):
        with pytest.raises(ConfigError, match="explains"):
            run(model, guide, X_0)


def test_objectives_say_what_they_bound():
    assert "fresh latent at each step" in FiniteStepELBO.bounds
    assert "infinitely many steps" in ContinuousTimeELBO.bounds
