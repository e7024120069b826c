"""Priors fitted to the aggregate posterior, where the best possible gain is known."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Recognition
from vadd.errors import ConfigError, DomainError, DtypeError
from vadd.evaluation import log_likelihood_bound
from vadd.priors import (
    CategoricalPrior,
    ConditionalPrior,
    FlowPrior,
    MixturePrior,
    StandardNormalPrior,
    TrunkPrior,
    VampPrior,
)
from vadd.schedules import LinearSchedule
from vadd.training.aggregate import fit_aggregate_prior

NETWORK = {"hidden_size": 16, "depth": 1, "modulation_size": 8}
VOCAB, LENGTH = 2, 3


class Apart(Recognition):
    """Posteriors at ``+-0.8`` by the first token: their aggregate is a mixture of two."""

    latent_shape = torch.Size([1])
    scale = 0.1

    def forward(self, tokens, target, t, **options):
        loc = 0.8 * (2.0 * tokens[:, :1] - 1)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(1)


class Sure(Recognition):
    """Two groups of three categories: the first token, and always the last one, with log-odds 3."""

    latent_shape = torch.Size([2, 3])

    def forward(self, tokens, target, t, **options):
        category = torch.stack([tokens[:, 0], torch.full_like(tokens[:, 0], 2)], -1)
        logits = 3.0 * torch.nn.functional.one_hot(category, 3)
        return dist.OneHotCategoricalStraightThrough(logits=logits).to_event(1)


class Memory(Recognition):
    """A narrow posterior at a random place for each sequence: nothing carries over to others."""

    latent_shape = torch.Size([4])

    def __init__(self, vocab):
        super().__init__()
        self.register_buffer("places", torch.randn(vocab, 4))

    def forward(self, tokens, target, t, **options):
        return dist.Normal(self.places[tokens[:, 0]], 0.05).to_event(1)


def pair(recognition, prior=None, vocab=VOCAB):
    shape = tuple(recognition.latent_shape)
    denoiser = MLPDenoiser(vocab, LENGTH, shape, **NETWORK)
    model = VADDModel(denoiser, prior or StandardNormalPrior(shape), MaskingProcess(LinearSchedule(), vocab))
    return model, RecognitionGuide(recognition)


def rows(num=600, vocab=VOCAB):
    return torch.randint(vocab, (num, LENGTH))


def test_the_gain_is_the_gap_between_prior_and_aggregate():
    """The KL to N(0, 1) is known; of it only the information, one bit, is left."""
    model, guide = pair(Apart())
    fit = fit_aggregate_prior(model, guide, rows(1500), num_components=2, learning_rate=0.05)
    kl = 0.5 * (0.1**2 + 0.8**2 - 1) - math.log(0.1)
    assert isinstance(fit.prior, MixturePrior)
    assert fit.gain == pytest.approx(kl - math.log(2), abs=0.05)
    assert 0 < fit.stderr < 0.02
    assert fit.num_rows == 150
    assert "MixturePrior after" in str(fit)
    assert "nats per sequence gained on 150 held-out sequences" in str(fit)


def test_the_bound_of_one_step_gains_as_much():
    """With the same denoiser and guide; the difference of means of 400 sequences, paired by the seed."""
    model, guide = pair(Apart())
    x_0 = rows(1500)
    fit = fit_aggregate_prior(model, guide, x_0, num_components=2, learning_rate=0.05)
    better = VADDModel(model.denoiser, fit.prior, model.process)
    values = [
        log_likelihood_bound(m, guide, x_0[:400], bound=bound, num_steps=1).nats
        for bound in ("finite-step", "shared-latent")
        for m in (model, better)
    ]
    assert values[0] - values[1] == pytest.approx(fit.gain, abs=0.1)
    assert values[2] - values[3] == pytest.approx(fit.gain, abs=0.1)
    assert better.sample(5, num_steps=1).shape == (5, LENGTH)


def test_rows_of_the_fit_do_not_measure_it():
    """A guide that memorizes: mixture components on the rows of the fit, and nothing gained on others."""
    x_0 = torch.arange(200)[:, None].expand(-1, LENGTH).contiguous()
    model, guide = pair(Memory(200), vocab=200)
    fit = fit_aggregate_prior(model, guide, x_0, num_components=160, max_epochs=60, patience=60)
    assert fit.gain < 0.5
    with torch.no_grad():
        z = guide.encode(x_0).sample()
        ones = torch.ones(200)
        scores = [p(x_0, ones).log_prob(z) for p in (fit.prior, model.prior)]
    assert (scores[0] - scores[1]).mean() > fit.gain  # the rows of the fit are among these


def test_the_guide_sees_each_row_once():
    """It stays as it is: however many passes there are, only the draws are new."""
    model, guide = pair(Apart())
    seen = []
    guide.recognition.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    fit = fit_aggregate_prior(model, guide, rows(), num_components=2, max_epochs=20, patience=20)
    assert fit.num_epochs > 1
    assert sum(seen) == 600


def test_the_best_prior_of_the_stopping_rows_is_kept():
    """Far too large steps: the start, on the posteriors' draws, stays the best."""
    model, guide = pair(Apart())
    fit = fit_aggregate_prior(model, guide, rows(), num_components=2, learning_rate=1e3, patience=3)
    assert fit.num_epochs == 0
    torch.testing.assert_close(fit.prior.loc.abs(), torch.full((2, 1), 0.8), atol=0.4, rtol=0)


