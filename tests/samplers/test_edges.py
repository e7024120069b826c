"""Shaping does not decide the order, blocks keep their latent under correction, and edges of guidance and options."""

import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones.base import Denoiser
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.evaluation import optimize_grid
from vadd.priors import StandardNormalPrior
from vadd.samplers import EntropyBoundedSampler, LatentBlocks, PosteriorLatents, Shaping, Trajectory
from vadd.schedules import LinearSchedule, PolynomialSchedule
from vadd.testing import TabularRecognition, tiny_model


@pytest.mark.parametrize("shaping", [{"temperature": 0.0}, {"temperature": 0.01}, {"top_k": 1}])
def test_greedy_tokens_are_revealed_in_the_order_of_the_model(shaping):
    model = tiny_model(5, 6, latent_dim=0, scale=2.0, seed=1)
    calls = []
    for options in ({}, shaping):
        record = Trajectory()
        model.sample(1, method=EntropyBoundedSampler(0.1), record=record, seed=0, **options)
        calls.append(len(record.x))
    assert calls[1] > 2  # all at once if certain tokens counted as certainty of the model
    record = Trajectory()
    model.sample(1, method="confidence", num_steps=3, record=record, seed=0, **shaping)
    left = (record.x[1] == model.process.mask_id)[0]
    assert left.tolist() != [False, False, True, True, True, True]  # left to right, where all positions tie


def test_a_block_keeps_its_latent_under_correction():
    model = tiny_model(3, 3, seed=2)
    for latents in (LatentBlocks(3), PosteriorLatents(2, LatentBlocks(3))):
        record = Trajectory()
        model.sample(4, num_steps=3, method="predictor-corrector", latents=latents, record=record, seed=0)
        drawn = [z for z in record.z if z is not None]
        assert len(drawn) > 3
        assert all(torch.equal(z, drawn[0]) for z in drawn)


class LabelDenoiser(Denoiser):
    """The label rules out token 1; without one both tokens are alike."""

    def __init__(self):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = 2, 1, torch.Size([0])

    def forward(self, x_t, t, z, *, is_padding=None, condition=None):
        logits = torch.zeros(len(x_t), 1, 2)
        if condition is not None:
            logits[..., 1] = -torch.inf
        return logits


def test_no_guidance_is_the_network_without_its_condition():
    model = VADDModel(LabelDenoiser(), StandardNormalPrior(0), MaskingProcess(LinearSchedule(), 2))
    label = torch.zeros(1000, dtype=torch.int64)
    free = model.sample(1000, num_steps=1, condition=label, guidance=0.0, seed=0)
    # A share of one half of 1,000 draws lies outside these limits with probability below 1e-8.
    assert 0.4 < free.double().mean() < 0.6
    for guidance in (0.5, 1.0, 3.0):
        assert not model.sample(1000, num_steps=1, condition=label, guidance=guidance, seed=0).any()


def test_min_p_does_not_depend_on_the_precision():
    logits = torch.tensor([30.0, 27.0, 20.0])  # exp(-3) is 0.0498
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        kept = Shaping(min_p=0.05)(logits.to(dtype)).isfinite()
        assert kept.tolist() == [True, False, False]


def test_a_mask_probability_that_underflows_reveals_the_rest():
    model = tiny_model(2, 3, latent_dim=0, schedule=PolynomialSchedule(2.0))
    grid = torch.tensor([1.0, 1e-200, 0.0], dtype=torch.float64)
    assert int(model.sample(8, num_steps=2, time_grid=grid, seed=0).max()) < 2


@pytest.mark.parametrize("method", ["ancestral", "remasking", "predictor-corrector"])
def test_jumps_between_mask_probabilities_of_zero_change_nothing(method):
    """Of eight steps the last seven start where the probability underflows, or nearly: all is revealed before."""
    model, trajectory = tiny_model(2, 3, latent_dim=0, schedule=PolynomialSchedule(400.0)), Trajectory()
    x = model.sample(64, num_steps=8, method=method, seed=0, record=trajectory)
    assert int(x.max()) < 2
    if method == "ancestral":
        assert torch.equal(trajectory.x[1], x)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"condition": 3}, ShapeError, "condition must be a tensor with one row a sequence"),
        ({"condition": torch.tensor(3)}, ShapeError, "condition must be a tensor with one row a sequence"),
        ({"latents": PosteriorLatents}, ConfigError, "latents must be an object, got a class"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        tiny_model(2, 3).sample(2, num_steps=2, **options)


@pytest.mark.usefixtures("_unchecked")
def test_blocks_of_odd_lengths_are_refused():
    with pytest.raises(DomainError, match="lengths must be an integer or a sequence"):
        LatentBlocks(2.5)


def test_a_grid_is_not_optimized_for_another_sampler_unasked():
    model = tiny_model(2, 2)
    guide = RecognitionGuide(TabularRecognition(2, 2))
    x_0 = torch.zeros(4, 2, dtype=torch.int64)
    model.latents = "shared"
    with pytest.raises(ConfigError, match="have no costs by jump"):
        optimize_grid(model, guide, x_0, num_candidates=3)
    assert len(optimize_grid(model, guide, x_0, num_candidates=3, latents="null")(2)) == 3
