"""The laws catch what goes wrong: each estimator here is broken in one way, and a law's check must fail.

Some mistakes make the value too high, which is no bound; others leave a bound that is not the claimed
value. Each mutant is run through the very checks that the library passes, and the check runs on the
library first, so that it is the mutation that fails it.
"""

import math

import pytest
import torch

from vadd.evaluation import estimators, importance, jump_costs
from vadd.evaluation.importance import LatentIntegral
from vadd.testing import tiny_model

from .enumerated import ATOMS, exact_log_likelihood_of, guide_for, sequences_of, value_of
from .laws import check_mean, check_never_above, estimates


def make_case(bound, is_exact=False, **options):
    """The pair, and checks of its estimates against the likelihood and against the enumerated value."""
    model = tiny_model(2, 2, atoms=ATOMS, scale=2.0, seed=6, is_conditional=True)
    guide, x_0 = guide_for(model, scale=2.0, is_exact=is_exact), sequences_of(model)
    limit = exact_log_likelihood_of(model, x_0, bound, options.get("num_steps"), options.get("time_grid"))
    expected = value_of(model, guide, x_0, bound, **options)

    def draw(**changes):
        return estimates(model, guide, x_0, bound=bound, num_draws=4, copies=4000, **{**options, **changes})

    return draw, lambda draws: check_never_above(draws, limit), lambda draws: check_mean(draws, expected, effect=0.08)


def assert_caught(check, draw, message):
    with pytest.raises(AssertionError, match=message):
        check(draw())


BIASED, ABOVE = "standard errors", "above the log-likelihood"


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("bound", ["finite-step", "shared-latent"])
def test_without_the_kl_it_is_no_bound(monkeypatch, bound, steps):
    draw, check_bound, check_value = make_case(bound, is_exact=True, num_steps=steps)
    check_bound(draw())
    check_value(draw())
    honest = LatentIntegral.pairwise
    monkeypatch.setattr(LatentIntegral, "pairwise", lambda *a: (honest(*a)[0], torch.zeros(()).double()))
    assert_caught(check_bound, draw, ABOVE)
    assert_caught(check_value, draw, BIASED)


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent", "marginal"])
def test_without_the_importance_weights_it_is_no_bound(monkeypatch, bound):
    options = {"num_latents": 2, "proposal": "guide", **({} if bound == "marginal" else {"num_steps": 1})}
    draw, check_bound, check_value = make_case(bound, **options)
    check_bound(draw())
    check_value(draw())
    honest = LatentIntegral.propose

    def unweighted(self, batch):
        for z, weights in honest(self, batch):
            yield z, torch.zeros_like(weights)

    monkeypatch.setattr(LatentIntegral, "propose", unweighted)
    if bound != "marginal":
        assert_caught(check_bound, draw, ABOVE)
    assert_caught(check_value, draw, BIASED)


def test_the_kl_factor_of_the_closed_form_matters(monkeypatch):
    """``u`` in place of ``1 - (1 - u)**n`` pays too little for the latent."""
    model = tiny_model(2, 2, atoms=ATOMS, scale=2.0, seed=6, is_conditional=True)
    guide, x_0 = guide_for(model, scale=2.0), sequences_of(model)
    expected = value_of(model, guide, x_0, "finite-step", num_steps=2)

    def draw():
        jumps = ((1.0, 0.5, 0), (0.5, 0.0, 100))
        costs = [jump_costs(model, guide, x_0.repeat(6000, 1), t, s, num_draws=4, seed=k) for t, s, k in jumps]
        return -sum(c.nats_per_sequence for c in costs).reshape(6000, -1)

    def check(draws):
        check_mean(draws, expected, effect=0.08)

    check(draw())
    honest = LatentIntegral.pairwise

    def underpaid(self, batch):
        likelihood, kl = honest(self, batch)
        num_masked = batch.is_masked.sum(-1)
        u = 0.5 if bool((batch.t > 0.6).all()) else 1.0  # of the two jumps
        return likelihood, kl * u / (1 - (1 - u) ** num_masked.clamp(min=1))

    monkeypatch.setattr(LatentIntegral, "pairwise", underpaid)
    assert_caught(check, draw, BIASED)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_scoring_all_masked_tokens_in_each_jump_is_caught(monkeypatch, num_latents):
    """M in place of S: tokens are paid for in every jump that they outlast."""
    draw, check_bound, check_value = make_case("finite-step", num_steps=2, num_latents=num_latents)
    check_value(draw())
    honest = LatentIntegral.evidence
    monkeypatch.setattr(
        LatentIntegral, "evidence", lambda self, batch: honest(self, estimators.explain_all_masked(batch))
    )
    check_bound(draw())  # lower, so still a bound, but of no one's interest
    assert_caught(check_value, draw, BIASED)


def test_a_guide_for_revealed_tokens_that_is_shown_masked_ones_is_caught():
    """S in place of M for the guide, with all else as it is."""
    model = tiny_model(2, 2, atoms=ATOMS, scale=2.0, seed=6)
    x_0 = sequences_of(model)
    guides = [guide_for(model, explains=explains, scale=2.0) for explains in ("masked", "revealed")]
    expected = [value_of(model, guide, x_0, "finite-step", num_steps=2, num_latents=2) for guide in guides]
    for mine, other in ((0, 1), (1, 0)):
        options = {"bound": "finite-step", "num_steps": 2, "num_latents": 2, "num_draws": 4, "copies": 4000}
        draws = estimates(model, guides[mine], x_0, **options)
        check_mean(draws, expected[mine])
        assert_caught(lambda d, other=other: check_mean(d, expected[other]), lambda d=draws: d, BIASED)


