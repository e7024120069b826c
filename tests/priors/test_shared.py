"""Priors that run networks of other parts: the denoiser's trunk, the guide's recognition network."""

import copy

import pytest
import torch
from torch import nn

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Recognition
from vadd.backbones.families import DiagonalNormal, FlowNormal, FullNormal, LowRankNormal
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.priors import ConditionalPrior, TrunkPrior, VampPrior
from vadd.schedules import LinearSchedule
from vadd.testing import check_prior
from vadd.training import load_checkpoint, save_checkpoint

from .parts import LENGTH, NETWORK, VOCAB, PlainDenoiser, perturb, recognition_of


def trunk_pair():
    denoiser = MLPDenoiser(VOCAB, LENGTH, 3, **NETWORK)
    model = VADDModel(denoiser, TrunkPrior(3, 16), MaskingProcess(LinearSchedule(), VOCAB))
    return perturb(model, 0.2), perturb(RecognitionGuide(recognition_of((3,))), 0.2)


def vamp_pair(**options):
    recognition = recognition_of((3,))
    prior = VampPrior.from_data(recognition, torch.randint(VOCAB, (12, LENGTH)), 5, **options)
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, 3, **NETWORK), prior, MaskingProcess(LinearSchedule(), VOCAB))
    return perturb(model, 0.2), perturb(RecognitionGuide(recognition), 0.2)


def score(model):
    x_t = torch.tensor([[VOCAB, 1, VOCAB, 2, 0, VOCAB]])
    return model.prior(x_t, torch.full((1,), 0.5)).log_prob(torch.tensor([[0.3, -1.0, 2.0]]))


def shared_network(model):
    return model.prior.denoiser if isinstance(model.prior, TrunkPrior) else model.prior.recognition


def owner(model, guide):
    return model.denoiser if isinstance(model.prior, TrunkPrior) else guide.recognition


PAIRS = pytest.mark.parametrize("make_pair", [trunk_pair, vamp_pair])


@PAIRS
def test_weights_are_held_once(make_pair):
    model, guide = make_pair()
    shared, own = shared_network(model), owner(model, guide)
    assert shared is own
    assert not set(map(id, shared.parameters())) & set(map(id, model.prior.parameters()))
    assert not [key for key in model.prior.state_dict() if "trunk" in key or "denoiser" in key or "recognition" in key]
    names = [id(p) for p in nn.ModuleList([model, guide]).parameters()]
    assert len(names) == len(set(names))


@PAIRS
def test_the_prior_follows_the_network_that_it_shares(make_pair):
    model, guide = make_pair()
    before = score(model)
    perturb(owner(model, guide), 0.2)
    assert not torch.allclose(score(model), before)
    score(model).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in owner(model, guide).parameters())


@PAIRS
def test_a_copy_of_model_and_guide_shares_the_copied_network(make_pair):
    model, guide = make_pair()
    model_copy, guide_copy = copy.deepcopy(nn.ModuleList([model, guide]))
    assert shared_network(model_copy) is owner(model_copy, guide_copy)
    assert shared_network(model_copy) is not shared_network(model)
    expected = score(model)
    perturb(nn.ModuleList([model, guide]), 0.2)
    assert torch.equal(score(model_copy), expected)


def test_a_copy_of_the_model_alone_shares_its_own_denoiser():
    model, _ = trunk_pair()
    twin = copy.deepcopy(model)
    assert twin.prior.denoiser is twin.denoiser
    assert twin.prior.denoiser is not model.denoiser


@PAIRS
def test_a_checkpoint_brings_the_sharing_back(make_pair, tmp_path):
    model, guide = make_pair()
    folder = save_checkpoint(tmp_path, model, guide)
    loaded = load_checkpoint(folder)
    assert shared_network(loaded.model) is owner(loaded.model, loaded.guide)
    assert torch.equal(score(loaded.model), score(model.eval()))
    state = loaded.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@PAIRS
def test_dtype_and_device_follow_both_owners(make_pair):
    model, guide = make_pair()
    model.double(), guide.double()
    x_t = torch.full((2, LENGTH), VOCAB)
    assert model.prior(x_t, torch.ones(2).double()).sample().dtype == torch.float64


# The trunk


