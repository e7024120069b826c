"""Samplers with a law of their own, each against the enumeration of its definition; see ``laws.py``."""

import itertools
import math

import pytest
import torch

from vadd.samplers import (
    ConfidenceSampler,
    EntropyBoundedSampler,
    PredictorCorrectorSampler,
    RemaskingSampler,
    Trajectory,
    cosine_grid,
    uniform_grid,
)
from vadd.testing import exact_sampler_distribution

from .laws import DRAWS, LENGTH, VOCAB, check_law, independent, law_of, reveal, with_latents
from .test_law import make_model

MASK = VOCAB


def masked_positions(state):
    return [i for i, token in enumerate(state) if token == MASK]


def jumps(num_steps, grid=uniform_grid):
    times = grid(num_steps).tolist()
    return list(zip(times[:-1], times[1:], strict=True))  # also mask probabilities: the schedule is linear


def ancestral_law(model, num_steps):
    return exact_sampler_distribution(model, LENGTH, num_steps=num_steps)


# MaskGIT


def confidence_transition(score, left):
    def transition(state, probabilities):
        places = masked_positions(state)
        result = {}
        for tokens in itertools.product(range(VOCAB), repeat=len(places)):
            chance = math.prod(float(probabilities[i, token]) for i, token in zip(places, tokens, strict=True))
            scores = {}
            for i, token in zip(places, tokens, strict=True):
                p = probabilities[i]
                scores[i] = {
                    "probability": float(p[token]),
                    "margin": float((p[0] - p[1]).abs()),
                    "entropy": float((p * p.log()).sum()),
                }[score]
            kept = sorted(places, key=scores.get, reverse=True)[: len(places) - left]
            drawn = dict(zip(places, tokens, strict=True))
            following = tuple(drawn[i] if i in kept else token for i, token in enumerate(state))
            result[following] = result.get(following, 0.0) + chance
        return result

    return transition


@pytest.mark.parametrize(
    ("score", "num_steps"),
    [("probability", 1), ("probability", 2), ("probability", 3), ("probability", 5), ("margin", 3), ("entropy", 3)],
)
def test_confidence_keeps_the_most_confident_positions(score, num_steps):
    model = make_model("conditional")
    transitions = [
        with_latents(model, confidence_transition(score, math.floor(LENGTH * s + 1e-9)), t)
        for t, s in jumps(num_steps)
        if math.floor(LENGTH * s + 1e-9) < math.floor(LENGTH * t + 1e-9)
    ]
    x = model.sample(DRAWS, num_steps=num_steps, method=ConfidenceSampler(score), seed=0)
    not_law = ancestral_law(model, num_steps) if num_steps == 3 else None
    check_law(x, law_of(transitions), not_law=not_law)


def test_confidence_reveals_the_counts_of_the_schedule():
    model, trajectory = make_model("no latent"), Trajectory()
    for num_steps, grid in ((2, "uniform"), (3, "cosine"), (7, "uniform"), (40, "cosine")):
        trajectory = Trajectory()
        model.sample(50, num_steps=num_steps, method="confidence", time_grid=grid, record=trajectory)
        left = (trajectory.x == MASK).sum(-1)
        expected = [LENGTH]
        for _, s in jumps(num_steps, cosine_grid if grid == "cosine" else uniform_grid):
            count = math.floor(LENGTH * s + 1e-9)
            expected += [count] if count < expected[-1] else []
        assert (left == torch.tensor(expected)[:, None]).all()
        assert trajectory.num_calls == len(expected) - 1 <= min(num_steps, LENGTH)


def test_much_noise_makes_the_order_of_confidence_random():
    """In two steps the second of which is left one position: each is the last one with probability 1/3 (4.9 errors)."""
    model, trajectory = make_model("no latent"), Trajectory()
    model.sample(
        9_000,
        num_steps=2,
        time_grid=torch.tensor([1.0, 0.4, 0.0]),
        method=ConfidenceSampler(noise=1e6),
        record=trajectory,
    )
    share = (trajectory.x[1] == MASK).double().mean(0)
    assert ((share - 1 / 3).abs() < 4.9 * (2 / 9 / 9_000) ** 0.5).all()


# Entropy-bounded


def entropy_transition(gamma):
    def transition(state, probabilities):
        places = masked_positions(state)
        if not places:
            return {state: 1.0}
        entropy = {i: -float((probabilities[i] * probabilities[i].log()).sum()) for i in places}
        ordered = sorted(places, key=entropy.get)
        target = [
            i
            for number, i in enumerate(ordered)
            if sum(entropy[j] for j in ordered[: number + 1]) - entropy[i] <= gamma
        ]
        return reveal(state, probabilities, target)

    return transition


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.1, 0.15, 10.0])
def test_entropy_bounded_reveals_what_the_bound_allows(gamma):
    model = make_model("reads time")
    transition = with_latents(model, entropy_transition(gamma), lambda state: len(masked_positions(state)) / LENGTH)
    x = model.sample(DRAWS, method=EntropyBoundedSampler(gamma), seed=0)
    check_law(x, law_of([transition] * LENGTH), not_law=ancestral_law(model, 1) if gamma < 1 else None)
    if gamma == 10:
        check_law(x, ancestral_law(model, 1))


