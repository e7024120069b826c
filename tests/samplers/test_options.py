"""What samplers share: seeds, batches, records, progress, and options that do not fit together."""

import re

import pytest
import torch

import vadd.samplers.generation as generation
from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.samplers import (
    ConfidenceSampler,
    EntropyBoundedSampler,
    LatentBlocks,
    LatentGate,
    PosteriorLatents,
    PredictorCorrectorSampler,
    RemaskingSampler,
    Sampler,
    Trajectory,
)
from vadd.testing import tiny_model

from .test_ancestral import LENGTH, VOCAB, make_model

METHODS = ("ancestral", "cached", "static", "first-hitting", "confidence", "remasking", "predictor-corrector")


# Seeds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("latents", ["fresh", "shared", PosteriorLatents(2, "fresh")], ids=str)
def test_a_seed_decides_everything(method, latents):
    model = make_model()
    state = torch.get_rng_state()
    options = {"num_steps": 4, "method": method, "latents": latents, "batch_size": 5}
    first = model.sample(12, seed=7, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.sample(12, seed=7, **options), first)
    assert torch.equal(model.sample(12, generator=torch.Generator().manual_seed(7), **options), first)
    assert not torch.equal(model.sample(12, seed=8, **options), first)


def test_batches_are_not_copies_of_each_other():
    model = make_model()
    for latents in ("fresh", "shared"):
        trajectory = Trajectory()
        model.sample(8, num_steps=3, latents=latents, batch_size=4, seed=0, record=trajectory)
        assert not torch.equal(trajectory.z[:, :4], trajectory.z[:, 4:])
        assert not torch.equal(trajectory.x[:, :4], trajectory.x[:, 4:])


def test_batches_bound_the_rows_that_a_network_sees():
    model = make_model()
    rows = []
    model.denoiser.register_forward_pre_hook(lambda part, args: None)
    features = model.denoiser.features
    model.denoiser.features = lambda x_t, t, z, **options: (rows.append(len(x_t)), features(x_t, t, z, **options))[1]
    assert model.sample(10, num_steps=2, batch_size=4).shape == (10, LENGTH)
    assert rows == [4, 4, 4, 4, 2, 2]
    x = torch.zeros(3, LENGTH, dtype=torch.int64)
    del rows[:]
    model.infill(x, x > 0, num_steps=1, num_candidates=5, batch_size=4)
    assert rows == [4, 4, 4, 3]


# Records


def test_a_trajectory_is_every_step():
    model, trajectory = make_model(), Trajectory()
    x = model.sample(7, num_steps=5, batch_size=3, record=trajectory)
    assert trajectory.x.shape == (6, 7, LENGTH)
    assert trajectory.z.shape == (5, 7, 3)
    assert trajectory.num_calls == 3 * 5
    assert (trajectory.x[0] == VOCAB).all()
    assert torch.equal(trajectory.x[-1], x)
    torch.testing.assert_close(trajectory.t, torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2])[:, None].expand(-1, 7))
    is_known = trajectory.x != VOCAB
    assert (is_known[:-1] <= is_known[1:]).all()


def test_recording_changes_nothing():
    model = make_model()
    for method in METHODS:
        samples = (
            model.sample(5, num_steps=3, method=method, seed=0, record=record) for record in (None, Trajectory())
        )
        assert torch.equal(*samples)


def test_null_latents_are_recorded_as_the_network_sees_them():
    model, trajectory = make_model(), Trajectory()
    model.sample(2, num_steps=3, latents=("null", "shared", "fresh"), record=trajectory)
    assert (trajectory.z[0] == model.null_latent).all()
    assert not (trajectory.z[1:] == model.null_latent).any()
    assert not torch.equal(trajectory.z[1], trajectory.z[2])


def test_batches_of_different_lengths_are_recorded_together():
    model = tiny_model(2, 3, latent_dim=0, scale=3.0)
    trajectory = Trajectory()
    x = model.sample(40, method=EntropyBoundedSampler(0.2), batch_size=1, record=trajectory)
    assert torch.equal(trajectory.x[-1], x)
    assert trajectory.num_calls <= 40 * 3
    assert (trajectory.t <= 1).all()
    first = Trajectory()
    model.sample(6, num_steps=50, method="first-hitting", batch_size=2, record=first)
    assert len(first.x) - 1 == 3


def test_an_empty_or_used_trajectory_is_refused():
    model, trajectory = make_model(), Trajectory()
    with pytest.raises(ConfigError, match="nothing is recorded"):
        trajectory.x  # noqa: B018 - a property that raises
    model.sample(2, num_steps=1, record=trajectory)
    with pytest.raises(ConfigError, match="log_weights"):
        trajectory.log_weights  # noqa: B018 - a property that raises
    with pytest.raises(ConfigError, match="earlier call"):
        model.sample(2, num_steps=1, record=trajectory)


class Bar:
    """Stands in for the progress bar and counts."""

    made: list

    def __init__(self, **options):
        self.options, self.total, self.count = options, None, 0
        self.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def update(self):
        self.count += 1


def test_the_bar_counts_steps_of_long_runs_and_can_be_switched_off(monkeypatch):
    Bar.made = []
    monkeypatch.setattr(generation, "tqdm", Bar)
    model = make_model()
    model.sample(6, num_steps=5, batch_size=4)
    model.sample(6, num_steps=5, progress=False)
    long, off = Bar.made
    assert (long.total, long.count) == (10, 10)
    assert long.options["delay"] > 1
    assert long.options["disable"] is None  # shown on a terminal only
    assert off.options["disable"] is True


