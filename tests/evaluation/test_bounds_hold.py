"""Expected values of every estimator that claims a bound, against the likelihood of the sampler that it names.

All by enumeration, so there is no noise. That the estimators have these expected values is checked in
``test_unbiased.py``, on the same enumeration.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vadd import RecognitionGuide
from vadd.backbones import EmptyRecognition
from vadd.errors import VADDError
from vadd.evaluation import log_likelihood_bound
from vadd.samplers import cosine_grid
from vadd.testing import all_sequences, exact_log_likelihood, exact_marginal_bound, tiny_model
from vadd.testing.strategies import schedules

from .enumerated import (
    ATOMS,
    exact_log_likelihood_of,
    finite_step_value,
    guide_for,
    infinite_log_likelihood,
    sequences_of,
    shared_value,
    value_of,
)

SLACK = 1e-9
SEEDS = st.integers(0, 2**20)
EXPLAINS = st.sampled_from(["masked", "revealed"])
PROPOSALS = ["guide", "prior", "mixture"]


@st.composite
def atom_models(draw, *, max_tokens=3, reads_time=True):
    tokens = draw(st.integers(2, max_tokens))
    return tiny_model(
        draw(st.integers(2, 4 if tokens == 2 else 2)),
        tokens,
        atoms=ATOMS[: draw(st.integers(2, 3))],
        schedule=draw(schedules()),
        is_conditional=draw(st.booleans()),
        scale=draw(st.floats(0.2, 3.0)),
        time_scale=draw(st.sampled_from([0.0, 1.0])) if reads_time else 0.0,
        seed=draw(SEEDS),
    )


def assert_below(lower, upper):
    assert (lower <= upper + SLACK).all(), f"above by {(lower - upper).max():.3g}"


@settings(max_examples=25)
@given(atom_models(), st.integers(1, 3), EXPLAINS, st.sampled_from(PROPOSALS), SEEDS, st.booleans())
def test_finite_step_never_exceeds_its_sampler_and_grows_with_k(model, steps, explains, proposal, seed, is_cosine):
    guide, x_0 = guide_for(model, explains=explains, seed=seed, scale=2.0), sequences_of(model)
    grid = cosine_grid if is_cosine else None
    values = [
        finite_step_value(model, guide, x_0, steps, grid, num_latents=k, proposal=proposal)
        for k in ([2, 4] if proposal == "mixture" and len(model.prior.atoms) == 2 else [1, 2, 3])
        if proposal != "mixture" or k % 2 == 0
    ]
    for fewer, more in zip(values, values[1:], strict=False):
        assert_below(fewer, more)
    assert_below(values[-1], exact_log_likelihood(model, x_0, num_steps=steps, time_grid=grid))


@settings(max_examples=40)
@given(atom_models(max_tokens=2), st.sampled_from([1, 2]), st.sampled_from(PROPOSALS), SEEDS)
def test_shared_latent_never_exceeds_its_sampler_and_grows_with_k(model, steps, proposal, seed):
    guide, x_0 = guide_for(model, seed=seed, scale=2.0), sequences_of(model)
    values = [
        shared_value(model, guide, x_0, steps, num_latents=k, proposal=proposal)
        for k in ([2] if proposal == "mixture" else [1, 2, 3] if steps == 1 else [1, 2])
    ]
    for fewer, more in zip(values, values[1:], strict=False):
        assert_below(fewer, more)
    assert_below(values[-1], exact_log_likelihood(model, x_0, num_steps=steps, latents="shared"))


@settings(max_examples=8)
@given(atom_models(reads_time=False), SEEDS, EXPLAINS)
def test_bounds_of_infinitely_many_steps_never_exceed_their_sampler(model, seed, explains):
    guide, x_0 = guide_for(model, seed=seed, explains=explains), sequences_of(model)
    fresh, shared = (infinite_log_likelihood(model, x_0, kind) for kind in ("fresh", "shared"))
    continuous = value_of(model, guide, x_0, "continuous")
    marginal = [
        value_of(model, guide, x_0, "marginal", num_latents=k, proposal=proposal)
        for k, proposal in ((1, "guide"), (2, "guide"), (3, "guide"), (2, "mixture"))
    ]
    assert_below(continuous, marginal[0])  # the same integrand, the logarithm of each token apart
    assert_below(marginal[0], marginal[1])
    assert_below(marginal[1], marginal[2])
    limit = exact_marginal_bound(model, x_0)
    assert_below(marginal[2], limit)
    assert_below(marginal[3], limit)
    assert_below(limit, fresh)
    trajectories = [shared_value(model, guide, x_0, None, num_latents=k) for k in (1, 2)]
    assert_below(trajectories[0], trajectories[1])
    assert_below(trajectories[1], shared)


@settings(max_examples=15)
@given(atom_models(), EXPLAINS)
def test_one_step_with_the_exact_posterior_is_the_likelihood(model, explains):
    guide, x_0 = guide_for(model, explains=explains, is_exact=True), sequences_of(model)
    exact = exact_log_likelihood(model, x_0, num_steps=1)
    for k in (1, 2):
        torch.testing.assert_close(finite_step_value(model, guide, x_0, 1, num_latents=k), exact)
        torch.testing.assert_close(shared_value(model, guide, x_0, 1, num_latents=k), exact)


@settings(max_examples=15)
@given(atom_models(), SEEDS)
def test_one_step_approaches_the_likelihood_at_rate_one_over_k(model, seed):
    """The gap closes; a slope that is not negative by K = 6 would show a bias that K does not cure."""
    guide, x_0 = guide_for(model, seed=seed, scale=0.5), sequences_of(model)
    exact = exact_log_likelihood(model, x_0, num_steps=1)
    gaps = [(exact - finite_step_value(model, guide, x_0, 1, num_latents=k)).mean() for k in (1, 2, 4, 6)]
    assert gaps[0] >= gaps[1] >= gaps[2] >= gaps[3] >= -SLACK
    assert gaps[3] < 0.5 * gaps[0] + SLACK


@settings(max_examples=12)
@given(st.integers(2, 4), st.integers(1, 3), schedules(), SEEDS)
def test_without_a_latent_all_bounds_are_those_of_masked_diffusion(vocab, steps, schedule, seed):
    model = tiny_model(vocab, 2, latent_dim=0, schedule=schedule, seed=seed)
    guide, x_0 = guide_for(model), sequences_of(model)
    continuous = value_of(model, guide, x_0, "continuous")
    for bound in ("marginal", "delbo"):
        torch.testing.assert_close(value_of(model, guide, x_0, bound), continuous)
    torch.testing.assert_close(exact_marginal_bound(model, x_0), continuous, rtol=1e-6, atol=0)
    torch.testing.assert_close(shared_value(model, guide, x_0, None), continuous, rtol=1e-6, atol=0)
    assert_below(continuous, infinite_log_likelihood(model, x_0))
    finite = finite_step_value(model, guide, x_0, steps)
    torch.testing.assert_close(finite, shared_value(model, guide, x_0, steps))
    exact = exact_log_likelihood(model, x_0, num_steps=steps)
    if steps == 1:
        torch.testing.assert_close(finite, exact)
    else:
        assert_below(finite, exact)


def test_the_infinite_sampler_is_the_limit_of_many_steps():
    """The comparison value itself: a probability, and what exact few-step likelihoods tend to."""
    model = tiny_model(2, 2, atoms=ATOMS, seed=5)
    x_0 = sequences_of(model)
    for latents in ("fresh", "shared"):
        limit = infinite_log_likelihood(model, x_0, latents)
        torch.testing.assert_close(limit.exp().sum(), torch.tensor(1.0))
        gaps = [
            (exact_log_likelihood(model, x_0, num_steps=steps, latents=latents) - limit).abs().max()
            for steps in (40, 80, 160)
        ]
        assert gaps[1] < 0.6 * gaps[0]
        assert gaps[2] < 0.6 * gaps[1]
        assert gaps[2] < 0.01


def test_few_and_infinitely_many_steps_are_different_samplers():
    """Otherwise a bound of one would be tested by the other."""
    model = tiny_model(2, 2, atoms=ATOMS, scale=2.0, seed=5)
    x_0 = sequences_of(model)
    values = [
        exact_log_likelihood_of(model, x_0, kind, steps)
        for kind, steps in (
            ("finite-step", 1),
            ("finite-step", 2),
            ("marginal", None),
            ("shared-latent", 2),
            ("shared-latent", None),
        )
    ]
    for i, first in enumerate(values):
        for second in values[:i]:
            assert (first - second).abs().max() > 0.02


def test_errors_share_one_base():
    from vadd.evaluation import NotABoundError

    assert issubclass(NotABoundError, VADDError)
    assert issubclass(NotABoundError, AttributeError)
    with pytest.raises(VADDError):
        raise NotABoundError("x")


def test_without_a_latent_more_trajectories_average_over_the_order():
    """The bound without a latent tightens towards the exact value, and stays below it."""
    model = tiny_model(2, 3, latent_dim=0, scale=2.0, seed=4)
    guide, x_0 = RecognitionGuide(EmptyRecognition()), all_sequences(2, 3)
    exact = exact_log_likelihood(model, x_0, num_steps=3)
    means, errors = [], []
    for num_latents in (1, 8, 64):
        result = log_likelihood_bound(
            model, guide, x_0.repeat(300, 1), bound="shared-latent", num_steps=3, num_latents=num_latents
        )
        draws = -result.nats_per_sequence.reshape(300, -1)
        means.append(draws.mean(0))
        errors.append(draws.std(0) / 300**0.5)
        # 5 standard errors for each of 24 means: false alarms below 1e-5.
        assert (means[-1] <= exact + 5 * errors[-1]).all()
    assert (means[1] > means[0] + 5 * errors[0]).any()
    torch.testing.assert_close(means[2], exact, atol=0.03, rtol=0)


def test_revealing_everything_is_the_one_step_likelihood_also_for_networks_that_read_the_time():
    model = tiny_model(2, 2, latent_dim=0, time_scale=3.0, seed=3)
    x_0 = all_sequences(2, 2)
    result = log_likelihood_bound(model, RecognitionGuide(EmptyRecognition()), x_0, bound="conditional", mask_ratio=1.0)
    torch.testing.assert_close(-result.nats_per_sequence, exact_log_likelihood(model, x_0, num_steps=1))
