"""The model as a Pyro program: its parts, its start, names in Pyro's store, stock estimators."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd._naming import UniquelyNamedModule
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Denoiser, FeatureDenoiser
from vadd.errors import ConfigError, ShapeError
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing.oracle import exact_sampler_distribution
from vadd.testing.tiny import tiny_model

VOCAB, LENGTH, BATCH, LATENT = 5, 4, 8, 2
SIZE = {"hidden_size": 16, "depth": 2, "modulation_size": 8}


def make_denoiser(latent=LATENT, kind="mlp", **options):
    return {"mlp": MLPDenoiser, "dit": DiTDenoiser}[kind](VOCAB, LENGTH, latent, **SIZE, **options)


def process(vocab_size=VOCAB):
    return MaskingProcess(LinearSchedule(), vocab_size)


def perturb(*parts, scale=0.3):
    with torch.no_grad():
        for part in parts:
            for p in part.parameters():
                p.add_(scale * torch.randn_like(p))


def make_pair(latent=LATENT, kind="mlp", prior=None):
    recognition = {"mlp": MLPRecognition, "dit": DiTRecognition}[kind]
    model = VADDModel(make_denoiser(latent, kind), prior or StandardNormalPrior(latent), process())
    guide = RecognitionGuide(recognition(VOCAB, LENGTH, latent, **SIZE) if latent else EmptyRecognition())
    perturb(model, guide)
    return model, guide


def tokens(batch=BATCH, high=VOCAB):
    return torch.randint(high, (batch, LENGTH))


# Parts


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denoiser": nn.Linear(2, 2)}, "denoiser must be a Denoiser, got Linear"),
        ({"prior": dist.Normal(0, 1)}, "prior must be a LatentPrior, got Normal"),
        ({"prior": None}, "prior must be a LatentPrior"),
        ({"process": LinearSchedule()}, "process must be a MaskingProcess"),
        ({"process": process(VOCAB + 1)}, "vocab_size: 5 and 6"),
        ({"prior": StandardNormalPrior(3)}, r"latent_shape: \(2,\) and \(3,\)"),
        ({"prior": StandardNormalPrior((2, 1))}, r"latent_shape: \(2,\) and \(2, 1\)"),
        ({"prior": StandardNormalPrior(0)}, r"latent_shape: \(2,\) and \(0,\)"),
        ({"latent_dropout": 1.0}, r"latent_dropout must lie in \[0, 1\)"),
        ({"latent_dropout": -0.1}, "latent_dropout"),
        ({"latent_dropout": float("nan")}, "latent_dropout"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {"denoiser": make_denoiser(), "prior": StandardNormalPrior(LATENT), "process": process(), **change}
    with pytest.raises(ConfigError, match=message):
        VADDModel(**parts)


def test_the_latent_is_described():
    model, _ = make_pair()
    assert model.latent_shape == (LATENT,)
    assert model.has_latent
    mdm, guide = make_pair(0)
    assert mdm.latent_shape == (0,)
    assert not mdm.has_latent
    assert not list(guide.parameters())


class _Returns(Denoiser):
    """A denoiser that returns logits of a given shape."""

    vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([LATENT])

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x_t, t, z, **options):
        return torch.zeros(self.shape)


class _FeaturesReturn(FeatureDenoiser):
    vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([LATENT])

    def __init__(self, head_size, *shape):
        super().__init__()
        self.shape = shape
        self.head = nn.Linear(3, head_size)

    def features(self, x_t, t, z, **options):
        return torch.zeros(self.shape)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "shape", [(BATCH, VOCAB, LENGTH), (BATCH, LENGTH), (LENGTH, VOCAB), (1, LENGTH, VOCAB), (2, BATCH, LENGTH, VOCAB)]
)
@pytest.mark.parametrize("is_feature", [False, True])
def test_a_network_of_the_wrong_output_shape_is_named(shape, is_feature):
    denoiser = _FeaturesReturn(VOCAB, *shape[:-1], 3) if is_feature else _Returns(*shape)
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), process())
    _, guide = make_pair()
    with pytest.raises(ShapeError, match=rf"{type(denoiser).__name__} returned shape"):
        model.denoise(tokens(), torch.ones(BATCH), torch.zeros(BATCH, LATENT))
    with pytest.raises(ShapeError, match=type(denoiser).__name__):
        DELBO(model.process)(model, guide)(tokens())


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "denoiser",
    [
        _Returns(BATCH, LENGTH, VOCAB + 1),
        _Returns(BATCH, LENGTH, VOCAB - 1),
        _FeaturesReturn(VOCAB + 1, BATCH, LENGTH, 3),
    ],
)
def test_logits_for_the_mask_token_are_refused(denoiser):
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), process())
    _, guide = make_pair()
    with pytest.raises(ShapeError, match=f"entry for each of the {VOCAB} clean tokens"):
        DELBO(model.process)(model, guide)(tokens())


@pytest.mark.parametrize(
    "shape", [(BATCH, LATENT + 1), (BATCH + 1, LATENT), (LATENT,), (1, LATENT), (BATCH,), (), (BATCH, LATENT, 1)]
)
def test_latents_of_the_wrong_shape_are_refused(shape):
    model, _ = make_pair()
    with pytest.raises(ShapeError, match="z must have shape"):
        model.denoise(tokens(), torch.ones(BATCH), torch.zeros(shape))


class _Prior(LatentPrior):
    """A prior of wrong shape."""

    latent_shape = torch.Size([LATENT])

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x_t, t, **options):
        return self.make(x_t.shape[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda n: dist.Normal(torch.zeros(n, LATENT), 1.0),
        lambda n: dist.Normal(torch.zeros(n, LATENT), 1.0).to_event(2),
        lambda n: dist.Normal(torch.zeros(LATENT), 1.0).to_event(1),
        lambda n: dist.Normal(torch.zeros(1, LATENT), 1.0).to_event(1),
        lambda n: dist.Normal(torch.zeros(n, LATENT + 1), 1.0).to_event(1),
        lambda n: dist.Normal(torch.zeros(n), 1.0),
    ],
    ids=["no to_event", "to_event of all", "no batch", "batch of one", "other size", "scalars"],
)
@pytest.mark.parametrize("batch", [BATCH, LATENT])
def test_a_prior_of_the_wrong_shape_is_named(make, batch):
    """Also where the batch is as large as the latent, so that a missing ``to_event`` would broadcast."""
    model = VADDModel(make_denoiser(), _Prior(make), process())
    _, guide = make_pair()
    with pytest.raises(ShapeError, match=r"prior returned .*\.to_event"):
        DELBO(model.process)(model, guide)(tokens(batch))


# Denoising


def test_no_latent_is_the_null_latent():
    model, _ = make_pair()
    x_t, t = tokens(high=VOCAB + 1), torch.rand(BATCH)
    null = model.denoise(x_t, t, z=None).logits
    assert torch.equal(null, model.denoise(x_t, t, model.null_latent.expand(BATCH, -1)).logits)
    assert not torch.equal(null, model.denoise(x_t, t, torch.zeros(BATCH, LATENT)).logits)
    assert "null_latent" in model.state_dict()


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_particles_are_folded_into_the_batch(kind):
    model, _ = make_pair(kind=kind)
    x_t, t, z = tokens(high=VOCAB + 1), torch.rand(BATCH), torch.randn(3, 2, BATCH, LATENT)
    folded = model.denoise(x_t, t, z)
    assert folded.batch_shape == (3, 2, BATCH)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(folded.logits[i, j], model.denoise(x_t, t, z[i, j]).logits)


def test_masked_positions_alone_are_scored():
    model, _ = make_pair()
    x_0, is_masked = tokens(), torch.rand(BATCH, LENGTH) < 0.5
    x_t, t, z = torch.where(is_masked, VOCAB, x_0), torch.rand(BATCH), torch.randn(BATCH, LATENT)
    scores = model.denoiser(x_t, t, z).log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    expected = (scores * is_masked).sum(-1)
    torch.testing.assert_close(model.denoise(x_t, t, z).log_prob(x_0), expected)
    target = is_masked & (torch.rand(BATCH, LENGTH) < 0.5)
    got = model.denoise(x_t, t, z, target=target).log_prob(torch.where(target, x_0, x_t))
    torch.testing.assert_close(got, (scores * target).sum(-1))


def test_reconstruct_fills_masked_positions_with_the_most_probable_tokens():
    model, guide = make_pair()
    x_0, is_masked = tokens(), torch.rand(BATCH, LENGTH) < 0.5
    x_t, z = torch.where(is_masked, VOCAB, x_0), guide.encode(x_0).mean
    filled = model.reconstruct(x_t, z)
    t = is_masked.float().mean(-1)  # the linear schedule
    best = model.denoiser(x_t, t, z).argmax(-1)
    assert torch.equal(filled, torch.where(is_masked, best, x_0))
    assert torch.equal(model.reconstruct(x_t, z, t=t), filled)
    assert not filled.requires_grad
    model.reconstruct(x_t, None)


# The start: VADD as the MDM


@pytest.mark.parametrize("kind", ["mlp", "dit"])
@pytest.mark.parametrize("options", [{}, {"reads_time": True}], ids=str)
def test_from_mdm_gives_the_same_probabilities_exactly(kind, options):
    mdm = VADDModel(make_denoiser(0, kind, **options), StandardNormalPrior(0), process())
    perturb(mdm)
    model = VADDModel.from_mdm(
        mdm, make_denoiser(LATENT, kind, **options), StandardNormalPrior(LATENT), latent_dropout=0.1
    )
    x_t, t, z = tokens(64, VOCAB + 1), torch.rand(64), 3 * torch.randn(64, LATENT)
    expected = mdm.denoise(x_t, t).logits
    assert torch.equal(model.denoise(x_t, t, z).logits, expected)
    assert torch.equal(model.denoise(x_t, t, None).logits, expected)
    assert model.latent_dropout == 0.1
    # ... and so are the losses and the samples.
    x_0 = tokens()
    _, empty = make_pair(0)
    _, guide = make_pair(LATENT, kind)
    model.eval()
    losses = [
        DELBO(m.process, kl_weight=0.0, generator=torch.Generator().manual_seed(1))(m, g)(x_0)
        for m, g in ((mdm, empty), (model, guide))
    ]
    assert torch.equal(*losses)
    samples = [m.sample(16, num_steps=3, generator=torch.Generator().manual_seed(1)) for m in (mdm, model)]
    assert torch.equal(*samples)
    # The new path can be trained: it gets a gradient at the first step.
    DELBO(model.process)(model.train(), guide)(x_0).backward()
    latent_path = set(dict(model.denoiser.named_parameters())) - set(dict(mdm.denoiser.named_parameters()))
    named = dict(model.denoiser.named_parameters())
    assert any(named[k].grad is not None and bool(named[k].grad.any()) for k in latent_path)


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_from_mdm_leaves_the_mdm_and_the_modes_alone(kind):
    """Also with dropout in training mode, where no network equals even itself."""
    mdm = VADDModel(make_denoiser(0, kind, dropout=0.5), StandardNormalPrior(0), process())
    perturb(mdm)
    before = copy.deepcopy(mdm.state_dict())
    denoiser = make_denoiser(LATENT, kind, dropout=0.5)
    denoiser.head.eval()
    model = VADDModel.from_mdm(mdm, denoiser, StandardNormalPrior(LATENT))
    assert all(torch.equal(value, before[key]) for key, value in mdm.state_dict().items())
    assert mdm.training
    assert model.training
    assert not model.denoiser.head.training
    # No tensor is shared: training the one does not change the other.
    perturb(model)
    assert all(torch.equal(value, before[key]) for key, value in mdm.state_dict().items())


def test_from_mdm_refuses_what_does_not_start_as_the_mdm():
    mdm = VADDModel(make_denoiser(0), StandardNormalPrior(0), process())
    prior = StandardNormalPrior(LATENT)
    vadd, _ = make_pair()
    with pytest.raises(ConfigError, match="mdm must have no latent"):
        VADDModel.from_mdm(vadd, make_denoiser(), prior)
    wider = MLPDenoiser(VOCAB, LENGTH, LATENT, **{**SIZE, "hidden_size": 32})
    with pytest.raises(ConfigError, match="no matching place for the weights"):
        VADDModel.from_mdm(mdm, wider, prior)
    open_path = make_denoiser()
    perturb(open_path)
    with pytest.raises(ConfigError, match="initialized to zero"):
        VADDModel.from_mdm(mdm, open_path, prior)
    with pytest.raises(ConfigError, match="latent_shape"):
        VADDModel.from_mdm(mdm, make_denoiser(), StandardNormalPrior(3))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda model: model(tokens()),
            r"batch must be a CorruptedBatch, got Tensor; process.corrupt\(x_0, t\) makes one",
        ),
        (lambda model: model.load_mdm("path"), r"mdm must be a VADDModel, got str; .*from_pretrained\(folder\)"),
        (lambda model: VADDModel.from_mdm(3, model.denoiser, model.prior), "mdm must be a VADDModel, got int"),
    ],
    ids=["call", "load_mdm", "from_mdm"],
)
def test_arguments_of_another_type_are_named(run, message):
    with pytest.raises(ConfigError, match=message):
        run(make_pair()[0])


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_a_fresh_model_is_the_mdm_of_its_own_weights(kind):
    denoiser = make_denoiser(LATENT, kind)
    plain = make_denoiser(0, kind)
    plain.load_state_dict({k: v for k, v in denoiser.state_dict().items() if k in plain.state_dict()})
    x_t, t, z = tokens(16, VOCAB + 1), torch.rand(16), torch.randn(16, LATENT)
    assert torch.equal(denoiser(x_t, t, z), plain(x_t, t, z[:, :0]))


# Names in Pyro's store


def train(model, guide, steps=3):
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=DELBO(model.process))
    for _ in range(steps):
        svi.step(tokens())


def idle_parameters(*pairs):
    """Parameters that training each pair by SVI, one after another, does not move."""
    idle = []
    for number, (model, guide) in enumerate(pairs):
        before = {
            (part, key): p.detach().clone()
            for part, module in (("model", model), ("guide", guide))
            for key, p in module.named_parameters()
        }
        train(model, guide)
        for (part, key), value in before.items():
            if torch.equal(value, {"model": model, "guide": guide}[part].get_parameter(key)):
                idle.append(f"{number} {part} {key}")
    return idle


def snapshot(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


def test_two_models_in_one_process_are_both_trained():
    assert idle_parameters(make_pair(), make_pair(), make_pair(kind="dit")) == []


def test_the_test_detects_a_shared_root_name(monkeypatch):
    monkeypatch.setattr(UniquelyNamedModule, "_fresh_name", classmethod(lambda cls: cls.__name__))
    idle = idle_parameters(make_pair(), make_pair())
    assert any(name.startswith("1 model") for name in idle)
    assert any(name.startswith("1 guide") for name in idle)


def test_training_one_model_leaves_another_alone():
    first, second = make_pair(), make_pair()
    train(*first)
    before = snapshot(*first)
    train(*second)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(*first), strict=True))


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


def through_torch(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, through_pickle, through_torch])
@pytest.mark.parametrize("is_trained", [False, True])
def test_copies_have_names_and_values_of_their_own(make_copy, is_trained):
    model, guide = make_pair()
    if is_trained:
        train(model, guide)
    other = make_copy(model), make_copy(guide)
    assert len({part._pyro_name for part in (model, guide, *other)}) == 4
    before = snapshot(model, guide)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(*other), strict=True))
    assert idle_parameters(other) == []
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, guide), strict=True))
    after = snapshot(*other)
    assert idle_parameters((model, guide)) == []
    assert all(torch.equal(a, b) for a, b in zip(after, snapshot(*other), strict=True))


def test_state_dicts_do_not_hold_the_root_name():
    (model, guide), (other_model, other_guide) = make_pair(), make_pair()
    for part, other in ((model, other_model), (guide, other_guide)):
        train(model, guide, steps=1)
        assert part.state_dict().keys() == other.state_dict().keys()
        assert not any(part._pyro_name in key for key in part.state_dict())
        other.load_state_dict(part.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(snapshot(part), snapshot(other), strict=True))


def test_loaded_weights_are_those_that_are_trained():
    """Loading after training replaces values, not the parameters that Pyro's store knows."""
    model, guide = make_pair()
    train(model, guide)
    other_model, _ = make_pair()
    model.load_state_dict(other_model.state_dict())
    assert idle_parameters((model, guide)) == []