def test_discrete_latents_get_the_frequencies_of_their_categories():
    model, guide = pair(Sure(), CategoricalPrior((2, 3), is_learned=False))
    fit = fit_aggregate_prior(model, guide, rows(3000), learning_rate=0.1)
    assert isinstance(fit.prior, CategoricalPrior)
    p = math.exp(3) / (math.exp(3) + 2)
    expected = torch.tensor([[0.25 + 0.25 * p, 0.25 + 0.25 * p, 0.5 * (1 - p)], [(1 - p) / 2, (1 - p) / 2, p]])
    torch.testing.assert_close(fit.prior.logits.softmax(-1), expected, atol=0.04, rtol=0)
    aggregate = sum(float(-(row * row.log()).sum()) for row in expected)
    assert fit.gain == pytest.approx(2 * math.log(3) - aggregate, abs=0.06)


@pytest.mark.parametrize(
    "make_prior",
    [
        lambda guide: FlowPrior(1, num_layers=2, hidden_size=16),
        lambda guide: ConditionalPrior(MLPRecognition(VOCAB, LENGTH, 1, **NETWORK), VOCAB),
        lambda guide: TrunkPrior(1, 16),
        lambda guide: VampPrior.from_data(guide.recognition, rows(20), 5),
    ],
    ids=["flow", "conditional", "trunk", "vamp"],
)
def test_any_prior_is_fitted_in_place_and_nothing_else_changes(make_prior):
    recognition = MLPRecognition(VOCAB, LENGTH, 1, **NETWORK, dropout=0.1)
    with torch.no_grad():
        recognition.family.loc.bias.fill_(1.5)  # where the standard normal is not
    model, guide = pair(recognition)
    prior, x_0 = make_prior(guide), rows(300)
    before = copy.deepcopy((model.state_dict(), guide.state_dict()))
    own, state = copy.deepcopy(prior.state_dict()), torch.get_rng_state()
    fit = fit_aggregate_prior(model, guide, x_0, prior=prior, max_epochs=20, learning_rate=0.02)
    assert fit.prior is prior
    assert not prior.training
    assert fit.gain > 0.2
    assert any(not torch.equal(value, own[key]) for key, value in prior.state_dict().items())
    for part, old in zip((model, guide), before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in part.state_dict().items())
        assert all(p.grad is None for p in part.parameters())
        assert part.training
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_and_conditions_reach_guide_and_prior():
    options = {**NETWORK, "num_classes": 2}
    recognition = MLPRecognition(VOCAB, LENGTH, 1, **options)
    seen = []

    class Spy(MLPRecognition):
        def forward(self, tokens, target, t, **options):
            seen.append((tokens, options))
            return super().forward(tokens, target, t, **options)

    model, guide = pair(recognition)
    x_0, labels = rows(60), torch.randint(2, (60,))
    is_padding = torch.zeros_like(x_0, dtype=torch.bool)
    is_padding[:, 2] = True
    prior = ConditionalPrior(Spy(VOCAB, LENGTH, 1, **options), VOCAB)
    fit_aggregate_prior(model, guide, x_0, prior=prior, max_epochs=2, is_padding=is_padding, condition=labels)
    assert len(seen) > 3
    for tokens, given in seen:
        assert given["is_padding"].shape == tokens.shape
        assert given["condition"].shape == tokens.shape[:1]
        assert (tokens[:, :2] == VOCAB).all()  # all masked
        assert (tokens[:, 2] < VOCAB).all()  # but for padding


def test_equal_seeds_give_equal_fits():
    model, guide = pair(Apart())
    x_0 = rows(100)
    state = torch.get_rng_state()
    fits = [fit_aggregate_prior(model, guide, x_0, num_components=3, max_epochs=4, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fits[0].prior.loc, fits[1].prior.loc)
    assert fits[0].gain == fits[1].gain != fits[2].gain


def test_what_cannot_be_fitted_is_refused():
    model, guide = pair(Apart())
    x_0 = rows(30)
    with pytest.raises(ConfigError, match="StandardNormalPrior has no parameters to fit"):
        fit_aggregate_prior(model, guide, x_0, prior=StandardNormalPrior(1))
    with pytest.raises(ConfigError, match=r"model and prior disagree on latent_shape: \(1,\) and \(2,\)"):
        fit_aggregate_prior(model, guide, x_0, prior=MixturePrior(2))
    with pytest.raises(ConfigError, match="prior must not be the model's own"):
        fit_aggregate_prior(model, guide, x_0, prior=model.prior)
    with pytest.raises(ConfigError, match=r"model and guide disagree on latent_shape: \(1,\) and \(4,\)"):
        fit_aggregate_prior(model, RecognitionGuide(Memory(2)), x_0)
    mdm = VADDModel(MLPDenoiser(VOCAB, LENGTH, 0, **NETWORK), StandardNormalPrior(0), model.process)
    with pytest.raises(ConfigError, match="the model has no latent"):
        fit_aggregate_prior(mdm, RecognitionGuide(EmptyRecognition()), x_0)
    with pytest.raises(DomainError, match="at least 2 rows to fit and 4 held out, got 10 rows.*: 8 and 2"):
        fit_aggregate_prior(model, guide, rows(10))
    with pytest.raises(DomainError, match=r"held_out must lie in \(0, 1\)"):
        fit_aggregate_prior(model, guide, x_0, held_out=1.0)
    with pytest.raises(DomainError, match="patience must be an integer of at least 1, got 0"):
        fit_aggregate_prior(model, guide, x_0, patience=0)
    with pytest.raises(DomainError, match="seed must be an integer of at least 0, got -1"):
        fit_aggregate_prior(model, guide, x_0, seed=-1)


@pytest.mark.usefixtures("_unchecked")
def test_tokens_of_another_type_are_refused():
    model, guide = pair(Apart())
    with pytest.raises(DtypeError, match="x_0 must hold int64 tokens"):
        fit_aggregate_prior(model, guide, rows(30).float())
