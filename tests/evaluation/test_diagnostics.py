"""Diagnostics against cases where the answer is known."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import diagnose_latent
from vadd.priors import CategoricalPrior, FlowPrior, LatentPrior, MixturePrior, StandardNormalPrior
from vadd.samplers import LatentGate
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
    prior = StandardNormalPrior(prior) if isinstance(prior, int) else prior
    return VADDModel(denoiser, prior, process), RecognitionGuide(recognition)


COPIES = torch.tensor([[0, 0], [1, 1]]).repeat(100, 1)
WHOLE_AND_IN_PARTS = pytest.mark.parametrize("rows_per_call", [1024, 30])


def test_a_collapsed_latent_is_seen():
    model, guide = pair(SignDenoiser(0.0), FixedRecognition(0.0, 1.0))
    report = diagnose_latent(model, guide, COPIES)
    assert report.is_collapsed
    assert report.active_units == 0
    assert report.kl_per_bin.abs().max() < 1e-6
    assert abs(report.mutual_information) < 1e-6
    assert abs(report.mixture_off_loss) < 1e-6
    assert "collapsed" in str(report)


def test_one_latent_a_trajectory_is_judged_where_it_is_drawn():
    model, guide = pair(SignDenoiser(0.0), FixedRecognition(0.0, 1.0))
    model.latents = "shared"
    report = diagnose_latent(model, guide, COPIES)
    assert report.is_shared
    assert report.is_collapsed
    # A guide of whole sequences may say anything of partly masked ones.
    elsewhere = replace(report, kl_per_bin=torch.tensor([3.0, 2.0, 1.0, 0.5]).double())
    assert elsewhere.is_collapsed
    assert not replace(elsewhere, is_shared=False).is_collapsed
    assert not replace(elsewhere, kl_all_masked=0.5).is_collapsed


@pytest.mark.parametrize(
    ("latents", "plan", "is_shared"),
    [
        ("fresh", ("shared", "shared"), True),
        ("fresh", ("shared", "null"), True),
        ("fresh", ("shared", "fresh"), False),
        ("shared", ("fresh", "null"), False),
        ("shared", ("null", "null"), True),
        ("fresh", ("null", "null"), False),
    ],
)
def test_a_gated_model_is_judged_by_its_gate(latents, plan, is_shared):
    model, guide = pair(SignDenoiser(0.0), FixedRecognition(0.0, 1.0))
    model.latents, model.gate = latents, LatentGate({2: plan})
    assert diagnose_latent(model, guide, COPIES, num_latents=2).is_shared is is_shared


class CountingRecognition(FixedRecognition):
    """Mean at the number of tokens that are explained: a KL divergence of half its square."""

    def forward(self, tokens, target, t):
        loc = target.sum(-1, keepdim=True).to(t.dtype)
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def test_a_bin_masks_its_share_of_the_tokens():
    model, guide = pair(SignDenoiser(0.0), CountingRecognition(0.0, 1.0))
    report = diagnose_latent(model, guide, COPIES, num_bins=2)
    torch.testing.assert_close(report.kl_per_bin, torch.tensor([0.5, 2.0]).double())
    is_frozen = torch.tensor([False, True]).expand(len(COPIES), -1)
    frozen = diagnose_latent(model, guide, COPIES, num_bins=2, is_frozen=is_frozen)
    torch.testing.assert_close(frozen.kl_per_bin, torch.tensor([0.5, 0.5]).double())


@WHOLE_AND_IN_PARTS
def test_a_live_latent_carries_the_bit(rows_per_call):
    distance, scale = 0.8, 0.1
    model, guide = pair(SignDenoiser(6.0), FixedRecognition(distance, scale))
    report = diagnose_latent(model, guide, COPIES, rows_per_call=rows_per_call)
    kl = 0.5 * (scale**2 + distance**2 - 1) - math.log(scale)
    torch.testing.assert_close(report.kl_per_bin, torch.full((4,), kl).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(report.kl_per_dimension[:, 0].double(), report.kl_per_bin)
    assert report.kl_all_masked == pytest.approx(kl)
    assert report.active_units == 1
    assert not report.is_collapsed
    # Two well separated posteriors of equal weight: one bit of information.
    assert report.mutual_information == pytest.approx(math.log(2), abs=0.02)
    # The rest of the KL is the gap; both parts are estimates from 200 draws of spread below 1.
    assert report.mutual_information + report.prior_gap == pytest.approx(kl, abs=0.3)
    # With z = 0 each token is a fair coin, 2 ln 2; with the latent one coin serves both, ln 2 and a little. Few
    # latents inside the logarithm underestimate the gain, by less than a tenth here.
    assert math.log(2) - 0.07 < report.mixture_off_loss < math.log(2)


# Latents that are not normal


def mixture_at(distance, scale):
    """The mixture that is the aggregate of the two posteriors of :class:`FixedRecognition`."""
    prior = MixturePrior(1, 2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-distance], [distance]]))
        prior.log_variance.fill_(2 * math.log(scale))
    return prior


@WHOLE_AND_IN_PARTS
def test_a_mixture_that_is_the_aggregate_leaves_no_gap(rows_per_call):
    """The KL, estimated from 16 draws of 200 rows, is then all information: one bit."""
    distance, scale = 0.8, 0.1
    model, guide = pair(SignDenoiser(6.0), FixedRecognition(distance, scale), prior=mixture_at(distance, scale))
    report = diagnose_latent(model, guide, COPIES, rows_per_call=rows_per_call)
    assert report.mutual_information == pytest.approx(math.log(2), abs=0.02)
    assert abs(report.prior_gap) < 0.02
    # Each log-ratio is ln 2, but for tails of the other component.
    torch.testing.assert_close(report.kl_per_bin, torch.full((4,), math.log(2)).double(), atol=1e-3, rtol=0)
    assert report.kl_per_dimension is None
    assert report.active_units == 1


def test_a_flow_at_its_start_reports_what_the_standard_normal_does():
    reports = []
    for prior in (StandardNormalPrior(1), FlowPrior(1, num_layers=2, hidden_size=4)):
        model, guide = pair(SignDenoiser(6.0), FixedRecognition(0.8, 0.5), prior=prior)
        reports.append(diagnose_latent(model, guide, COPIES))
    normal, flow = reports
    # From 200 and 3,200 draws of spread about one half, where the normal has a formula for the KL.
    assert flow.mutual_information == pytest.approx(normal.mutual_information, abs=0.15)
    assert flow.prior_gap == pytest.approx(normal.prior_gap, abs=0.15)
    torch.testing.assert_close(flow.kl_per_bin, normal.kl_per_bin, atol=0.1, rtol=0)
    assert normal.kl_per_bin.min() > 0.4
    assert flow.kl_per_dimension is None


class BitDenoiser(Denoiser):
    """Both tokens the category of the first group, with log-odds ``strength``; other groups are not read."""

    def __init__(self, strength, groups):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = 2, 2, torch.Size([groups, 2])
        self.strength = strength

    def forward(self, x_t, t, z):
        return self.strength * z[:, :1].expand(-1, 2, -1)


class BitRecognition(Recognition):
    """Groups that hold the first token with log-odds ``logits``, one a group."""

    def __init__(self, logits):
        super().__init__()
        self.latent_shape, self.logits = torch.Size([len(logits), 2]), logits

    def forward(self, tokens, target, t):
        sign = 2.0 * tokens[:, 0] - 1
        half = 0.5 * sign[:, None] * torch.tensor(self.logits)
        return dist.OneHotCategoricalStraightThrough(logits=torch.stack([-half, half], -1)).to_event(1)


class SkewedPrior(LatentPrior):
    """Prefers the second category of every group."""

    def __init__(self, groups):
        super().__init__()
        self.latent_shape = torch.Size([groups, 2])

    def forward(self, x_t, t):
        logits = torch.tensor([0.0, 0.5]).expand(len(t), *self.latent_shape)
        return dist.OneHotCategorical(logits=logits).to_event(1)


def binary_entropy(logit):
    p = 1 / (1 + math.exp(-logit))
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_a_discrete_latent_is_measured_by_groups():
    """Three groups, sure, unsure and idle: KL of each by formula, information of all, two active."""
    logits = [9.0, 1.0, 0.0]
    model, guide = pair(BitDenoiser(6.0, 3), BitRecognition(logits), prior=CategoricalPrior((3, 2)))
    report = diagnose_latent(model, guide, COPIES)
    kl = torch.tensor([math.log(2) - binary_entropy(logit) for logit in logits])
    torch.testing.assert_close(report.kl_per_dimension, kl.expand(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(report.kl_per_bin, kl.double().sum().expand(4), atol=1e-5, rtol=0)
    assert (report.active_units, report.num_latent) == (2, 3)
    # The first group tells the sequence, and with it all that the others do: little more than one bit in all.
    assert report.mutual_information == pytest.approx(math.log(2), abs=0.02)
    assert report.mutual_information + report.prior_gap == pytest.approx(float(kl.sum()), abs=0.3)
    assert "2 of 3 units active" in str(report)


@pytest.mark.parametrize(("prior", "category"), [(CategoricalPrior((1, 2)), 0), (SkewedPrior(1), 1)])
def test_a_discrete_latent_is_fixed_at_its_most_probable_category(prior, category):
    """The one-step likelihood given that category, against that of both; zero would be no value of the latent."""
    strength, p = 2.0, 1 / (1 + math.exp(-2.0))
    weight = torch.softmax(torch.tensor([0.0, 0.5 if category else 0.0]), 0).tolist()
    model, guide = pair(BitDenoiser(strength, 1), BitRecognition([3.0]), prior=prior)
    mostly_zeros = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 1]]).repeat(50, 1)
    report = diagnose_latent(model, guide, mostly_zeros, num_latents=512)
    joint = [math.log(sum(weight[c] * (p if c == bit else 1 - p) ** 2 for c in (0, 1))) for bit in (0, 1)]
    off = [2 * math.log(p if bit == category else 1 - p) for bit in (0, 1)]
    expected = 0.75 * (joint[0] - off[0]) + 0.25 * (joint[1] - off[1])
    assert report.mixture_off_loss == pytest.approx(expected, abs=0.01)


def test_no_network_sees_more_rows_than_asked_for():
    """The same KL of 40 sequences in parts; what is drawn is judged in other tests."""
    size = {"hidden_size": 16, "depth": 1, "embedding_size": 4}
    model, guide = pair(MLPDenoiser(5, 6, 3, **size), MLPRecognition(5, 6, 3, **size), prior=3, vocab_size=5)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    seen, features = [], model.denoiser.features
    model.denoiser.features = lambda x_t, *others: (seen.append(len(x_t)), features(x_t, *others))[1]
    for network in (model.prior, guide.recognition):
        network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    x_0 = torch.randint(5, (40, 6))
    whole = diagnose_latent(model, guide, x_0)
    assert max(seen) > 40
    seen.clear()
    parts = diagnose_latent(model, guide, x_0, rows_per_call=8)
    assert max(seen) == 8
    for name in ("kl_per_bin", "kl_per_dimension"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert parts.kl_all_masked == pytest.approx(whole.kl_all_masked, rel=1e-5)
    assert (parts.active_units, parts.num_latent) == (whole.active_units, whole.num_latent)
    with pytest.raises(DomainError, match="rows_per_call"):
        diagnose_latent(model, guide, x_0, rows_per_call=0)


class WidePosterior(Recognition):
    """The same wide distribution for all sequences, without a formula for its mean."""

    def __init__(self):
        super().__init__()
        self.latent_shape = torch.Size([1])

    def forward(self, tokens, target, t):
        shift = torch.distributions.transforms.AffineTransform(0.0, 3.0, event_dim=1)
        return dist.TransformedDistribution(dist.Normal(torch.zeros(len(t), 1), 1.0).to_event(1), [shift])


@WHOLE_AND_IN_PARTS
def test_draws_do_not_make_a_unit_active(rows_per_call):
    """Means of 256 draws of variance 9 vary by 0.035 of themselves, more than the threshold of 0.01."""
    model, guide = pair(SignDenoiser(0.0), WidePosterior())
    assert diagnose_latent(model, guide, COPIES, rows_per_call=rows_per_call).active_units == 0


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
    with pytest.raises(DomainError, match="seed must be an integer of at least 0, got -1"):
        diagnose_latent(model, guide, COPIES, seed=-1)
    size = {"hidden_size": 8, "depth": 1}
    mdm, empty = pair(MLPDenoiser(2, 2, 0, **size), EmptyRecognition(), prior=0)
    with pytest.raises(ConfigError, match="no latent"):
        diagnose_latent(mdm, empty, COPIES)