# Stock estimators


def corrupted(model):
    x_0 = tokens()
    return model.process.corrupt(x_0, torch.linspace(0.2, 1.0, BATCH))


def parts_by_hand(model, guide, batch):
    """log-likelihood, log-density of the draw under prior and guide, and analytic KL, of each row."""
    posterior = guide.recognition(batch.x_0, batch.is_masked, batch.t).base_dist
    loc, scale = posterior.loc, posterior.scale
    z = loc + scale * torch.normal(torch.zeros_like(loc), torch.ones_like(loc))
    scores = model.denoiser(batch.x_t, batch.t, z).log_softmax(-1).gather(-1, batch.x_0[..., None])[..., 0]
    likelihood = torch.where(batch.is_masked, scores, 0.0).sum(-1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_guide = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
    return likelihood, log_prior, log_guide, kl


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_stock_estimators_equal_the_computation_by_hand(kind):
    model, guide = make_pair(kind=kind)
    batch = corrupted(model)
    torch.manual_seed(1)
    likelihood, log_prior, log_guide, kl = parts_by_hand(model, guide, batch)
    for estimator, expected in (
        (pyro.infer.Trace_ELBO(), (-likelihood - log_prior + log_guide).sum()),
        (pyro.infer.TraceMeanField_ELBO(), (-likelihood + kl).sum()),
    ):
        torch.manual_seed(1)
        loss = estimator.differentiable_loss(model, guide, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
        assert all(p.grad is None for p in model.parameters())
        torch.manual_seed(1)
        assert estimator(model, guide)(batch).item() == pytest.approx(loss.item())
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=pyro.infer.Trace_ELBO())
    assert torch.isfinite(torch.tensor(svi.step(batch)))


def test_stock_estimators_work_without_a_latent():
    mdm, guide = make_pair(0)
    batch = corrupted(mdm)
    scores = mdm.denoise(batch.x_t, batch.t).log_prob(batch.x_0).sum()
    for estimator in (pyro.infer.Trace_ELBO(), pyro.infer.TraceMeanField_ELBO()):
        torch.testing.assert_close(estimator.differentiable_loss(mdm, guide, batch), -scores)


@pytest.mark.parametrize("is_parallel", [False, True])
def test_predictive_draws_clean_sequences(is_parallel):
    model, guide = make_pair()
    batch = corrupted(model)
    draws = pyro.infer.Predictive(poutine.uncondition(model), num_samples=6, parallel=is_parallel)(batch)
    x, z = draws["x_0"], draws["z"]
    assert x.shape == (6, BATCH, LENGTH)
    assert z.shape == (6, BATCH, LATENT)
    assert ((x == batch.x_0) | batch.is_masked).all()
    assert x.max() < VOCAB
    posterior = pyro.infer.Predictive(poutine.uncondition(model), guide=guide, num_samples=6, parallel=is_parallel)(
        batch
    )
    assert posterior["x_0"].shape == (6, BATCH, LENGTH)


def test_predictive_draws_from_the_one_step_law():
    """Chi-square with 7 degrees of freedom over 8,000 draws, false-alarm rate 1e-6.

    The law without a latent is told apart with probability above 0.999.
    """
    model = tiny_model(2, 3, atoms=[-1.5, 0.0, 1.5], scale=1.5, seed=1)
    expected = exact_sampler_distribution(model, 3, num_steps=1)
    threshold = stats.chi2.isf(1e-6, 7)
    x_0 = torch.zeros(8_000, 3, dtype=torch.long)
    batch = model.process.corrupt(x_0, torch.ones(8_000, dtype=torch.float64))
    x = pyro.infer.Predictive(poutine.uncondition(model), num_samples=1)(batch)["x_0"][0]
    observed = (x * torch.tensor([4, 2, 1])).sum(-1).bincount(minlength=8)
    assert ((observed - 8_000 * expected) ** 2 / (8_000 * expected)).sum() < threshold
    wrong = exact_sampler_distribution(model, 3, num_steps=1, latents="null")
    distance = float((8_000 * (wrong - expected) ** 2 / expected).sum())
    assert stats.ncx2.sf(threshold, 7, distance) > 0.999
