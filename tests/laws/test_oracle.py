"""The enumeration oracle, against slower sums, closed forms and draws; then the bounds, stated with it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vadd import RecognitionGuide
from vadd.backbones.base import EmptyRecognition
from vadd.errors import ConfigError
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing import (
    AtomPrior,
    TabularDenoiser,
    TabularRecognition,
    all_masks,
    all_sequences,
    check_denoiser,
    check_prior,
    check_recognition,
    exact_delbo,
    exact_finite_step_bound,
    exact_joint,
    exact_log_likelihood,
    exact_marginal_bound,
    exact_posterior_recognition,
    exact_sampler_distribution,
    exact_shared_bound,
    tiny_model,
)
from vadd.testing.strategies import schedules, tiny_models

from ..evaluation.enumerated import sequences_of

FALSE_ALARM = 1e-6
ATOMS = [-1.0, 0.5, 2.0]
SLACK = 1e-9


def guide_for(model, *, seed=0, scale=1.0):
    """A random recognition model of the family that fits the model's prior."""
    if not model.has_latent:
        return RecognitionGuide(EmptyRecognition())
    atoms = model.prior.atoms.tolist() if isinstance(model.prior, AtomPrior) else None
    sizes = (model.process.vocab_size, model.denoiser.num_tokens)
    return RecognitionGuide(TabularRecognition(*sizes, atoms=atoms, seed=seed, scale=scale))


def test_tiny_parts_keep_their_contracts():
    check_denoiser(TabularDenoiser(3, 2))
    check_denoiser(TabularDenoiser(2, 3, latent_dim=0, time_scale=1.0))
    check_recognition(TabularRecognition(3, 2), 3, 2)
    model = tiny_model(3, 2, atoms=ATOMS)
    prior = model.prior(torch.full((4, 2), 3), torch.ones(4))
    z = prior.sample(torch.Size([5]))
    assert z.shape == (5, 4, 1)
    assert prior.log_prob(z).isfinite().all()
    assert (prior.log_prob(z + 0.01) == -torch.inf).all()
    torch.testing.assert_close(prior.log_prob(prior.enumerate_support()).exp().sum(0), torch.ones(4).double())
    torch.testing.assert_close(torch.distributions.kl_divergence(prior, prior.expand([4])), torch.zeros(4).double())


def test_standard_normal_prior_keeps_its_contract():
    check_prior(tiny_model(3, 2).prior, 3, 2)


def test_sequences_and_masks_are_all_and_ordered():
    assert all_sequences(3, 2).tolist() == [list(pair) for pair in itertools.product(range(3), repeat=2)]
    assert all_sequences(4, 1).shape == (4, 1)
    masks = all_masks(3)
    assert [int("".join(str(int(b)) for b in row), 2) for row in masks.tolist()] == list(range(8))


@settings(max_examples=30)
@given(tiny_models(), st.integers(1, 3), st.sampled_from(["fresh", "shared", "null"]))
def test_sampler_probabilities_sum_to_one(model, num_steps, latents):
    law = exact_sampler_distribution(model, model.denoiser.num_tokens, num_steps=num_steps, latents=latents)
    torch.testing.assert_close(law.sum(), torch.ones((), dtype=torch.float64), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def law_by_trajectories(model, num_tokens, grid, latents):
    """The sampler's law by walking every trajectory forwards, in plain Python."""
    vocab, mask = model.process.vocab_size, model.process.mask_id

    def atoms(x, t):
        prior = model.prior(torch.tensor([x]), torch.tensor([t], dtype=torch.float64))
        return list(zip(model.prior.atoms.tolist(), prior.log_weights[0].exp().tolist(), strict=True))

    def step(law, t, s, pick):
        new = {}
        alpha_t, alpha_s = (float(model.process.schedule.alpha(torch.tensor(v).double())) for v in (t, s))
        u = (alpha_s - alpha_t) / (1 - alpha_t)
        for x, probability in law.items():
            for z, weight in pick(x, t):
                latent = torch.tensor([[z]], dtype=torch.float64)
                mu = model.denoise(torch.tensor([x]), torch.tensor([t]).double(), latent).logits.softmax(-1)[0]
                options = [
                    [(token, 1.0)]
                    if token != mask
                    else [(mask, 1 - u), *[(v, u * float(mu[i, v])) for v in range(vocab)]]
                    for i, token in enumerate(x)
                ]
                for outcome in itertools.product(*options):
                    chance = weight * probability * math.prod(p for _, p in outcome)
                    key = tuple(token for token, _ in outcome)
                    new[key] = new.get(key, 0.0) + chance
        return new

    def walk(pick):
        law = {(mask,) * num_tokens: 1.0}
        for t, s in itertools.pairwise(grid):
            law = step(law, t, s, pick)
        return torch.tensor([law[tuple(x)] for x in all_sequences(vocab, num_tokens).tolist()])

    if latents == "fresh":
        return walk(atoms)
    return sum(weight * walk(lambda x, t, z=z: [(z, 1.0)]) for z, weight in atoms((mask,) * num_tokens, 1.0))


@pytest.mark.parametrize("latents", ["fresh", "shared"])
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), GeometricSchedule(1e-2, 5.0)], ids=repr)
@pytest.mark.parametrize(("vocab", "num_tokens"), [(3, 2), (2, 3)])
def test_recursion_equals_the_sum_over_trajectories(vocab, num_tokens, schedule, latents):
    model = tiny_model(
        vocab, num_tokens, atoms=[-1.0, 2.0], schedule=schedule, is_conditional=True, time_scale=1.0, seed=3
    )
    grid = [1.0, 0.7, 0.2, 0.0]
    law = exact_sampler_distribution(
        model, num_tokens, num_steps=3, time_grid=torch.tensor(grid, dtype=torch.float64), latents=latents
    )
    expected = law_by_trajectories(model, num_tokens, grid, latents)
    torch.testing.assert_close(law, expected.double(), rtol=1e-6, atol=1e-7)