@pytest.mark.parametrize("bound", ["finite-step", "marginal", "shared-latent"])
def test_averaging_outside_the_logarithm_is_caught(monkeypatch, bound):
    from vadd.evaluation import trajectories

    steps = {} if bound == "marginal" else {"num_steps": 2}
    draw, check_bound, check_value = make_case(bound, num_latents=2, **steps)
    check_value(draw())
    for module in (importance, trajectories):
        monkeypatch.setattr(module, "log_mean", lambda parts: torch.cat(list(parts)).mean(0))
    check_bound(draw())
    assert_caught(check_value, draw, BIASED)


@pytest.mark.parametrize("bound", ["finite-step", "marginal"])
def test_a_sum_in_place_of_the_mean_is_no_bound(monkeypatch, bound):
    steps = {} if bound == "marginal" else {"num_steps": 1}
    draw, check_bound, check_value = make_case(bound, num_latents=3, proposal="prior", **steps)
    check_bound(draw())
    honest = importance.log_mean
    monkeypatch.setattr(importance, "log_mean", lambda parts: honest(parts) + math.log(3))
    assert_caught(check_bound, draw, ABOVE)
    assert_caught(check_value, draw, BIASED)


@pytest.mark.parametrize("latents", [{}, {"num_latents": 2}])
def test_weights_of_infinitely_many_steps_bound_nothing_for_few(latents):
    """``w(t)`` with a sampler of one step. A strong dependence of tokens makes the difference visible."""
    model = tiny_model(2, 2, latent_dim=0, scale=2.5, seed=3)
    model_with = tiny_model(2, 2, atoms=ATOMS, scale=2.5, seed=3)
    for pair in ((model, guide_for(model)), (model_with, guide_for(model_with, is_exact=True))):
        x_0 = sequences_of(pair[0])
        one_step = exact_log_likelihood_of(pair[0], x_0, "shared-latent", 1)
        check_never_above(estimates(*pair, x_0, bound="shared-latent", num_steps=1, **latents), one_step)
        infinite = estimates(*pair, x_0, bound="shared-latent", **latents)
        check_never_above(infinite, exact_log_likelihood_of(pair[0], x_0, "shared-latent", None))
        assert_caught(lambda d, e=one_step: check_never_above(d, e), lambda d=infinite: d, ABOVE)


def test_exponentiating_an_estimate_of_the_inner_bound_is_no_bound(monkeypatch):
    """The sum over jumps estimated by one of them: unbiased as it stands, too high once it is exponentiated."""
    draw, check_bound, check_value = make_case("shared-latent", num_steps=2, num_latents=3)
    check_bound(draw())
    check_value(draw())

    def exponentiated(integral, start, grid, masks):
        process = integral.model.process
        parts = []
        for z, weights in integral.propose(start):
            copies = []
            for latent in z:
                jump = torch.randint(len(grid) - 1, start.t.shape, generator=masks)
                t, s = grid[jump], grid[jump + 1]
                batch = estimators.explain_all_masked(process.corrupt(start.x_0, t, s, generator=masks))
                fit = integral.token_scores(batch, latent).sum(-1)
                copies.append((len(grid) - 1) * process.reveal_probability(t, s) * fit)
            parts.append(weights + torch.stack(copies))
        return importance.log_mean(parts)

    monkeypatch.setattr(estimators, "shared_trajectories", exponentiated)
    assert_caught(check_value, draw, BIASED)
    assert_caught(check_bound, lambda: draw(num_latents=16), ABOVE)


def test_the_weight_of_the_number_of_masked_tokens_matters(monkeypatch):
    draw, _, check_value = make_case("marginal", num_latents=2)
    check_value(draw())
    monkeypatch.setattr(estimators, "_strata", lambda num_free, *a: num_free.clone())
    assert_caught(check_value, draw, BIASED)


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent"])
def test_visiting_jumps_unevenly_is_caught(monkeypatch, bound):
    draw, _, check_value = make_case(bound, num_steps=4, time_grid=torch.tensor([1.0, 0.9, 0.8, 0.1, 0.0]))
    check_value(draw())
    honest = estimators._visits

    def first_half(grid, *args):
        visits = list(honest(grid, *args))
        yield from ((t, s, 2 * weight) for t, s, weight in visits[: len(visits) // 2])

    monkeypatch.setattr(estimators, "_visits", first_half)
    assert_caught(check_value, draw, BIASED)


def test_a_repeated_latent_is_caught(monkeypatch):
    """One latent used K times in place of K latents."""
    draw, _, check_value = make_case("finite-step", num_steps=1, num_latents=2)
    check_value(draw())
    honest = LatentIntegral.propose

    def repeated(self, batch):
        for z, weights in honest(self, batch):
            yield z[:1].expand_as(z), weights[:1].expand_as(weights)

    monkeypatch.setattr(LatentIntegral, "propose", repeated)
    assert_caught(check_value, lambda: draw(rows_per_call=32000), BIASED)