def test_nothing_is_printed(capsys):
    make_model().sample(2, num_steps=2)
    assert capsys.readouterr() == ("", "")


# More steps than positions


@pytest.mark.parametrize("method", METHODS)
def test_more_steps_than_positions_have_a_meaning(method):
    model, trajectory = make_model(), Trajectory()
    num_steps = 4 * LENGTH
    x = model.sample(1, num_steps=num_steps, method=method, record=trajectory)
    assert x.max() < VOCAB
    at_most = {name: num_steps for name in ("ancestral", "static", "remasking")}
    at_most["predictor-corrector"] = 2 * num_steps - 1
    assert trajectory.num_calls <= at_most.get(method, LENGTH)


# Options that do not fit together


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": None}, ConfigError, "num_steps must be given: AncestralSampler"),
        ({"num_steps": None, "method": "confidence"}, ConfigError, "ConfidenceSampler"),
        ({"method": "entropy-bounded"}, ConfigError, "leave num_steps out"),
        ({"method": "best"}, ConfigError, "method must be one of ancestral, cached"),
        ({"method": None}, ConfigError, "method must be"),
        ({"method": Sampler}, ConfigError, "method must be"),
        (
            {"num_steps": None, "method": "first-hitting", "time_grid": "cosine"},
            ConfigError,
            "time_grid needs num_steps",
        ),
        ({"time_grid": "quadratic"}, ConfigError, "uniform, cosine"),
        ({"latents": ("fresh",)}, ConfigError, "each of the 2 jumps, got 1"),
        ({"latents": LatentBlocks((1, 2))}, ConfigError, "blocks of 3 jumps"),
        ({"num_steps": None, "method": "first-hitting", "latents": ("fresh", "null")}, ConfigError, "need num_steps"),
        (
            {"num_steps": None, "method": "first-hitting", "latents": LatentBlocks((1, 1))},
            ConfigError,
            "need num_steps",
        ),
        (
            {"num_steps": None, "method": "entropy-bounded", "latents": LatentGate({1: ("null",)})},
            ConfigError,
            "need num_steps",
        ),
        ({"seed": 1, "generator": torch.Generator()}, ConfigError, "seed or generator"),
        ({"seed": -1}, DomainError, "seed"),
        ({"seed": 1.5}, DomainError, "seed"),
        ({"batch_size": 0}, DomainError, "batch_size"),
        ({"batch_size": 2.0}, DomainError, "batch_size"),
        ({"condition": torch.tensor([1])}, ShapeError, "one row a sequence"),
        ({"is_padding": torch.zeros(2, LENGTH)}, DtypeError, "is_padding must be boolean"),
        ({"is_padding": torch.zeros(2, 3, dtype=torch.bool)}, ShapeError, "num_samples, length"),
        ({"is_padding": torch.zeros(LENGTH, dtype=torch.bool)}, ShapeError, "is_padding"),
        ({"record": []}, ConfigError, r"record must be a Trajectory, got list; make one, Trajectory\(\)"),
        (
            {"latents": lambda run, state, jump: None},
            ConfigError,
            "what latents returns must be a SamplerState, got None",
        ),
    ],
    ids=lambda value: re.sub(r"( object)? at 0x\w+", "", str(value)),
)
def test_contradictory_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make_model().sample(2, **{"num_steps": 2, **options})


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConfidenceSampler("luck"), ConfigError, "score"),
        (lambda: ConfidenceSampler(noise=-1.0), DomainError, "noise"),
        (lambda: EntropyBoundedSampler(-0.1), DomainError, "gamma"),
        (lambda: EntropyBoundedSampler(float("nan")), DomainError, "gamma"),
        (lambda: RemaskingSampler(1.5), DomainError, "strength"),
        (lambda: RemaskingSampler(rule="loop"), ConfigError, "rule"),
        (lambda: RemaskingSampler(between=(0.7, 0.3)), DomainError, "between"),
        (lambda: RemaskingSampler(between=(-0.1, 0.3)), DomainError, "between"),
        (lambda: RemaskingSampler(between=(0.7, 1.1)), DomainError, "between"),
        (lambda: RemaskingSampler(between=(0.1, 0.2, 0.3)), DomainError, "between"),
        (lambda: RemaskingSampler(between=0.5), DomainError, "between must be times .*, got 0.5"),
        (lambda: RemaskingSampler(between=("0", "1")), DomainError, "between"),
        (lambda: PredictorCorrectorSampler(0), DomainError, "num_corrections"),
        (lambda: PredictorCorrectorSampler(strength=0.0), DomainError, "strength"),
        (lambda: LatentBlocks(0), DomainError, "lengths"),
        (lambda: LatentBlocks((2, 0)), DomainError, "lengths"),
        (lambda: LatentBlocks(()), DomainError, "lengths"),
        (lambda: PosteriorLatents(0), DomainError, "num_draws"),
        (lambda: PosteriorLatents(2, "null"), ConfigError, "latents"),
    ],
)
def test_parts_refuse_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("method", [*METHODS, "entropy-bounded"])
def test_nan_is_reported_and_not_left_as_a_mask(method):
    model = make_model()
    with torch.no_grad():
        model.denoiser.head.bias.fill_(torch.nan)
    steps = {} if method == "entropy-bounded" else {"num_steps": 3}
    with pytest.raises(NonFiniteError, match="NaN"):
        model.sample(4, method=method, **steps)
