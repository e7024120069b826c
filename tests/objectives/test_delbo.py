"""The DELBO against a computation by hand in plain torch: values, gradients, both training engines."""

import copy

import pyro
import pytest
import torch

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import (
    DiTDenoiser,
    DiTRecognition,
    EmptyRecognition,
    MLPDenoiser,
    MLPRecognition,
)
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule
from vadd.types import CorruptedBatch

VOCAB, LENGTH, BATCH, LATENT = 5, 6, 8, 3
SEED = 20
KL_WEIGHTS = [0.0, 0.3, 1.0]
TIMES = ["count", "uniform"]


pytestmark = pytest.mark.usefixtures("_double")


class LearnedNormalPrior(LatentPrior):
    """A normal prior with a learned location."""

    def __init__(self, size):
        super().__init__()
        self.latent_shape = torch.Size([size])
        self.loc = torch.nn.Parameter(torch.zeros(size))

    def forward(self, x_t, t, **options):
        loc = self.loc.expand(x_t.shape[0], -1)
        return pyro.distributions.Normal(loc, torch.ones_like(loc)).to_event(1)


def perturb(*modules):
    """Noise on all parameters, so that no path is closed by a zero."""
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p.add_(0.2 * torch.randn_like(p))


def make_pair(kind="mlp", latent=LATENT, schedule=None, prior=None):
    if kind == "mlp":
        size = {"hidden_size": 16, "depth": 2, "modulation_size": 8, "embedding_size": 8, "reads_time": True}
        denoiser = MLPDenoiser(VOCAB, LENGTH, latent, feature_size=8, **size)
        recognition = MLPRecognition(VOCAB, LENGTH, latent, **size) if latent else EmptyRecognition()
    else:
        size = {"hidden_size": 16, "depth": 1, "num_heads": 2, "modulation_size": 8, "reads_time": True}
        denoiser = DiTDenoiser(VOCAB, LENGTH, latent, **size)
        recognition = DiTRecognition(VOCAB, LENGTH, latent, **size) if latent else EmptyRecognition()
    process = MaskingProcess(schedule or LinearSchedule(), VOCAB)
    model = VADDModel(denoiser, prior or StandardNormalPrior(latent), process)
    guide = RecognitionGuide(recognition)
    perturb(denoiser, guide)
    return model, guide


def tokens(batch=BATCH):
    return torch.randint(VOCAB, (batch, LENGTH))


def seeded():
    """The generator of times and masks; seeds the latents as well."""
    torch.manual_seed(SEED)
    return torch.Generator().manual_seed(SEED)


def corrupt_by_hand(process, x_0, times, generator):
    """Masks, times and weights, from the definitions."""
    batch, dim = x_0.shape
    shift = torch.rand((), generator=generator)
    order = torch.randperm(batch, generator=generator)
    strata = ((torch.arange(batch) / batch + shift) % 1.0)[order]
    uniform = torch.rand(x_0.shape, generator=generator)
    if times == "uniform":
        t = 1 - strata
        mask_probability = 1 - process.schedule.alpha(t)
        is_masked = uniform < mask_probability[:, None]
        return is_masked, t, -process.schedule.alpha_dot(t) / mask_probability
    count = 1 + torch.floor(strata * dim)
    is_masked = uniform.argsort(-1).argsort(-1) < count[:, None]
    largest = torch.where(is_masked, uniform, 0.0).amax(-1)
    return is_masked, process.schedule.inverse(1 - largest), dim / count


def loss_by_hand(model, guide, x_0, times, kl_weight, generator, noise_shape=(BATCH, LATENT)):
    """The objective without Pyro; latents ``loc + scale * noise`` with noise of the given shape."""
    is_masked, t, weight = corrupt_by_hand(model.process, x_0, times, generator)
    x_t = torch.where(is_masked, VOCAB, x_0)
    posterior = guide.recognition(x_0, is_masked, t).base_dist
    noise = torch.normal(torch.zeros(noise_shape), torch.ones(noise_shape)).reshape(-1, BATCH, LATENT)
    reconstruction = 0.0
    for eps in noise:
        logits = model.denoiser(x_t, t, posterior.loc + posterior.scale * eps)
        scores = logits.log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
        reconstruction = reconstruction - torch.where(is_masked, scores, 0.0).sum(-1) / len(noise)
    variance = posterior.scale**2
    kl = 0.5 * (posterior.loc**2 + variance - 1 - variance.log()).sum(-1)
    per_row = torch.where(is_masked.any(-1), weight * (reconstruction + kl_weight * kl), 0.0)
    return per_row.mean()