def test_known_tokens_are_given_with_their_places():
    for options in ({"x": torch.zeros(2).long()}, {"is_known": torch.tensor([True, False])}):
        with pytest.raises(ConfigError, match="give both, or neither"):
            exact_sampler_distribution(tiny_model(2, 2), 2, num_steps=1, **options)


@pytest.mark.parametrize("latents", ["fresh", "shared", "null"])
@pytest.mark.parametrize("atoms", [ATOMS, None], ids=["atoms", "normal"])
def test_draws_of_the_sampler_follow_the_enumerated_law(atoms, latents):
    """Chi-square over 9 sequences, 200,000 draws; a probability off by 0.01 is missed once in 1000."""
    model = tiny_model(3, 2, atoms=atoms, is_conditional=atoms is not None, scale=1.5, seed=1)
    generator = torch.Generator().manual_seed(0)
    num, options = 200_000, {"num_steps": 2, "time_grid": cosine_grid, "latents": latents}
    drawn = model.sample(num, generator=generator, **options)
    counts = torch.bincount((drawn * torch.tensor([3, 1])).sum(-1), minlength=9)
    expected = num * exact_sampler_distribution(model, 2, **options)
    assert stats.chisquare(counts, expected / expected.sum() * num).pvalue > FALSE_ALARM / 6


@settings(max_examples=20)
@given(st.integers(2, 3), st.integers(1, 3), schedules(), st.integers(0, 1000))
def test_without_a_latent_all_samplers_and_bounds_of_one_grid_agree(vocab, num_tokens, schedule, seed):
    model = tiny_model(vocab, num_tokens, latent_dim=0, schedule=schedule, seed=seed)
    x_0, guide = sequences_of(model), guide_for(model)
    fresh, shared = (exact_log_likelihood(model, x_0, num_steps=2, latents=name) for name in ("fresh", "shared"))
    torch.testing.assert_close(fresh, shared)
    bounds = [
        exact_finite_step_bound(model, guide, x_0, num_steps=2),
        exact_finite_step_bound(model, guide, x_0, num_steps=2, target="revealed"),
        exact_shared_bound(model, guide, x_0, num_steps=2),
    ]
    for bound in bounds[1:]:
        torch.testing.assert_close(bound, bounds[0], rtol=1e-9, atol=1e-9)
    infinite = exact_marginal_bound(model, x_0)
    torch.testing.assert_close(exact_delbo(model, guide, x_0), infinite)
    torch.testing.assert_close(exact_joint(model, x_0), infinite)
    torch.testing.assert_close(exact_shared_bound(model, guide, x_0), infinite)


@settings(max_examples=40)
@given(tiny_models(), st.integers(1, 3), st.integers(0, 1000), st.sampled_from(["masked", "revealed"]))
def test_finite_step_bound_stays_below_the_likelihood_of_its_sampler(model, num_steps, seed, target):
    x_0 = sequences_of(model)
    bound = exact_finite_step_bound(model, guide_for(model, seed=seed), x_0, num_steps=num_steps, target=target)
    assert (bound <= exact_log_likelihood(model, x_0, num_steps=num_steps) + SLACK).all()


