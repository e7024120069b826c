"""Diagnostics against cases where the answer is known."""

import math

import pyro.distributions as dist
import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import diagnose_latent
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule


class SignDenoiser(Denoiser):
    """Two binary tokens, both the sign of the latent with log-odds ``strength``."""

    def __init__(self, strength):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = 2, 2, torch.Size([1])
        self.strength = strength

    def forward(self, x_t, t, z):
        logit = self.strength * torch.sign(z)
        return torch.stack([torch.zeros_like(logit), logit], -1).expand(-1, 2, -1)


class FixedRecognition(Recognition):
    """Mean at ``+-distance`` by the first token, or at zero where nothing is explained."""

    def __init__(self, distance, scale):
        super().__init__()
        self.latent_shape = torch.Size([1])
        self.distance, self.scale = distance, scale

    def forward(self, tokens, target, t):
        loc = self.distance * (2.0 * tokens[:, :1] - 1)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(1)


def pair(denoiser, recognition, prior=1, vocab_size=2):
    process = MaskingProcess(LinearSchedule(), vocab_size)
    return VADDModel(denoiser, StandardNormalPrior(prior), process), RecognitionGuide(recognition)


COPIES = torch.tensor([[0, 0], [1, 1]]).repeat(100, 1)


def test_a_collapsed_latent_is_seen():
    model, guide = pair(SignDenoiser(0.0), FixedRecognition(0.0, 1.0))
    report = diagnose_latent(model, guide, COPIES)
    assert report.is_collapsed
    assert report.active_units == 0
    assert report.kl_per_bin.abs().max() < 1e-6
    assert abs(report.mutual_information) < 1e-6
    assert abs(report.mixture_off_loss) < 1e-6
    assert "collapsed" in str(report)


def test_a_live_latent_carries_the_bit():
    distance, scale = 0.8, 0.1
    model, guide = pair(SignDenoiser(6.0), FixedRecognition(distance, scale))
    report = diagnose_latent(model, guide, COPIES)
    kl = 0.5 * (scale**2 + distance**2 - 1) - math.log(scale)
    torch.testing.assert_close(report.kl_per_bin, torch.full((4,), kl).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(report.kl_per_dimension[:, 0].double(), report.kl_per_bin)
    assert report.active_units == 1
    assert not report.is_collapsed
    # Two well separated posteriors of equal weight: one bit of information.
    assert report.mutual_information == pytest.approx(math.log(2), abs=0.02)
    # The rest of the KL is the gap; both parts are estimates from 200 draws of spread below 1.
    assert report.mutual_information + report.prior_gap == pytest.approx(kl, abs=0.3)
    # With z = 0 each token is a fair coin, 2 ln 2; with the latent one coin serves both, ln 2 and a little. Few
    # latents inside the logarithm underestimate the gain, by less than a tenth here.
    assert math.log(2) - 0.07 < report.mixture_off_loss < math.log(2)


def test_nothing_is_left_behind():
    size = {"hidden_size": 16, "depth": 1, "embedding_size": 4}
    denoiser = MLPDenoiser(5, 6, 3, dropout=0.5, **size)
    model, guide = pair(denoiser, MLPRecognition(5, 6, 3, **size), prior=3, vocab_size=5)
    x_0 = torch.randint(5, (10, 6))
    state = torch.random.get_rng_state()
    first, second = diagnose_latent(model, guide, x_0), diagnose_latent(model, guide, x_0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.mutual_information == second.mutual_information
    assert model.training
    assert first.kl_per_dimension.shape == (4, 3)
    assert first.num_latent == 3


def test_bad_input():
    model, guide = pair(SignDenoiser(1.0), FixedRecognition(0.0, 1.0))
    with pytest.raises(DomainError, match="at least 2 sequences"):
        diagnose_latent(model, guide, COPIES[:1])
    with pytest.raises(DomainError, match="num_bins=0"):
        diagnose_latent(model, guide, COPIES, num_bins=0)
    size = {"hidden_size": 8, "depth": 1}
    mdm, empty = pair(MLPDenoiser(2, 2, 0, **size), EmptyRecognition(), prior=0)
    with pytest.raises(ConfigError, match="no latent"):
        diagnose_latent(mdm, empty, COPIES)
