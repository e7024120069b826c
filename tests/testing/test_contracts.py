"""The contract checks pass on the library's parts and fail on parts that are broken in one way each."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from vadd.backbones import DiTDenoiser, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Denoiser, EmptyRecognition, FeatureDenoiser, Recognition, diagonal_normal
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    NoiseSchedule,
    PolynomialSchedule,
)
from vadd.testing import check_denoiser, check_prior, check_recognition, check_schedule

VOCAB, LENGTH = 4, 6


@pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(),
        CosineSchedule(),
        PolynomialSchedule(2.0),
        PolynomialSchedule(0.7),
        GeometricSchedule(),
    ],
    ids=repr,
)
def test_library_schedules_keep_the_contract(schedule):
    check_schedule(schedule)


class _Quadratic(NoiseSchedule):
    """A correct schedule, alpha = 1 - t^2, for the broken ones to inherit from."""

    def alpha(self, t):
        return 1 - t**2

    def alpha_dot(self, t):
        return -2 * t

    def inverse(self, alpha):
        return (1 - alpha).sqrt()

    def mask_probability(self, t):
        return t**2

    def time_of(self, mask_probability):
        return mask_probability.sqrt()


class _InexactEnd(_Quadratic):
    def alpha(self, t):
        return 1 - 0.999 * t**2


class _Rising(_Quadratic):
    def alpha(self, t):
        return 1 - t**2 + 0.3 * torch.sin(6.283185307179586 * t) * (t < 1) * (t > 0)


class _WrongDerivative(_Quadratic):
    def alpha_dot(self, t):
        return -2.01 * t


class _WrongInverse(_Quadratic):
    def inverse(self, alpha):
        return 1 - alpha


class _WrongMaskProbability(_Quadratic):
    def mask_probability(self, t):
        return t


class _WrongTimeOf(_Quadratic):
    def time_of(self, mask_probability):
        return mask_probability


class _Cancelling(_Quadratic):
    def mask_probability(self, t):
        return 1 - self.alpha(t)


class _WrongWeight(_Quadratic):
    def weight(self, t):
        return 1 / t


def test_a_correct_schedule_passes():
    check_schedule(_Quadratic())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (_InexactEnd, "exactly 1"),
        (_Rising, "must decrease"),
        (_WrongDerivative, "alpha_dot"),
        (_WrongInverse, "inverse"),
        (_WrongMaskProbability, "mask_probability must be 1 - alpha"),
        (_WrongTimeOf, "time_of"),
        (_Cancelling, "digits in float32"),
        (_WrongWeight, "weight must be"),
    ],
)
def test_broken_schedules_are_caught(schedule, message):
    with pytest.raises(AssertionError, match=message):
        check_schedule(schedule())


class _Prior(LatentPrior):
    """A correct conditional prior, for the broken ones to inherit from."""

    latent_shape = torch.Size([2])

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB + 1, 2)

    def loc(self, x_t, is_padding):
        embedded = self.embedding(x_t)
        return embedded.sum(1) if is_padding is None else (embedded * ~is_padding[..., None]).sum(1)

    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return diagonal_normal(self.loc(x_t, is_padding), torch.zeros(len(t), 2))


class _PriorWithoutEvent(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return dist.Normal(self.loc(x_t, is_padding), 1.0)


class _InfinitePrior(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return dist.Normal(self.loc(x_t, is_padding) / 0.0, 1.0, validate_args=False).to_event(1)


class _PriorAcrossRows(_Prior):
    def loc(self, x_t, is_padding):
        loc = super().loc(x_t, is_padding)
        return loc - loc.mean(0)


class _PriorReadsPadding(_Prior):
    def loc(self, x_t, is_padding):
        return self.embedding(x_t).sum(1)


class _PriorWithIdleParameter(_Prior):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))


class _InfiniteWhenMasked(_Prior):
    def loc(self, x_t, is_padding):
        return super().loc(x_t, is_padding) / (x_t != VOCAB).any(-1, keepdim=True)


class _NaNForPaddingPrior(_Prior):
    def loc(self, x_t, is_padding):
        loc = super().loc(x_t, is_padding)
        return loc if is_padding is None else loc / (~is_padding).any(-1, keepdim=True)


class _Unnormalized(dist.Normal):
    def log_prob(self, value):
        return 1.1 * super().log_prob(value)


class _PriorOfWrongDensity(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return _Unnormalized(self.loc(x_t, is_padding), 1.0).to_event(1)


class _Fixed(dist.TorchDistribution):
    """A normal without ``expand``."""

    arg_constraints = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, loc):
        self.normal = dist.Normal(loc, 1.0).to_event(1)
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def rsample(self, sample_shape=()):
        return self.normal.rsample(sample_shape)

    def log_prob(self, value):
        return self.normal.log_prob(value)


class _PriorWithoutExpand(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return _Fixed(self.loc(x_t, is_padding))


class _Detached(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value.detach())


class _PriorDetachesLatent(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        return _Detached(self.loc(x_t, is_padding), 1.0).to_event(1)


class _PriorKeepsResults(_Prior):
    def forward(self, x_t, t, *, is_padding=None, condition=None):
        self.latest = self.loc(x_t, is_padding)
        return diagonal_normal(self.latest, torch.zeros(len(t), 2))


@pytest.mark.parametrize(
    "prior", [_Prior(), StandardNormalPrior(2), StandardNormalPrior((6, 3)), StandardNormalPrior(0)]
)
def test_correct_priors_pass(prior):
    check_prior(prior, VOCAB, LENGTH)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (_PriorWithoutEvent, "to_event"),
        (_InfinitePrior, "finite"),
        (_PriorAcrossRows, "rows of a batch"),
        (_PriorReadsPadding, "is_padding"),
        (_PriorWithIdleParameter, "idle"),
        (_InfiniteWhenMasked, "finite when all is masked"),
        (_NaNForPaddingPrior, "all padding"),
        (_PriorOfWrongDensity, "must be the density that sample draws from"),
        (_PriorWithoutExpand, "_Fixed must define expand"),
        (_PriorDetachesLatent, "finite gradients to the latent"),
        (_PriorKeepsResults, "copyable after a call"),
    ],
)
def test_broken_priors_are_caught(prior, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(prior(), VOCAB, LENGTH)


class _Denoiser(FeatureDenoiser):
    """A correct denoiser, for the broken ones to inherit from."""

    vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([2])

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB + 1, 8)
        self.latent = nn.Linear(2, 8)
        self.head = nn.Linear(8, VOCAB)

    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        embedded = self.embedding(x_t)
        visible = embedded if is_padding is None else embedded * ~is_padding[..., None]
        return torch.tanh(embedded + visible.mean(1, keepdim=True) + self.latent(z)[:, None])


class _WrongShape(_Denoiser):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, VOCAB + 1)


class _NotFinite(_Denoiser):
    def features(self, x_t, t, z, **options):
        return super().features(x_t, t, z, **options).masked_fill((x_t == VOCAB)[..., None], torch.nan)


class _IgnoresTokens(_Denoiser):
    def features(self, x_t, t, z, **options):
        return super().features(torch.zeros_like(x_t), t, z, **options)


class _IgnoresLatent(_Denoiser):
    def features(self, x_t, t, z, **options):
        return super().features(x_t, t, torch.zeros_like(z), **options)


class _DetachesLatent(_Denoiser):
    def features(self, x_t, t, z, **options):
        return super().features(x_t, t, z.detach(), **options)


class _IdleParameter(_Denoiser):
    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(2, 2)


class _AcrossRows(_Denoiser):
    def features(self, x_t, t, z, **options):
        features = super().features(x_t, t, z, **options)
        return features - features.mean(0)


class _ReadsPadding(_Denoiser):
    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        return super().features(x_t, t, z)


class _NaNForPadding(_Denoiser):
    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        features = super().features(x_t, t, z, is_padding=is_padding)
        return features if is_padding is None else features / (~is_padding).any(1)[:, None, None]


class _HeadAcrossPositions(_Denoiser):
    class _Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, VOCAB)

        def forward(self, features):
            return self.linear(features - features.mean(-2, keepdim=True))

    def __init__(self):
        super().__init__()
        self.head = self._Head()


class _WrongContext(_Denoiser):
    def context(self, x_t, t, z, **options):
        return self.embedding(x_t)[..., :4]


class _OwnForward(_Denoiser):
    def forward(self, x_t, t, z, **options):
        return super().forward(x_t, t, z, **options) + 1.0


def test_correct_denoisers_pass():
    check_denoiser(_Denoiser())
    check_denoiser(MLPDenoiser(VOCAB, LENGTH, 2, hidden_size=8, depth=1))
    check_denoiser(DiTDenoiser(VOCAB, None, 2, hidden_size=8, depth=1, num_heads=2), num_tokens=5)


def test_a_check_leaves_the_part_unchanged():
    denoiser = _Denoiser().train()
    before = {key: value.clone() for key, value in denoiser.state_dict().items()}
    check_denoiser(denoiser)
    assert denoiser.training
    assert all(torch.equal(value, before[key]) for key, value in denoiser.state_dict().items())
    assert all(p.grad is None for p in denoiser.parameters())


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (_WrongShape, "must have shape"),
        (_NotFinite, "finite"),
        (_IgnoresTokens, "depend on x_t"),
        (_IgnoresLatent, "depend on z"),
        (_DetachesLatent, "depend on z"),
        (_IdleParameter, "idle.weight, idle.bias"),
        (_AcrossRows, "rows of a batch"),
        (_ReadsPadding, "is_padding"),
        (_NaNForPadding, "all padding"),
        (_HeadAcrossPositions, "each position on its own"),
        (_OwnForward, "head\\(features"),
        (_WrongContext, "context must return"),
    ],
)
def test_broken_denoisers_are_caught(denoiser, message):
    with pytest.raises(AssertionError, match=message):
        check_denoiser(denoiser())


def test_a_denoiser_without_default_length_needs_one():
    with pytest.raises(AssertionError, match="num_tokens"):
        check_denoiser(DiTDenoiser(VOCAB, None, 2, hidden_size=8, depth=1, num_heads=2))


class _Recognition(Recognition):
    """A correct recognition network, for the broken ones to inherit from."""

    latent_shape = torch.Size([2])

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB + 1, 2)

    def loc(self, tokens, target, is_padding):
        embedded = self.embedding(tokens)
        if is_padding is not None:
            embedded = embedded * ~is_padding[..., None]
        return embedded.mean(1) + (embedded * target[..., None]).mean(1)

    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return diagonal_normal(self.loc(tokens, target, is_padding), torch.zeros(len(t), 2))


class _RecognitionWithoutEvent(_Recognition):
    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return dist.Normal(self.loc(tokens, target, is_padding), 1.0)


class _NotReparameterized(_Recognition):
    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return _ScoreOnly(self.loc(tokens, target, is_padding), 1.0).to_event(1)


class _ScoreOnly(dist.Normal):
    has_rsample = False


class _NoSampleGradient(_Recognition):
    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return diagonal_normal(self.loc(tokens, target, is_padding).detach(), torch.zeros(len(t), 2))


class _IgnoresTarget(_Recognition):
    def loc(self, tokens, target, is_padding):
        return super().loc(tokens, torch.ones_like(target), is_padding)


class _IgnoresItsTokens(_Recognition):
    def loc(self, tokens, target, is_padding):
        return super().loc(torch.zeros_like(tokens), target, is_padding)


class _NaNForEmptyTarget(_Recognition):
    def loc(self, tokens, target, is_padding):
        return super().loc(tokens, target, is_padding) / target.sum(-1, keepdim=True)


class _RecognitionAcrossRows(_Recognition):
    def loc(self, tokens, target, is_padding):
        loc = super().loc(tokens, target, is_padding)
        return loc - loc.mean(0)


class _RecognitionReadsPadding(_Recognition):
    def loc(self, tokens, target, is_padding):
        return super().loc(tokens, target, None)


class _IdleRecognition(_Recognition):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))


class _WrongDensity(_Recognition):
    """A variance where the scale belongs, in the draws only."""

    class _Normal(dist.Normal):
        def rsample(self, sample_shape=()):
            return self.loc + self.scale**2 * torch.randn(self._extended_shape(sample_shape))

    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return self._Normal(self.loc(tokens, target, is_padding), 0.5).to_event(1)


class _RecognitionWithoutExpand(_Recognition):
    class _Fixed(dist.TorchDistribution):
        has_rsample = True
        arg_constraints = {}

        def __init__(self, normal):
            self.normal = normal
            super().__init__(normal.batch_shape, normal.event_shape, validate_args=False)

        def rsample(self, sample_shape=()):
            return self.normal.rsample(sample_shape)

        def log_prob(self, value):
            return self.normal.log_prob(value)

    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        return self._Fixed(super().forward(tokens, target, t, is_padding=is_padding))


def test_correct_recognition_networks_pass():
    check_recognition(_Recognition(), VOCAB, LENGTH)
    check_recognition(MLPRecognition(VOCAB, LENGTH, 2, hidden_size=8, depth=1), VOCAB, LENGTH)
    check_recognition(EmptyRecognition(), VOCAB, LENGTH)


@pytest.mark.parametrize(
    ("recognition", "message"),
    [
        (_RecognitionWithoutEvent, "to_event"),
        (_NotReparameterized, "has_rsample"),
        (_NoSampleGradient, "carry gradients"),
        (_IgnoresTarget, "depend on target"),
        (_IgnoresItsTokens, "depend on the tokens"),
        (_NaNForEmptyTarget, "target is empty"),
        (_RecognitionAcrossRows, "rows of a batch"),
        (_RecognitionReadsPadding, "is_padding"),
        (_IdleRecognition, "idle"),
        (_WrongDensity, "must be the density that rsample draws from"),
        (_RecognitionWithoutExpand, "_Fixed must define expand"),
    ],
)
def test_broken_recognition_networks_are_caught(recognition, message):
    with pytest.raises(AssertionError, match=message):
        check_recognition(recognition(), VOCAB, LENGTH)


def test_a_plain_denoiser_needs_no_features():
    class Plain(Denoiser):
        vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([0])

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(VOCAB + 1, VOCAB)

        def forward(self, x_t, t, z):
            return self.table(x_t)

    check_denoiser(Plain())