def test_a_trunk_needs_a_denoiser_with_features_of_the_stated_width():
    process = MaskingProcess(LinearSchedule(), VOCAB)
    with pytest.raises(ConfigError, match="has no denoiser yet"):
        TrunkPrior(3, 16)(torch.zeros(1, LENGTH).long(), torch.ones(1))
    with pytest.raises(ConfigError, match="FeatureDenoiser, got PlainDenoiser"):
        VADDModel(PlainDenoiser(), TrunkPrior(3, 16), process)
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, 3, **NETWORK), TrunkPrior(3, 8), process)
    with pytest.raises(ShapeError, match="context_size is 8, but the denoiser's context has 16 entries"):
        score(model)


def test_a_trunk_of_positions_needs_as_many():
    denoiser = DiTDenoiser(VOCAB, None, (LENGTH, 2), num_heads=2, **NETWORK)
    prior = TrunkPrior((LENGTH, 2), 16, per_position=True).attach(denoiser)
    assert prior(torch.zeros(2, LENGTH).long(), torch.ones(2)).event_shape == (LENGTH, 2)
    with pytest.raises(ConfigError, match=r"latent_shape must be \(num_tokens, d\) with per_position, got \(3,\)"):
        TrunkPrior(3, 16, per_position=True)
    with pytest.raises(ShapeError, match="the latent has 6 positions, the denoiser's context 1"):
        TrunkPrior((LENGTH, 2), 16, per_position=True).attach(MLPDenoiser(VOCAB, LENGTH, (LENGTH, 2), **NETWORK))(
            torch.zeros(2, LENGTH).long(), torch.ones(2)
        )


def test_a_trunk_of_positions_reads_each_position():
    denoiser = DiTDenoiser(VOCAB, LENGTH, (LENGTH, 2), num_heads=2, **NETWORK)
    prior = perturb(TrunkPrior((LENGTH, 2), 16, per_position=True), 0.3).attach(denoiser)
    mean = prior(torch.full((1, LENGTH), VOCAB), torch.ones(1)).mean
    assert mean.shape == (1, LENGTH, 2)
    one = prior(torch.tensor([[0, *[VOCAB] * (LENGTH - 1)]]), torch.ones(1)).mean
    assert (one - mean)[0, 0].abs().max() > 3 * (one - mean)[0, 1:].abs().max()


def test_a_recognition_network_may_be_shared_as_encoder_of_the_prior():
    """Networks that stand on the denoiser are attached wherever they are inside the prior."""
    from vadd.backbones.sharing import SharesDenoiser

    class OnTrunk(SharesDenoiser, Recognition):
        latent_shape = torch.Size([3])

        def __init__(self):
            super().__init__()
            self.loc = nn.Linear(16, 3)

        def forward(self, tokens, target, t, **options):
            from vadd.backbones.base import diagonal_normal

            loc = self.loc(self.shared_context(tokens, t, **options)[:, 0])
            return diagonal_normal(loc, torch.zeros_like(loc))

    prior = ConditionalPrior(OnTrunk(), VOCAB)
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, 3, **NETWORK), prior, MaskingProcess(LinearSchedule(), VOCAB))
    assert prior.encoder.denoiser is model.denoiser
    check_prior(prior, VOCAB, LENGTH)


# The VampPrior


@pytest.mark.parametrize("family", [DiagonalNormal, LowRankNormal, FullNormal, FlowNormal])
def test_the_mixture_is_that_of_the_posteriors(family):
    """For every family: log of the mean of the posteriors' densities at the chosen rows, and draws from them."""
    recognition = perturb(MLPRecognition(VOCAB, LENGTH, 3, **NETWORK, family=family()), 0.3)
    prior = VampPrior.from_data(recognition, torch.randint(VOCAB, (9, LENGTH)), 4)
    check_prior(prior, VOCAB, LENGTH)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    z = torch.randn(2, 3)
    got = prior(torch.zeros(2, LENGTH).long(), torch.rand(2)).log_prob(z)
    expected = torch.zeros(2)
    for u, weight in zip(prior.inputs, (0.1, 0.2, 0.3, 0.4), strict=True):
        posterior = recognition(u[None], torch.ones(1, LENGTH, dtype=torch.bool), torch.ones(1))
        expected = expected + weight * posterior.expand([2]).log_prob(z).exp()
    torch.testing.assert_close(got, expected.log(), rtol=1e-4, atol=1e-4)


