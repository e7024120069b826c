"""How often networks are called and on what: cached sampling, first hitting, lazy priors, sparse projection."""

import pytest
import torch

from vadd import MaskingProcess, VADDModel
from vadd.backbones import DiTDenoiser
from vadd.priors import StandardNormalPrior
from vadd.samplers import (
    AncestralSampler,
    EntropyBoundedSampler,
    LatentBlocks,
    LatentGate,
    PosteriorLatents,
    Trajectory,
)
from vadd.schedules import LinearSchedule
from vadd.testing import tiny_model

from .test_ancestral import LENGTH, VOCAB, make_model, record

CACHED = (AncestralSampler("steps"), "cached")
CHOICES = ("fresh", "shared", "null", LatentBlocks(4), PosteriorLatents(3, "fresh"))


def count_prior_calls(model):
    calls = []
    forward = model.prior.forward
    model.prior.forward = lambda x_t, t, **options: (calls.append((x_t, t)), forward(x_t, t, **options))[1]
    return calls


def conditional_model():
    return tiny_model(3, 4, atoms=[-1.0, 0.5, 2.0], is_conditional=True, time_scale=1.0, scale=1.5, seed=4)


@pytest.mark.parametrize("method", CACHED, ids=str)
@pytest.mark.parametrize("latents", CHOICES, ids=str)
@pytest.mark.parametrize(("num_steps", "num_samples"), [(1, 13), (7, 3), (40, 1)])
def test_cached_equals_uncached_under_the_same_randomness(method, latents, num_steps, num_samples):
    model = conditional_model()
    options = {"num_steps": num_steps, "latents": latents, "seed": 3}
    plain = model.sample(num_samples, **options)
    assert torch.equal(model.sample(num_samples, method=method, **options), plain)
    x = plain.roll(1, 0)
    is_known = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    infilled = (model.infill(x, is_known, method=name, **options) for name in ("ancestral", method))
    assert torch.equal(*infilled)


def test_cached_plans_equal_uncached_ones():
    model = conditional_model()
    plan = ("shared", "null", "fresh", "shared", "fresh", "null") * 5
    for method in CACHED:
        for latents in (plan, plan[::-1], LatentGate({30: plan})):
            samples = (
                model.sample(5, num_steps=30, latents=latents, method=name, seed=1) for name in ("ancestral", method)
            )
            assert torch.equal(*samples)


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_cached_equals_uncached_with_networks(kind):
    model = make_model(kind)
    samples = [model.sample(9, num_steps=40, method=name, seed=5) for name in ("ancestral", *CACHED)]
    for other in samples[1:]:
        assert torch.equal(samples[0], other)


def test_cached_sampling_calls_the_network_where_something_is_revealed():
    model = make_model()
    seen, trajectory = record(model), Trajectory()
    model.sample(5, num_steps=200, method="cached", seed=0, record=trajectory)
    is_masked = trajectory.x == VOCAB
    reveals = (is_masked[:-1] & ~is_masked[1:]).any(-1)  # step, row
    assert [len(x_t) for x_t, _, _ in seen] == reveals.sum(-1)[reveals.any(-1)].tolist()
    assert trajectory.num_calls == len(seen) == int(reveals.any(-1).sum()) <= 5 * LENGTH
    del seen[:]
    model.sample(5, num_steps=200, method=AncestralSampler("steps"), seed=0)
    assert [len(x_t) for x_t, _, _ in seen] == [5] * int(reveals.any(-1).sum())


@pytest.mark.parametrize("num_steps", [None, 1, 3, 2_000])
def test_first_hitting_calls_the_network_at_most_once_a_position(num_steps):
    model = make_model()
    seen, trajectory = record(model), Trajectory()
    model.sample(50, num_steps=num_steps, method="first-hitting", record=trajectory)
    assert trajectory.num_calls == len(seen) <= min(LENGTH, num_steps or LENGTH)
    is_masked = trajectory.x == VOCAB
    revealed = (is_masked[:-1] & ~is_masked[1:]).sum(-1)
    assert (revealed.sum(0) == LENGTH).all()
    if num_steps is None:
        assert (revealed == 1).all()
    # Rows that are finished are not in the batch.
    assert [len(x_t) for x_t, _, _ in seen] == (revealed > 0).sum(-1).tolist()


def test_first_hitting_leaves_out_rows_that_have_fewer_free_positions():
    model = make_model()
    x = torch.zeros(4, LENGTH, dtype=torch.int64)
    is_known = torch.ones_like(x, dtype=torch.bool).triu()  # 0, 1, 2, 3 free
    seen = record(model)
    model.infill(x, is_known, method="first-hitting")
    assert [len(x_t) for x_t, _, _ in seen] == [3, 2, 1]