def test_entropy_bounded_stops_when_all_is_revealed():
    model = make_model("no latent")
    for gamma, num_calls in ((0.0, LENGTH), (100.0, 1)):
        trajectory = Trajectory()
        model.sample(20, method=EntropyBoundedSampler(gamma), record=trajectory)
        assert trajectory.num_calls == num_calls


# Remasking


def remasking_transition(u, sigma, fixed=()):
    def transition(state, probabilities):
        choices = []
        for i, token in enumerate(state):
            if token == MASK:
                choices.append({MASK: 1 - u, **{v: u * float(p) for v, p in enumerate(probabilities[i])}})
            elif i in fixed:
                choices.append({token: 1.0})
            else:
                choices.append({token: 1 - sigma, MASK: sigma} if sigma else {token: 1.0})
        return independent(state, choices)

    return transition


def remasking_law(model, num_steps, strength, rule, between=(0.0, 1.0), start=(MASK,) * LENGTH):
    transitions = []
    fixed = [i for i, token in enumerate(start) if token != MASK]
    for t, s in jumps(num_steps):
        alpha_t, alpha_s = 1 - t, 1 - s
        largest = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
        sigma = strength * largest if rule == "rescale" else min(strength, largest)
        if not between[0] <= t <= between[1]:
            sigma = 0.0
        u = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        transitions.append(with_latents(model, remasking_transition(u, sigma, fixed), t))
    return law_of(transitions, start)


@pytest.mark.parametrize(
    ("num_steps", "options"),
    [
        (3, (0.5, "rescale")),
        (3, (1.0, "rescale")),
        (4, (0.3, "cap")),
        (4, (1.0, "cap")),
        (4, (0.8, "rescale", (0.3, 0.7))),
    ],
)
def test_remasking_is_the_chain_of_its_definition(num_steps, options):
    model = make_model("reads time")
    x = model.sample(DRAWS, num_steps=num_steps, method=RemaskingSampler(*options), seed=0)
    not_law = ancestral_law(model, num_steps) if options == (1.0, "cap") else None
    check_law(x, remasking_law(model, num_steps, *options), not_law=not_law)


def test_remasking_leaves_known_tokens():
    model = make_model("reads time")
    x = torch.tensor([[1, 0, 0]]).expand(DRAWS, -1)
    known = torch.tensor([[True, False, False]]).expand(DRAWS, -1)
    y = model.infill(x, known, num_steps=3, method=RemaskingSampler(1.0), seed=0)
    check_law(y, remasking_law(model, 3, 1.0, "rescale", start=(1, MASK, MASK)))


@pytest.mark.parametrize("latents", ["fresh", "shared", "null"])
def test_without_strength_remasking_is_ancestral_sampling(latents):
    model = make_model("reads time")
    options = {"num_steps": 4, "latents": latents, "seed": 2}
    assert torch.equal(model.sample(500, method=RemaskingSampler(0.0), **options), model.sample(500, **options))


def test_remasking_masks_as_much_as_the_forward_process():
    """After a jump to ``s`` a share ``s`` is masked: 30,000 positions, 4.9 standard errors."""
    model, trajectory = make_model("no latent"), Trajectory()
    model.sample(10_000, num_steps=4, method=RemaskingSampler(1.0), record=trajectory)
    share = (trajectory.x == MASK).double().mean((1, 2))
    for observed, expected in zip(share.tolist(), (1.0, 0.75, 0.5, 0.25, 0.0), strict=True):
        assert abs(observed - expected) <= 4.9 * (expected * (1 - expected) / 30_000) ** 0.5


# Predictor-corrector


def corrected_law(model, num_steps, num_corrections, strength):
    transitions = []
    for t, s in jumps(num_steps):
        transitions.append(with_latents(model, remasking_transition((t - s) / t, 0.0), t))
        if s == 0:
            break
        above = s + strength * (1 - s)
        for _ in range(num_corrections):
            transitions.append(
                lambda state: independent(
                    state, [{token: 1 - strength, MASK: strength} if token != MASK else {MASK: 1.0} for token in state]
                )
            )
            transitions.append(with_latents(model, remasking_transition((above - s) / above, 0.0), above))
    return law_of(transitions)


@pytest.mark.parametrize(("num_corrections", "strength"), [(1, 0.3), (2, 0.8), (1, 1.0)])
def test_corrections_are_a_step_up_and_a_jump_down(num_corrections, strength):
    model = make_model("reads time")
    x = model.sample(DRAWS, num_steps=3, method=PredictorCorrectorSampler(num_corrections, strength), seed=0)
    check_law(x, corrected_law(model, 3, num_corrections, strength))


def test_corrections_have_latents_of_their_own():
    model, trajectory = make_model("normal"), Trajectory()
    model.sample(4, num_steps=2, method=PredictorCorrectorSampler(2), record=trajectory)
    assert trajectory.num_calls == 4
    assert len(trajectory.z[:, 0].unique()) == 4
    shared = Trajectory()
    model.sample(4, num_steps=2, method=PredictorCorrectorSampler(2), latents="shared", record=shared)
    assert len(shared.z[:, 0].unique()) == 1