def test_rows_are_drawn_without_replacement_and_by_the_generator():
    x_0 = torch.arange(12)[:, None].expand(-1, LENGTH) % VOCAB
    x_0 = x_0.clone()
    x_0[:, 0] = torch.arange(12)  # names the row
    recognition = recognition_of((3,))
    drawn = [
        VampPrior.from_data(recognition, x_0, 5, generator=torch.Generator().manual_seed(seed)).inputs[:, 0].tolist()
        for seed in (0, 0, 1)
    ]
    assert len(set(drawn[0])) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(DomainError, match="at least 13 rows, one a component, got 12"):
        VampPrior.from_data(recognition, x_0, 13)


def test_padding_and_labels_belong_to_the_rows(tmp_path):
    recognition = MLPRecognition(VOCAB, LENGTH, 3, **NETWORK, num_classes=2)
    x_0 = torch.arange(4)[:, None].expand(-1, LENGTH).clone()
    is_padding = torch.zeros_like(x_0, dtype=torch.bool)
    is_padding[2:, 3:] = True
    labels = torch.tensor([0, 1, 0, 1])
    prior = VampPrior.from_data(recognition, x_0, 4, is_padding=is_padding, labels=labels)
    row = prior.inputs[:, 0]
    assert torch.equal(prior.is_padding, is_padding[row])
    assert torch.equal(prior.labels, labels[row])
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, 3, **NETWORK), prior, MaskingProcess(LinearSchedule(), VOCAB))
    perturb(recognition, 0.3)
    loaded = load_checkpoint(save_checkpoint(tmp_path, model, RecognitionGuide(recognition)))
    assert torch.equal(score(loaded.model), score(model))
    before = score(model)
    prior.inputs[prior.is_padding] = 0  # behind padding, tokens are not read
    assert torch.equal(score(model), before)
    prior.labels.copy_(1 - prior.labels)
    assert not torch.equal(score(model), before)


def test_an_unfilled_or_unattached_vamp_prior_says_so():
    prior, x_t = VampPrior(3, 4, LENGTH), torch.zeros(1, LENGTH).long()
    with pytest.raises(ConfigError, match="no sequences yet: build it by VampPrior.from_data"):
        prior.attach_recognition(recognition_of((3,)))(x_t, torch.ones(1))
    prior = VampPrior(3, 4, LENGTH)
    prior.inputs.zero_()
    with pytest.raises(ConfigError, match=r"call attach_recognition\(guide.recognition\)"):
        prior(x_t, torch.ones(1))
    with pytest.raises(ConfigError, match=r"disagree on latent_shape: \(3,\) and \(2,\)"):
        prior.attach_recognition(recognition_of((2,)))


@pytest.mark.usefixtures("_unchecked")
def test_wrong_rows_are_refused():
    recognition, x_0 = recognition_of((3,)), torch.zeros(5, LENGTH).long()
    with pytest.raises(ConfigError, match="recognition must be a Recognition, got Linear"):
        VampPrior(3, 4, LENGTH).attach_recognition(nn.Linear(1, 1))
    with pytest.raises(ShapeError, match="is_padding must have the shape of x_0"):
        VampPrior.from_data(recognition, x_0, 2, is_padding=torch.zeros(5, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"labels must have shape \(5,\), got \(4,\)"):
        VampPrior.from_data(recognition, x_0, 2, labels=torch.zeros(4).long())
    with pytest.raises(DtypeError, match="x_0 must be a tensor of torch.int64, got torch.float32"):
        VampPrior.from_data(recognition, x_0.float(), 2)
    with pytest.raises(DtypeError, match="is_padding must be a tensor of torch.bool"):
        VampPrior.from_data(recognition, x_0, 2, is_padding=x_0)
    with pytest.raises(DtypeError, match="labels must be a tensor of torch.int64"):
        VampPrior.from_data(recognition, x_0, 2, labels=torch.zeros(5))


def test_sampling_switches_the_dropout_of_the_shared_network_off():
    """A sampler puts the model into evaluation mode, which does not reach the guide's network."""
    recognition = recognition_of((3,), dropout=0.5)
    prior = VampPrior.from_data(recognition, torch.randint(VOCAB, (9, LENGTH)), 4)
    z, x_t = torch.zeros(1, 3), torch.zeros(1, LENGTH).long()
    assert not torch.equal(prior(x_t, torch.ones(1)).log_prob(z), prior(x_t, torch.ones(1)).log_prob(z))
    prior.eval()
    assert torch.equal(prior(x_t, torch.ones(1)).log_prob(z), prior(x_t, torch.ones(1)).log_prob(z))
    assert all(part.training for part in recognition.modules())