@settings(max_examples=40)
@given(tiny_models(), st.integers(1, 3), st.integers(0, 1000))
def test_shared_bound_stays_below_the_likelihood_of_its_sampler(model, num_steps, seed):
    x_0 = sequences_of(model)
    bound = exact_shared_bound(model, guide_for(model, seed=seed), x_0, num_steps=num_steps)
    likelihood = exact_log_likelihood(model, x_0, num_steps=num_steps, latents="shared")
    assert (bound <= likelihood + SLACK).all()


@settings(max_examples=30)
@given(tiny_models(), st.integers(0, 1000))
def test_delbo_stays_below_the_joint_value(model, seed):
    x_0 = sequences_of(model)
    bound = exact_delbo(model, guide_for(model, seed=seed), x_0, num_times=2)
    assert (bound <= exact_joint(model, x_0, num_times=2) + SLACK).all()


@settings(max_examples=20)
@given(tiny_models(), st.integers(0, 1000))
def test_one_step_is_one_bound_and_the_exact_posterior_makes_it_an_equality(model, seed):
    x_0 = sequences_of(model)
    likelihood = exact_log_likelihood(model, x_0, num_steps=1)
    torch.testing.assert_close(exact_log_likelihood(model, x_0, num_steps=1, latents="shared"), likelihood)
    guide = guide_for(model, seed=seed)
    bounds = [
        exact_finite_step_bound(model, guide, x_0, num_steps=1),
        exact_finite_step_bound(model, guide, x_0, num_steps=1, target="revealed"),
        exact_shared_bound(model, guide, x_0, num_steps=1),
    ]
    for bound in bounds[1:]:
        torch.testing.assert_close(bound, bounds[0], rtol=1e-9, atol=1e-9)
    if isinstance(model.prior, AtomPrior):
        exact = RecognitionGuide(exact_posterior_recognition(model))
        torch.testing.assert_close(exact_finite_step_bound(model, exact, x_0, num_steps=1), likelihood)


