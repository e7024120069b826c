"""Bounds of samplers that choose each jump's latent: enumerated values, validity, and the masks they share.

See ``laws.py`` for the false-alarm rate and the power of each comparison.
"""

import itertools
import math

import pytest
import torch

from vadd import RecognitionGuide
from vadd.errors import ConfigError
from vadd.evaluation import log_likelihood_bound
from vadd.samplers.gate import LatentGate
from vadd.testing import AtomPrior, TabularRecognition, exact_log_likelihood, tiny_model

from .enumerated import (
    ATOMS,
    _start,
    _trajectory_scores,
    expected_log_mean,
    guide_for,
    joint_value,
    jumps_of,
    sequences_of,
)
from .laws import check_mean, check_never_above, estimates

EFFECT = 0.08  # a share of the value, caught with probability 0.999

PLANS = [
    ("shared",),
    ("shared", "shared"),
    ("shared", "null"),
    ("null", "shared"),
    ("shared", "fresh"),
    ("fresh", "null"),
    ("shared", "null", "shared"),
    ("shared", "fresh", "null"),
]


def make_pair(**options):
    model = tiny_model(2, 2, **{"atoms": ATOMS, "scale": 1.5, "seed": 2, "is_conditional": True, **options})
    return model, guide_for(model)


def plan_value(model, guide, x_0, plan, num_latents, proposal="guide"):
    """Sum over the ways to reveal the positions of each mode's enumerated logarithms."""
    jumps, total = jumps_of(model, len(plan)), torch.zeros(len(x_0))
    for choice in itertools.product(range(len(plan)), repeat=x_0.shape[1]):
        chance = math.prod(float(jumps[j][2] - jumps[j][3]) for j in choice)
        revealed_at = torch.tensor(choice)
        value, shared = torch.zeros(len(x_0)), []
        for j in sorted(set(choice)):
            t, is_masked, shown = float(jumps[j][0]), revealed_at >= j, revealed_at == j
            if plan[j] == "shared":
                shared.append((t, is_masked, shown))
            elif plan[j] == "fresh":
                value = value + joint_value(model, guide, x_0, is_masked, shown, t, num_latents, proposal)
            else:
                x_t = x_0.masked_fill(is_masked, model.process.mask_id)
                log_mu = model.denoise(x_t, torch.full((len(x_0),), t), None).logits.log_softmax(-1)
                value = value + log_mu.gather(-1, x_0[..., None])[..., 0][:, shown].sum(-1)
        if shared:
            sources = _start(model, guide, x_0, proposal, lambda z, s=shared: _trajectory_scores(model, x_0, z, s))
            value = value + expected_log_mean(sources, num_latents)
        total = total + chance * value
    return total


@pytest.mark.parametrize("plan", PLANS, ids="-".join)
@pytest.mark.parametrize("num_latents", [1, 2])
def test_estimates_have_the_enumerated_value(plan, num_latents):
    model, guide = make_pair()
    x_0 = sequences_of(model)
    with torch.no_grad():
        expected = plan_value(model, guide, x_0, plan, num_latents)
    draws = estimates(
        model, guide, x_0, bound="finite-step", num_steps=len(plan), num_latents=num_latents, latents=plan, copies=4000
    )
    check_mean(draws, expected, EFFECT)


@pytest.mark.parametrize("proposal", ["prior", "mixture"])
def test_every_proposal_has_the_enumerated_value(proposal):
    model, guide = make_pair()
    x_0, plan = sequences_of(model), ("shared", "shared", "fresh")
    with torch.no_grad():
        expected = plan_value(model, guide, x_0, plan, 2, proposal)
    options = {"num_latents": 2, "proposal": proposal, "latents": plan}
    check_mean(estimates(model, guide, x_0, bound="finite-step", num_steps=3, copies=4000, **options), expected, EFFECT)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_latents", [1, 4])
def test_shared_latent_never_exceeds_the_sampler_log_likelihood(seed, num_latents):
    model = tiny_model(2, 3, scale=2.0, seed=seed, **({"atoms": ATOMS, "is_conditional": True} if seed % 2 else {}))
    guide = guide_for(model, seed=seed + 20)
    x_0 = sequences_of(model)
    exact = exact_log_likelihood(model, x_0, num_steps=3, latents="shared")
    options = {"num_latents": num_latents, "latents": "shared", "copies": 1000}
    check_never_above(estimates(model, guide, x_0, bound="finite-step", num_steps=3, **options), exact)