def gradients(loss, model, guide):
    named = {**dict(model.named_parameters("model")), **dict(guide.named_parameters("guide"))}
    values = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if v is None else v for (k, p), v in zip(named.items(), values, strict=True)}


def assert_same(got, expected, tolerance=1e-11):
    assert got.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=tolerance, atol=tolerance, msg=key)


@pytest.mark.parametrize("kl_weight", KL_WEIGHTS)
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), PolynomialSchedule(2.0)])
@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_value_and_gradients_equal_those_by_hand(kind, schedule, times, kl_weight):
    model, guide = make_pair(kind, schedule=schedule)
    x_0 = tokens()
    expected = loss_by_hand(model, guide, x_0, times, kl_weight, seeded())
    loss = DELBO(model.process, times=times, kl_weight=kl_weight, generator=seeded())(model, guide)(x_0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_same(gradients(loss, model, guide), gradients(expected, model, guide))


def test_the_comparison_by_hand_sees_a_wrong_weight_and_a_detached_latent(monkeypatch):
    model, guide = make_pair()
    x_0 = tokens()
    expected = loss_by_hand(model, guide, x_0, "count", 1.0, seeded())
    half = DELBO(model.process, kl_weight=0.5, generator=seeded())(model, guide)(x_0)
    assert abs(half - expected) > 1e-3
    original = pyro.distributions.Normal.rsample
    monkeypatch.setattr(pyro.distributions.Normal, "rsample", lambda *a, **k: original(*a, **k).detach())
    loss = DELBO(model.process, generator=seeded())(model, guide)(x_0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    with pytest.raises(AssertionError):
        assert_same(gradients(loss, model, guide), gradients(expected, model, guide))


@pytest.mark.parametrize("times", TIMES)
def test_without_a_latent_it_is_the_masked_diffusion_loss(times):
    model, guide = make_pair(latent=0)
    assert list(guide.parameters()) == []
    x_0 = tokens()
    is_masked, t, weight = corrupt_by_hand(model.process, x_0, times, seeded())
    logits = model.denoiser(torch.where(is_masked, VOCAB, x_0), t, torch.zeros(BATCH, 0))
    scores = logits.log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    expected = -(weight * (scores * is_masked).sum(-1)).mean()
    elbo = DELBO(model.process, times=times, generator=seeded())
    loss = elbo(model, guide)(x_0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert elbo.last_terms.kl == 0
    assert_same(gradients(loss, model, guide), gradients(expected, model, guide))


@pytest.mark.parametrize("kl_weight", KL_WEIGHTS)
@pytest.mark.parametrize("times", TIMES)
def test_both_engines_give_the_same_gradients(times, kl_weight):
    model, guide = make_pair()
    x_0 = tokens()

    def elbo():
        return DELBO(model.process, times=times, kl_weight=kl_weight, generator=seeded())

    loss = elbo()(model, guide)(x_0)
    expected = gradients(loss, model, guide)
    value = elbo().loss_and_grads(model, guide, x_0)
    got = {
        f"{name}.{key}": torch.zeros_like(p) if p.grad is None else p.grad
        for name, part in (("model", model), ("guide", guide))
        for key, p in part.named_parameters()
    }
    assert float(value) == pytest.approx(loss.item(), rel=1e-12)
    assert_same(got, expected)
    assert float(elbo().loss(model, guide, x_0)) == pytest.approx(loss.item(), rel=1e-12)


def train_with_svi(model, guide, data, times):
    generator = seeded()
    elbo = DELBO(model.process, times=times, generator=generator)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo)
    losses = []
    for step, x_0 in enumerate(data):
        elbo.kl_weight = step / len(data)
        losses.append(svi.step(x_0))
    return losses


def train_with_torch(model, guide, data, times):
    generator = seeded()
    elbo = DELBO(model.process, times=times, generator=generator)
    loss_fn = elbo(model, guide)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-2)
    losses = []
    for step, x_0 in enumerate(data):
        elbo.kl_weight = step / len(data)
        loss = loss_fn(x_0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_both_engines_train_the_same_weights(kind, times):
    model, guide = make_pair(kind)
    other_model, other_guide = copy.deepcopy(model), copy.deepcopy(guide)
    start = copy.deepcopy(model.state_dict())
    data = [tokens() for _ in range(5)]
    losses = train_with_svi(model, guide, data, times)
    torch.testing.assert_close(losses, train_with_torch(other_model, other_guide, data, times), rtol=1e-9, atol=0)
    assert_same(model.state_dict(), other_model.state_dict(), 1e-9)
    assert_same(guide.state_dict(), other_guide.state_dict(), 1e-9)
    moved = [k for k, _ in model.named_parameters() if not torch.equal(start[k], model.state_dict()[k])]
    assert len(moved) == len(list(model.parameters()))


@pytest.mark.parametrize("times", TIMES)
def test_module_local_parameters_change_nothing(times):
    data = [tokens() for _ in range(3)]
    results = []
    for is_local in (False, True):
        with pyro.settings.context(module_local_params=is_local):
            torch.manual_seed(1)
            model, guide = make_pair()
            losses = train_with_torch(model, guide, data, times)
            results.append((losses, model.state_dict(), guide.state_dict()))
    (losses, model, guide), (other_losses, other_model, other_guide) = results
    assert losses == other_losses
    assert_same(model, other_model, 0)
    assert_same(guide, other_guide, 0)


@pytest.mark.parametrize("is_vectorized", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_particles_equal_the_mean_over_latents_by_hand(kind, is_vectorized):
    model, guide = make_pair(kind)
    x_0 = tokens()
    num = 4
    elbo = DELBO(model.process, num_particles=num, vectorize_particles=is_vectorized, kl_weight=0.3)
    loss_fn = elbo(model, guide)
    loss_fn(x_0)  # the first call of vectorized particles also counts the plates, with draws of its own
    elbo.generator = seeded()
    loss = loss_fn(x_0)
    seeded()
    draws = [(num, BATCH, LATENT)] if is_vectorized else [(BATCH, LATENT)] * num
    parts = [
        # The same times and masks for all particles, new latents for each.
        loss_by_hand(model, guide, x_0, "count", 0.3, torch.Generator().manual_seed(SEED), shape)
        for shape in draws
    ]
    expected = torch.stack(parts).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_same(gradients(loss, model, guide), gradients(expected, model, guide))
    terms = elbo.last_terms
    torch.testing.assert_close(terms.reconstruction + 0.3 * terms.kl, loss.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("is_vectorized", [False, True])
def test_terms_sum_to_the_loss(is_vectorized):
    model, guide = make_pair()
    x_0 = tokens()
    elbo = DELBO(model.process, num_particles=3, vectorize_particles=is_vectorized)
    loss_fn = elbo(model, guide)
    loss_fn(x_0)
    elbo.generator = seeded()
    loss = loss_fn(x_0)
    elbo.generator = seeded()
    terms = elbo.terms(model, guide, x_0)
    assert terms.reconstruction.shape == terms.kl.shape == (BATCH,)
    torch.testing.assert_close(terms.total.mean(), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["mlp", "dit"])
@pytest.mark.parametrize("times", TIMES)
def test_every_parameter_gets_a_gradient(kind, times):
    model, guide = make_pair(kind, prior=LearnedNormalPrior(LATENT))
    DELBO(model.process, times=times)(model, guide)(tokens()).backward()
    idle = [
        name
        for part in (model, guide)
        for name, p in part.named_parameters()
        if p.grad is None or not bool(p.grad.any())
    ]
    assert idle == []


def test_flags_may_be_given_by_position():
    model, guide = make_pair()
    x_0, is_frozen = tokens(), torch.rand(BATCH, LENGTH) < 0.5
    elbo = DELBO(model.process, generator=seeded())
    by_position = elbo(model, guide)(x_0, is_frozen)
    elbo.generator = seeded()
    by_name = elbo(model, guide)(x_0, is_frozen=is_frozen)
    assert by_position == by_name


class _Given(DELBO):
    """A DELBO of a given corrupted batch."""

    def __init__(self, process, batch, **options):
        super().__init__(process, **options)
        self.batch = batch

    def corrupt(self, x_0, **options):
        return self.batch


def given_batch(x_0, is_masked, t, **options):
    x_t = torch.where(is_masked, VOCAB, x_0)
    return CorruptedBatch(x_0, x_t, t, torch.zeros_like(t), is_masked, is_masked, **options)


def far_guide(kind="mlp"):
    """A pair whose guide is far from the prior everywhere."""
    model, guide = make_pair(kind)
    with torch.no_grad():
        guide.recognition.family.loc.bias.fill_(1e6)
    return model, guide


@pytest.mark.parametrize("times", TIMES)
def test_rows_with_nothing_masked_contribute_exactly_zero(times):
    model, guide = far_guide()
    x_0 = tokens()
    nothing = torch.zeros_like(x_0, dtype=torch.bool)
    elbo = _Given(model.process, given_batch(x_0, nothing, torch.full((BATCH,), 1e-9)), times=times)
    loss = elbo(model, guide)(x_0)
    assert loss == 0
    assert not any(g.any() for g in gradients(loss, model, guide).values())
    terms = elbo.terms(model, guide, x_0)
    assert not terms.reconstruction.any()
    assert not terms.kl.any()
    # One masked row among them: its terms alone remain.
    nothing[2, 1] = True
    elbo.batch = given_batch(x_0, nothing, torch.full((BATCH,), 1e-9))
    assert elbo.terms(model, guide, x_0).kl.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("kl", [torch.inf, -torch.inf, torch.nan])
def test_rows_with_nothing_masked_contribute_zero_even_if_their_divergence_is_infinite(kl, monkeypatch):
    model, guide = make_pair()
    x_0 = tokens()
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[:3] = True
    real = torch.distributions.kl_divergence

    def divergence(r, p):
        return torch.where(torch.arange(BATCH) < 3, kl, real(r, p))

    elbo = DELBO(model.process)
    elbo.generator = seeded()
    expected = elbo(model, guide)(x_0, is_frozen=is_frozen)
    monkeypatch.setattr("vadd.objectives.divergence.kl_divergence", divergence)
    elbo.generator = seeded()
    assert elbo(model, guide)(x_0, is_frozen=is_frozen) == expected
    elbo.generator = seeded()
    torch.testing.assert_close(elbo.terms(model, guide, x_0, is_frozen=is_frozen).total.mean(), expected)


@pytest.mark.parametrize("is_vectorized", [False, True])
def test_a_weight_of_zero_leaves_an_infinite_divergence_out(is_vectorized, monkeypatch):
    model, guide = make_pair()
    elbo = DELBO(model.process, kl_weight=0.0, num_particles=2, vectorize_particles=is_vectorized, generator=seeded())
    monkeypatch.setattr("vadd.objectives.divergence.kl_divergence", lambda r, p: torch.full(r.batch_shape, torch.inf))
    loss = elbo(model, guide)(tokens())
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("times", TIMES)
def test_frozen_rows_contribute_exactly_zero(times):
    model, guide = far_guide()
    x_0 = tokens()
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[1] = is_frozen[4] = True
    for _ in range(5):
        terms = DELBO(model.process, times=times).terms(model, guide, x_0, is_frozen=is_frozen)
        assert not terms.total[[1, 4]].any()
    loss = DELBO(model.process, times=times)(model, guide)(x_0, is_frozen=torch.ones_like(is_frozen))
    assert loss == 0


def test_frozen_and_padded_positions_are_never_scored():
    """Their tokens can only matter as inputs; with a denoiser that ignores its inputs, not at all."""
    model, guide = make_pair(latent=0)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.zero_()
        model.denoiser.head.bias.copy_(torch.arange(VOCAB) / 2)
    x_0 = tokens()
    flags = torch.rand(BATCH, LENGTH) < 0.5
    flags[:, 0] &= ~flags.all(-1)  # no row is padding alone
    other = torch.where(flags, (x_0 + 1) % VOCAB, x_0)
    for name in ("is_frozen", "is_padding"):
        elbo = DELBO(model.process, generator=seeded())
        loss = elbo(model, guide)(x_0, **{name: flags})
        elbo.generator = seeded()
        assert elbo(model, guide)(other, **{name: flags}) == loss
    elbo.generator = seeded()
    without = elbo(model, guide)(x_0)
    elbo.generator = seeded()
    assert elbo(model, guide)(other) != without


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("latent", [LATENT, 0])
def test_a_padded_batch_and_the_unpadded_one_have_the_same_loss(latent, times):
    model, guide = make_pair("dit", latent)
    x_0, is_masked, t = tokens(), torch.rand(BATCH, LENGTH) < 0.5, torch.rand(BATCH)
    plain = _Given(model.process, given_batch(x_0, is_masked, t), times=times)
    torch.manual_seed(SEED)
    expected = plain(model, guide)(x_0)
    slopes = gradients(expected, model, guide)

    def pad(value, fill):
        return torch.cat([value, torch.full((BATCH, 4), fill, dtype=value.dtype)], -1)

    is_padding = pad(torch.zeros_like(is_masked), True)
    for fill in (0, VOCAB - 1):
        batch = given_batch(pad(x_0, fill), pad(is_masked, False), t, is_padding=is_padding)
        padded = _Given(model.process, batch, times=times)
        torch.manual_seed(SEED)
        loss = padded(model, guide)(pad(x_0, fill))
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
        assert_same(gradients(loss, model, guide), slopes, 1e-10)