@settings(max_examples=30)
@given(tiny_models(), st.integers(1, 3), st.integers(0, 1000))
def test_the_closed_form_is_the_mean_over_revealed_sets(model, num_steps, seed):
    """With a recognition model that reads nothing, charging all masked tokens or drawn sets is the same."""
    x_0, guide = sequences_of(model), guide_for(model, seed=seed)
    if model.has_latent:
        with torch.no_grad():
            guide.recognition.table.copy_(guide.recognition.table[0, 0].clone())
    masked, revealed = (
        exact_finite_step_bound(model, guide, x_0, num_steps=num_steps, target=target)
        for target in ("masked", "revealed")
    )
    torch.testing.assert_close(masked, revealed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_conditional", [False, True])
def test_the_exact_posterior_is_the_best_recognition_model(is_conditional):
    model = tiny_model(3, 2, atoms=ATOMS, is_conditional=is_conditional, scale=2.0)
    x_0, guide = all_sequences(3, 2), RecognitionGuide(exact_posterior_recognition(model))
    torch.testing.assert_close(exact_delbo(model, guide, x_0), exact_joint(model, x_0))
    best = exact_finite_step_bound(model, guide, x_0, num_steps=3, target="revealed")
    assert (best < exact_log_likelihood(model, x_0, num_steps=3)).all()
    for seed in range(3):
        other = guide_for(model, seed=seed)
        assert (exact_finite_step_bound(model, other, x_0, num_steps=3, target="revealed") <= best).all()
        assert (exact_finite_step_bound(model, other, x_0, num_steps=3) <= best).all()


def test_many_steps_approach_the_marginal_bound_from_the_exact_posterior_at_first_order():
    """With exact posteriors the T-step bound differs from its limit by O(1/T): halving the step halves it."""
    model = tiny_model(2, 2, atoms=ATOMS, scale=2.0, seed=5)
    x_0, guide = all_sequences(2, 2), RecognitionGuide(exact_posterior_recognition(model))
    limit = exact_marginal_bound(model, x_0)
    errors = [(exact_finite_step_bound(model, guide, x_0, num_steps=T, target="revealed") - limit) for T in (16, 32)]
    torch.testing.assert_close(errors[0] / errors[1], torch.full((4,), 2.0).double(), rtol=0.15, atol=0)
    assert (limit <= exact_log_likelihood(model, x_0, num_steps=500) + 1e-3).all()


def test_the_marginal_bound_is_below_and_the_joint_value_above_the_entropy_of_copied_bits():
    """Two copied bits: the DELBO of a perfect model is -ln(2)/2, more than any log-likelihood on average.

    The T-step bound of the same model and posterior is -ln 2, the true value, for every T.
    """
    model = tiny_model(2, 2, atoms=[-math.pi / 2, math.pi / 2])
    certain = 40.0
    with torch.no_grad():
        model.prior.table.zero_()
        tables = model.denoiser.tables.zero_()
        for number in range(9):
            first, second = number % 3, number // 3
            if first == second == 2:
                tables[1, number, :, 1] = certain  # both follow the sign of z
            elif 2 in (first, second):
                tables[0, number, :, min(first, second)] = certain  # copy the one that is shown
    x_0 = torch.tensor([[0, 0], [1, 1]])
    guide = RecognitionGuide(exact_posterior_recognition(model))
    half, whole = torch.full((2,), -math.log(2) / 2).double(), torch.full((2,), -math.log(2)).double()
    torch.testing.assert_close(exact_joint(model, x_0), half)
    torch.testing.assert_close(exact_delbo(model, guide, x_0), half)
    torch.testing.assert_close(exact_marginal_bound(model, x_0), whole)
    for num_steps in (1, 2, 5):
        bound = exact_finite_step_bound(model, guide, x_0, num_steps=num_steps, target="revealed")
        torch.testing.assert_close(bound, whole)
        torch.testing.assert_close(exact_log_likelihood(model, x_0, num_steps=num_steps), whole)


@pytest.mark.parametrize("schedule", [CosineSchedule(), PolynomialSchedule(3.0), GeometricSchedule()], ids=repr)
def test_values_of_infinitely_many_steps_do_not_depend_on_the_schedule(schedule):
    models = [tiny_model(3, 2, schedule=s, seed=2) for s in (LinearSchedule(), schedule)]
    x_0, guide = all_sequences(3, 2), guide_for(models[0])
    one, other = (exact_delbo(model, guide, x_0, kl_weight=0.3) for model in models)
    torch.testing.assert_close(one, other)


def test_delbo_of_one_token_is_a_variational_bound():
    """One token, so one term: E_r log mu - weight * KL, written out with a fine grid over z."""
    model = tiny_model(3, 1, seed=4)
    guide = guide_for(model, seed=4)
    x_0 = all_sequences(3, 1)
    ones = torch.ones(3, dtype=torch.float64)
    r = guide.recognition(x_0, torch.ones_like(x_0, dtype=torch.bool), ones)
    z = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
    density = r.log_prob(z[:, None, None].expand(-1, 3, 1)).exp() * (z[1] - z[0])
    a, b, c, _ = model.denoiser.tables[:, 3, 0]
    log_mu = (a + b * z[:, None].sin() + c * z[:, None].cos()).log_softmax(-1)
    loc, variance = r.base_dist.loc[:, 0], r.base_dist.scale[:, 0] ** 2
    kl = 0.5 * (loc**2 + variance - 1 - variance.log())
    for kl_weight in (0.0, 0.3, 1.0):
        expected = (density * log_mu).sum(0) - kl_weight * kl
        torch.testing.assert_close(exact_delbo(model, guide, x_0, kl_weight=kl_weight), expected)


def test_delbo_follows_its_formula_over_masked_sets():
    """sum_n (1/n) E_{|M|=n}, by hand for three tokens without a latent."""
    model = tiny_model(2, 3, latent_dim=0, seed=6)
    x_0 = torch.tensor([[0, 1, 1]])
    expected = torch.zeros(1, dtype=torch.float64)
    for n in (1, 2, 3):
        sets = list(itertools.combinations(range(3), n))
        for masked in sets:
            x_t = x_0.clone()
            x_t[0, list(masked)] = 2
            law = model.denoise(x_t, torch.ones(1), torch.zeros(1, 0))
            expected = expected + law.log_prob(x_0) / (n * len(sets))
    torch.testing.assert_close(exact_delbo(model, guide_for(model), x_0), expected)


def test_time_dependent_networks_are_integrated_over_time():
    """The value settles when nodes are added, and differs from that of the network without time."""
    model = tiny_model(2, 2, time_scale=2.0, schedule=CosineSchedule())
    x_0, guide = all_sequences(2, 2), guide_for(model)
    few, many = (exact_delbo(model, guide, x_0, num_times=n) for n in (16, 40))
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-4)
    still = exact_delbo(tiny_model(2, 2, schedule=CosineSchedule()), guide, x_0)
    assert (many - still).abs().max() > 0.1