def test_entropy_bounded_leaves_out_rows_that_are_finished():
    model = make_model()
    x = torch.zeros(4, LENGTH, dtype=torch.int64)
    is_known = torch.ones_like(x, dtype=torch.bool).triu()  # 0, 1, 2, 3 free
    seen = record(model)
    model.infill(x, is_known, method=EntropyBoundedSampler(0.0))
    assert [len(x_t) for x_t, _, _ in seen] == [3, 2, 1]


def test_first_hitting_visits_the_times_of_its_grid_in_order():
    model = make_model()
    seen = record(model)
    model.sample(1, num_steps=5, method="first-hitting", seed=2)
    times = [round(float(t), 4) for _, t, _ in seen]
    assert times == sorted(times, reverse=True)
    assert set(times) <= {1.0, 0.8, 0.6, 0.4, 0.2}


# Priors


@pytest.mark.parametrize("method", ["ancestral", "first-hitting"])
@pytest.mark.parametrize(
    ("latents", "at_most", "exactly"),
    [
        ("null", 0, 0),
        ("shared", 1, 1),
        ("fresh", 4, 4),
        (("null", "shared", "null", "null"), 1, 1),
        (("null", "null", "fresh", "null"), 1, 1),
        (LatentBlocks(2), 2, 2),
        (LatentBlocks((1, 3)), 2, 2),
        (PosteriorLatents(8), 1, 1),
    ],
    ids=str,
)
def test_the_prior_is_called_only_where_a_latent_is_drawn(method, latents, at_most, exactly):
    model = make_model()
    calls = count_prior_calls(model)
    model.sample(3, num_steps=4, latents=latents, method=method)
    if method == "ancestral":
        assert len(calls) == exactly
    else:  # rows are at different jumps: a draw serves those that need one
        assert len(calls) <= LENGTH
        assert bool(calls) <= bool(at_most)


def test_a_model_without_a_latent_never_calls_its_prior():
    model = make_model(latent=0)
    calls = count_prior_calls(model)
    for method in ("ancestral", "cached", "static", "first-hitting", "confidence", "remasking"):
        model.sample(3, num_steps=4, method=method)
    assert calls == []


def test_the_shared_latent_reads_the_start_and_others_the_step():
    model = make_model()
    calls = count_prior_calls(model)
    model.sample(3, num_steps=4, latents=("null", "fresh", "null", "shared"))
    (x_fresh, t_fresh), (x_shared, t_shared) = calls
    assert (t_fresh == 0.75).all()
    assert (x_fresh != VOCAB).any()
    assert (t_shared == 1).all()
    assert (x_shared == VOCAB).all()


def test_a_block_that_starts_without_a_reveal_reads_its_own_start():
    """Cached and first-hitting sampling skip that jump, and draw for its time later."""
    model = make_model()
    for method in ("cached", "first-hitting"):
        calls = count_prior_calls(model)
        model.sample(1, num_steps=100, latents=LatentBlocks(50), method=method, seed=1)
        assert {float(t[0]) for _, t in calls} <= {1.0, 0.5}
        model.prior.forward = type(model.prior).forward.__get__(model.prior)


# The vocabulary


@pytest.mark.parametrize("method", ["ancestral", "cached", "first-hitting", "predictor-corrector", "remasking"])
def test_only_revealed_positions_are_projected(method):
    model, trajectory = make_model("dit"), Trajectory()
    projected = []
    model.denoiser.head.register_forward_hook(lambda head, args, out: projected.append(out.shape[:-1].numel()))
    model.sample(6, num_steps=9, method=method, record=trajectory)
    if method in ("ancestral", "cached", "first-hitting"):
        assert sum(projected) == 6 * LENGTH
    else:
        assert sum(projected) < 4 * 6 * LENGTH < trajectory.num_calls * 6 * LENGTH


def test_guidance_calls_the_network_with_the_condition_and_without():
    denoiser = DiTDenoiser(VOCAB, LENGTH, 1, hidden_size=8, depth=1, num_heads=2, num_classes=3)
    model, trajectory = (
        VADDModel(denoiser, StandardNormalPrior(1), MaskingProcess(LinearSchedule(), VOCAB)),
        Trajectory(),
    )
    given = []
    features = denoiser.features
    denoiser.features = lambda x_t, t, z, **options: (given.append(set(options)), features(x_t, t, z, **options))[1]
    projected = []
    denoiser.head.register_forward_hook(lambda head, args, out: projected.append(out.shape[:-1].numel()))
    condition = torch.tensor([0, 2])
    model.sample(2, num_steps=3, condition=condition, guidance=2.0, record=trajectory)
    assert given == [{"condition"}, set()] * 3
    assert trajectory.num_calls == 6
    assert sum(projected) == 2 * 2 * LENGTH
    del given[:]
    model.sample(2, num_steps=3, condition=condition)
    assert given == [{"condition"}] * 3