def test_one_step_is_the_same_shared_or_fresh():
    model, guide = make_pair()
    x_0 = sequences_of(model)
    with torch.no_grad():
        shared, fresh = (plan_value(model, guide, x_0, (mode,), 2) for mode in ("shared", "fresh"))
    torch.testing.assert_close(shared, fresh)


@pytest.mark.parametrize("mode", ["fresh", "null"])
def test_plan_of_one_mode_is_that_mode(mode):
    model, guide = make_pair()
    x_0 = sequences_of(model).repeat(20, 1)
    options = {"bound": "finite-step", "num_steps": 3, "num_latents": 3}
    alone = log_likelihood_bound(model, guide, x_0, latents=mode, **options)
    plan = log_likelihood_bound(model, guide, x_0, latents=(mode,) * 3, **options)
    assert torch.equal(alone.nats_per_sequence, plan.nats_per_sequence)
    assert alone.bounds == plan.bounds


def test_plans_of_one_seed_are_compared_on_the_same_masks():
    # With a denoiser that does not read z and latents from the prior, all plans score the same trajectory alike.
    model, guide = make_pair()
    with torch.no_grad():
        model.denoiser.tables[1:3] = 0.0
    x_0 = sequences_of(model).repeat(20, 1)
    options = {"bound": "finite-step", "num_steps": 4, "num_latents": 2, "proposal": "prior"}
    values = [
        log_likelihood_bound(model, guide, x_0, latents=latents, **options).nats_per_sequence
        for latents in ("null", "fresh", "shared", ("shared", "fresh", "null", "shared"))
    ]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_memory_bound_does_not_change_what_is_estimated():
    model, guide = make_pair()
    x_0, plan = sequences_of(model), ("shared", "null", "shared")
    with torch.no_grad():
        expected = plan_value(model, guide, x_0, plan, 4)
    options = {"num_latents": 4, "latents": plan, "copies": 4000, "rows_per_call": 2000}
    check_mean(estimates(model, guide, x_0, bound="finite-step", num_steps=3, **options), expected, EFFECT)


def test_default_is_what_the_model_samples():
    model, guide = make_pair()
    x_0 = sequences_of(model)

    def claim(**options):
        return log_likelihood_bound(model, guide, x_0, bound="finite-step", num_steps=2, **options).bounds

    assert claim() == "ancestral sampling in 2 steps, with a fresh latent at each step"
    model.latents = "shared"
    assert claim() == "ancestral sampling in 2 steps, with one latent a trajectory"
    model.gate = LatentGate({2: ("shared", "null")})
    assert claim() == "ancestral sampling in 2 steps, with latents by jump: 1 shared, then 1 null"
    assert claim(latents="null") == "ancestral sampling in 2 steps, with the null latent"


def test_frozen_and_padded_positions_are_not_scored():
    model, guide = make_pair()
    x_0 = sequences_of(model)
    everything = torch.ones_like(x_0, dtype=torch.bool)
    options = {"bound": "finite-step", "num_steps": 2, "num_latents": 2, "latents": "shared"}
    is_padding = torch.zeros_like(everything)
    is_padding[:, 1] = True
    for flags in ({"is_frozen": everything}, {"is_frozen": ~is_padding, "is_padding": is_padding}):
        result = log_likelihood_bound(model, guide, x_0, **options, **flags)
        assert result.nats_per_sequence.tolist() == [0.0] * len(x_0)


def test_continuous_latents_share_too():
    model = tiny_model(2, 2, seed=4)
    guide = RecognitionGuide(TabularRecognition(2, 2, seed=5, scale=0.5))
    assert not isinstance(model.prior, AtomPrior)
    x_0 = sequences_of(model)
    with torch.no_grad():
        expected = plan_value(model, guide, x_0, ("shared", "shared"), 1)
    options = {"latents": "shared", "copies": 4000}
    check_mean(estimates(model, guide, x_0, bound="finite-step", num_steps=2, **options), expected, EFFECT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": ("shared",)}, "one mode for each of the 2 jumps"),
        ({"latents": "shared", "num_jumps": 1}, "a shared latent visits all jumps"),
    ],
)
def test_bad_plans_are_refused(options, message):
    model, guide = make_pair()
    with pytest.raises(ConfigError, match=message):
        log_likelihood_bound(model, guide, sequences_of(model), bound="finite-step", num_steps=2, **options)


def test_other_bounds_have_no_plan():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="fits bound=.finite-step. alone"):
        log_likelihood_bound(model, guide, sequences_of(model), bound="marginal", latents="shared")
