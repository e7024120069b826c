"""The ancestral sampler: range, seeds, latent policies, projections, bad arguments."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd import MaskingProcess, VADDModel
from vadd.backbones import DiTDenoiser, MLPDenoiser
from vadd.errors import ConfigError, DomainError
from vadd.priors import StandardNormalPrior
from vadd.samplers import Trajectory, cosine_grid, sample, uniform_grid
from vadd.schedules import CosineSchedule, LinearSchedule
from vadd.testing.strategies import tiny_models

VOCAB, LENGTH, LATENT = 5, 6, 3


def make_model(kind="mlp", latent=LATENT, num_tokens=LENGTH, **options):
    if kind == "mlp":
        denoiser = MLPDenoiser(VOCAB, LENGTH, latent, hidden_size=16, depth=1, modulation_size=8, **options)
    else:
        denoiser = DiTDenoiser(VOCAB, num_tokens, latent, hidden_size=16, depth=1, num_heads=2, **options)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return VADDModel(denoiser, StandardNormalPrior(latent), MaskingProcess(LinearSchedule(), VOCAB))


def record(model):
    """What the denoiser is given at each step: tokens, times, latents."""
    seen = []
    features = model.denoiser.features
    model.denoiser.features = lambda x_t, t, z, **options: (
        seen.append((x_t, t, z)),
        features(x_t, t, z, **options),
    )[1]
    return seen


@given(
    tiny_models(),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(["fresh", "shared", "null"]),
    st.sampled_from([None, uniform_grid, cosine_grid]),
)
def test_samples_are_clean_sequences(model, num_steps, num_samples, latents, time_grid):
    x = model.sample(num_samples, num_steps=num_steps, latents=latents, time_grid=time_grid)
    assert x.shape == (num_samples, model.denoiser.num_tokens)
    assert x.dtype == torch.int64
    assert 0 <= x.min()
    assert x.max() < model.process.vocab_size


def test_the_length_may_be_chosen_where_the_denoiser_takes_any():
    model = make_model("dit", num_tokens=None)
    assert model.sample(2, num_steps=2, length=9).shape == (2, 9)
    with pytest.raises(ConfigError, match="length must be given"):
        model.sample(2, num_steps=2)


@pytest.mark.parametrize("latents", ["fresh", "shared", "null"])
@pytest.mark.parametrize("latent", [LATENT, 0])
def test_a_generator_decides_everything_and_leaves_the_global_state_alone(latents, latent):
    model = make_model(latent=latent)

    def draw(seed):
        return model.sample(8, num_steps=3, latents=latents, generator=torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(draw(5), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draw(6), first)


def test_a_generator_does_not_reseed_other_devices(monkeypatch):
    def refuse(seed):
        raise AssertionError("the state of all accelerators would be lost")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    make_model().sample(2, num_steps=2, generator=torch.Generator().manual_seed(0))


def test_two_calls_with_one_generator_differ():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(*(model.sample(8, num_steps=3, generator=generator) for _ in range(2)))


def test_without_a_generator_the_global_seed_decides():
    model = make_model()
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(model.sample(8, num_steps=3))
    assert torch.equal(*draws)


def test_a_sample_carries_no_gradient_and_leaves_the_mode_alone():
    model = make_model().train()
    model.sample(2, num_steps=2)
    assert model.training
    assert torch.is_grad_enabled()


# Latent policies


class CountingPrior(StandardNormalPrior):
    """Counts the draws from its distributions."""

    num_draws = 0

    def forward(self, x_t, t, **options):
        distribution = super().forward(x_t, t, **options)
        draw = distribution.sample

        def counted(*args):
            self.num_draws += 1
            return draw(*args)

        distribution.sample = counted
        return distribution


@pytest.mark.parametrize(("latents", "num_draws"), [("fresh", 4), ("shared", 1), ("null", 0)])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_policies_draw_as_often_as_they_say(latents, num_draws, generator):
    model = make_model()
    model.prior = CountingPrior(LATENT)
    seen = record(model)
    model.sample(5, num_steps=4, latents=latents, generator=generator)
    assert model.prior.num_draws == num_draws
    z = torch.stack([z for _, _, z in seen])
    assert z.shape == (4, 5, LATENT)
    if latents == "null":
        assert (z == model.null_latent).all()
    elif latents == "shared":
        assert (z == z[0]).all()
    else:
        assert len(z.reshape(-1, LATENT).unique(dim=0)) == 20


def test_a_custom_policy_is_given_the_step_and_decides():
    model = make_model()
    model.prior = CountingPrior(LATENT)
    calls = []

    def every_second(run, state, jump):
        calls.append((state.x.clone(), float(jump.t[0]), state.z))
        if jump.index % 2:
            return state
        return replace(state, z=run.draw_latents(state.x, jump.t, jump.index))

    seen = record(model)
    model.sample(3, num_steps=4, latents=every_second)
    assert model.prior.num_draws == 2
    assert [t for _, t, _ in calls] == [1.0, 0.75, 0.5, 0.25]
    assert calls[0][2] is None
    z = [z for _, _, z in seen]
    assert torch.equal(z[0], z[1])
    assert torch.equal(z[2], z[3])
    assert not torch.equal(z[0], z[2])
    for k in range(1, 4):
        assert torch.equal(calls[k][2], z[k - 1])
        assert torch.equal(calls[k][0], seen[k][0])
    assert (calls[0][0] == VOCAB).all()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("latents", ["every", 3])
def test_unknown_policies_are_refused(latents):
    with pytest.raises(ConfigError, match="fresh, shared, null"):
        make_model().sample(2, num_steps=2, latents=latents)


# Steps


@pytest.mark.parametrize("kind", ["mlp", "dit"])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_every_position_is_projected_to_the_vocabulary_once(kind, num_steps):
    model = make_model(kind)
    rows = []
    model.denoiser.head.register_forward_hook(lambda head, args, out: rows.append(args[0].shape[:-1].numel()))
    model.sample(7, num_steps=num_steps)
    assert sum(rows) == 7 * LENGTH
    assert len(rows) == num_steps


def test_revealed_tokens_stay():
    model = make_model()
    seen = record(model)
    x = model.sample(16, num_steps=6)
    for (early, *_), (late, *_) in zip(seen[:-1], seen[1:], strict=True):
        is_known = early != VOCAB
        assert torch.equal(early[is_known], late[is_known])
    last = seen[-1][0]
    assert torch.equal(last[last != VOCAB], x[last != VOCAB])


def test_a_step_reveals_at_the_rate_of_the_process():
    """48,000 positions a jump, threshold 4.9 standard errors: false-alarm rate 1e-6 each.

    A rate off by 0.02 is caught with probability above 0.999. Small rates, which one categorical over tokens
    and "stays masked" gets wrong in float32, are off by less than a tenth.
    """
    model = make_model(latent=0)
    trajectory = Trajectory()
    model.sample(8_000, num_steps=4, time_grid=torch.tensor([1.0, 0.999, 0.8, 0.6, 0.0]), record=trajectory)
    is_masked = trajectory.x == VOCAB
    for step, rate in enumerate((1e-3, 0.199 / 0.999, 0.25, 1.0)):
        before, after = is_masked[step], is_masked[step + 1]
        observed = (before & ~after).sum() / before.sum()
        assert abs(observed - rate) <= 4.9 * (rate * (1 - rate) / before.sum()) ** 0.5


def test_the_cosine_grid_under_the_linear_schedule_masks_as_the_cosine_schedule():
    grid = cosine_grid(7)
    cosine = CosineSchedule().mask_probability(uniform_grid(7))
    torch.testing.assert_close(LinearSchedule().mask_probability(grid), cosine, rtol=1e-12, atol=0)
    assert grid[0] == 1
    assert grid[-1] == 0


@given(st.integers(1, 50))
def test_the_uniform_grid_has_equal_steps(num_steps):
    grid = uniform_grid(num_steps)
    assert grid.shape == (num_steps + 1,)
    assert grid[0] == 1
    assert grid[-1] == 0
    torch.testing.assert_close(-grid.diff(), torch.full_like(grid[1:], 1 / num_steps))


def test_a_grid_may_be_given_as_times():
    model = make_model()
    seen = record(model)
    model.sample(2, num_steps=2, time_grid=torch.tensor([1.0, 0.3, 0.0]))
    assert [float(t[0]) for _, t, _ in seen] == [1.0, pytest.approx(0.3)]


@pytest.mark.parametrize("num_steps", [0, -1, 1.0, "3", True])
@pytest.mark.usefixtures("_unchecked")
def test_bad_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(DomainError, match="num_steps"):
        make_model().sample(2, num_steps=num_steps)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["num_samples", "length"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_sizes_are_refused(name, value):
    options = {"num_samples": 2, "num_steps": 2, "length": 4, name: value}
    model = make_model("dit", num_tokens=None)
    for run in (model.sample, lambda **options: sample(model, **options)):
        with pytest.raises(DomainError, match=name):
            run(**options)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        (torch.tensor([0.9, 0.5, 0.0]), DomainError, "from exactly 1"),
        (torch.tensor([1.0, 0.5, 0.1]), DomainError, "to exactly 0"),
        (torch.tensor([1.0, 0.5, 1e-9]), DomainError, "to exactly 0"),
        (torch.tensor([0.0, 0.5, 1.0]), DomainError, "decrease"),
        (torch.tensor([1.0, 1.0, 0.0]), DomainError, "strictly"),
        (torch.tensor([1.0, -0.5, 0.0]), DomainError, "strictly"),
        (torch.tensor([1.0, torch.nan, 0.0]), DomainError, "strictly"),
        (torch.tensor([1.0, 0.0]), ConfigError, r"num_steps \+ 1 = 3"),
        (torch.tensor([[1.0, 0.5, 0.0]]), ConfigError, r"num_steps \+ 1 = 3"),
        ([1.0, 0.5, 0.1], DomainError, "to exactly 0"),
        ((1.0, 0.0), ConfigError, r"num_steps \+ 1 = 3 times, a tensor or a list, got the shape \(2,\)"),
        ([1.0, "0.5", 0.0], ConfigError, r"a tensor or a list, got \[1.0, '0.5', 0.0\]"),
        (3, ConfigError, "a tensor or a list, got 3"),
        (lambda n: torch.linspace(1, 0, n), ConfigError, r"num_steps \+ 1 = 3"),
        (lambda n: None, ConfigError, "a tensor or a list, got None"),
        ("foo", ConfigError, "uniform, cosine; or num_steps .* a tensor or list; or a function .*; got 'foo'"),
    ],
)
def test_bad_grids_are_refused(grid, error, message):
    with pytest.raises(error, match=message):
        make_model().sample(2, num_steps=2, time_grid=grid)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "grid", [[1, 0.3, 0], (1.0, 0.3, 0.0), lambda n: [1.0, 0.3, 0.0]], ids=["list", "tuple", "function"]
)
def test_a_grid_may_be_a_list(grid):
    model = make_model()
    expected = model.sample(4, num_steps=2, time_grid=torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64), seed=0)
    assert torch.equal(model.sample(4, num_steps=2, time_grid=grid, seed=0), expected)
