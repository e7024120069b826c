"""Padding changes nothing: a padded batch has the bounds, losses, gradients and samples of the unpadded one.

Noise is drawn for all positions, so that another length would be other noise. Here the noise of the longer batch is
drawn in both cases, and cut to the length.
"""

import copy

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vadd import DELBO, RecognitionGuide, VADDModel
from vadd.backbones import (
    DiTDenoiser,
    DiTRecognition,
    EmbeddingRecognition,
    EmptyRecognition,
    SharedRecognition,
    block_patches,
)
from vadd.errors import DomainError
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import (
    ContinuousTimeELBO,
    FiniteStepELBO,
    MixedELBO,
    NullLatentELBO,
    SharedLatentELBO,
    StepLaw,
)
from vadd.priors import ConditionalPrior, MixturePrior, StandardNormalPrior, TrunkPrior
from vadd.process import MaskingProcess
from vadd.schedules import CosineSchedule

VOCAB, BATCH, LENGTH, PADDED = 7, 5, 6, 8
PAD_TOKEN = VOCAB - 1  # appears in padding alone
LONGER = {LENGTH: PADDED, LENGTH // 2: PADDED // 2}  # positions, and patches of two
SIZE = {"hidden_size": 16, "depth": 2, "num_heads": 2}
SMALL = {"hidden_size": 8, "num_heads": 2}


def build(kind, length):
    """Model and guide for sequences of a length."""
    positions = "learned" if kind.startswith("learned") else "rotary"
    per_position = kind.startswith("per position")
    latent = (length, 2) if per_position else (length // 2, 2) if kind == "patches" else (2,)
    latent = (0,) if "no latent" in kind else latent
    options = {"positions": positions, "reads_time": True, "modulation_size": 8, **SIZE}
    patches = {"patches": block_patches(length, 2)} if kind == "patches" else {}
    denoiser = DiTDenoiser(VOCAB, length, latent, **options, **patches)
    if "no latent" in kind:
        recognition = EmptyRecognition()
    elif kind == "shared":
        recognition = SharedRecognition.for_denoiser(denoiser, **SMALL)
    elif kind == "per position, shared":
        recognition = SharedRecognition.for_denoiser(denoiser, only_target=False, **SMALL)
    elif kind in ("embedding", "per position, embedding"):
        recognition = EmbeddingRecognition.for_denoiser(denoiser, **SMALL)
    else:
        family = "flow" if kind == "flow" else "diagonal"
        recognition = DiTRecognition(VOCAB, length, latent, family=family, **options, **patches)
    prior = StandardNormalPrior(latent)
    if "conditional prior" in kind:
        prior = ConditionalPrior(DiTRecognition(VOCAB, length, latent, **options), VOCAB)
    elif "trunk prior" in kind:
        prior = TrunkPrior(latent, denoiser.context_size, per_position=per_position)
    elif "mixture" in kind:
        prior = MixturePrior(latent, 3)
    model = VADDModel(denoiser, prior, MaskingProcess(CosineSchedule(), VOCAB))
    return model, RecognitionGuide(recognition)


KINDS = [
    "no latent",
    "rotary",
    "learned",
    "patches",
    "flow",
    "shared",
    "embedding",
    "conditional prior",
    "trunk prior",
    "mixture",
    "per position",
    "per position, shared",
    "per position, embedding",
    "per position, conditional prior",
    "per position, trunk prior",
    "per position, mixture",
]
every_kind = pytest.mark.parametrize("kind", KINDS)

BOUNDS = [
    ("finite-step", {"num_steps": 3}),
    ("finite-step", {"num_steps": 3, "num_latents": 2}),
    ("finite-step", {"num_steps": 8, "num_jumps": 2}),
    ("finite-step", {"num_steps": 3, "latents": ("shared", "fresh", "null")}),
    ("finite-step", {"num_steps": 3, "latents": "shared", "num_latents": 2}),
    ("finite-step", {"num_steps": 2, "latents": "null"}),
    ("marginal", {"num_latents": 2}),
    ("continuous", {}),
    ("shared-latent", {"num_steps": 3}),
    ("shared-latent", {"num_steps": 3, "num_latents": 2}),
    ("shared-latent", {"num_steps": None}),
    ("shared-latent", {"num_steps": None, "num_latents": 2}),
    ("conditional", {"mask_ratio": 0.5, "num_latents": 2, "proposal": "mixture"}),
    ("delbo", {}),
]

OBJECTIVES = {
    "delbo": lambda process, **o: DELBO(process, **o),
    "delbo, uniform times": lambda process, **o: DELBO(process, times="uniform", **o),
    "finite-step": lambda process, **o: FiniteStepELBO(process, 3, **o),
    "continuous": lambda process, **o: ContinuousTimeELBO(process, **o),
    "shared, three steps": lambda process, **o: SharedLatentELBO(process, 3, **o),
    "shared, infinitely many": lambda process, **o: SharedLatentELBO(process, None, **o),
    "null": lambda process, **o: NullLatentELBO(process, **o),
    "mixed": lambda process, **o: MixedELBO(
        [(SharedLatentELBO(process, StepLaw((1, 3, None), (0.4, 0.3, 0.3))), 0.6), (NullLatentELBO(process), 0.4)], **o
    ),
}
METHODS = [
    *("ancestral", "cached", "static", "first-hitting", "confidence"),
    *("entropy-bounded", "remasking", "predictor-corrector"),
]


pytestmark = pytest.mark.usefixtures("_double")


@pytest.fixture(autouse=True)
def _noise_of_the_longer(monkeypatch):
    """Uniforms and normals are drawn for the padded length, and cut."""
    rand, randn = torch.rand, torch.randn

    def cut(values, shape):
        for axis, size in enumerate(shape):
            values = values.narrow(axis, 0, size)
        return values

    def uniforms(*shape, **options):
        size = tuple(shape[0]) if shape and not isinstance(shape[0], int) else shape
        return cut(rand(tuple(LONGER.get(n, n) for n in size), **options), size)

    def normals(mean, std):
        size = torch.broadcast_shapes(mean.shape, std.shape)
        return mean + std * cut(randn(tuple(LONGER.get(n, n) for n in size), dtype=mean.dtype), size)

    def standard_normals(shape, dtype, device):
        return normals(torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype))

    monkeypatch.setattr(torch, "rand", uniforms)
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normals)
    monkeypatch.setattr(torch, "normal", normals)


def make_pairs(kind):
    """The pair for padded sequences, with random weights, and the pair for short ones with the same."""
    torch.manual_seed(1)
    long, short = build(kind, PADDED), build(kind, LENGTH)
    for ours, theirs in zip(long, short, strict=True):
        values = dict(ours.named_parameters())
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                values[name].add_(0.3 * torch.randn_like(values[name]))
                value = values[name]
                for axis, size in enumerate(parameter.shape):  # positions that the longer one has more
                    value = value.narrow(axis, 0, size)
                parameter.copy_(value)
    return long, short


def batches():
    """Sentences, and the same padded."""
    torch.manual_seed(2)
    x_0 = torch.randint(VOCAB - 1, (BATCH, LENGTH))
    is_padding = torch.arange(PADDED).expand(BATCH, -1) >= LENGTH
    padding = torch.full((BATCH, PADDED - LENGTH), PAD_TOKEN)
    return x_0, {"x_0": torch.cat([x_0, padding], 1), "is_padding": is_padding}


@every_kind
@pytest.mark.parametrize(("bound", "options"), BOUNDS, ids=str)
def test_a_padded_batch_has_the_bounds_of_the_unpadded_one(kind, bound, options):
    long, short = make_pairs(kind)
    x_0, padded = batches()
    expected = log_likelihood_bound(*short, x_0, bound=bound, num_draws=2, **options)
    result = log_likelihood_bound(*long, **padded, bound=bound, num_draws=2, **options)
    torch.testing.assert_close(result.nats_per_sequence, expected.nats_per_sequence, rtol=1e-10, atol=1e-10)
    assert torch.equal(result.num_scored, expected.num_scored)


def loss_of(name, pair, x_0, **options):
    model, guide = pair
    objective = OBJECTIVES[name](model.process, generator=torch.Generator().manual_seed(3))
    pyro.set_rng_seed(4)
    for part in pair:
        part.zero_grad()
    loss = objective(model, guide)(x_0, **options)
    loss.backward()
    return loss.detach()


@every_kind
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_padded_batch_has_the_loss_and_gradients_of_the_unpadded_one(kind, name):
    long, short = make_pairs(kind)
    x_0, padded = batches()
    expected, loss = loss_of(name, short, x_0), loss_of(name, long, **padded)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(long, short, strict=True):
        grads = {key: value.grad for key, value in ours.named_parameters()}
        for key, parameter in theirs.named_parameters():
            if parameter.grad is None:
                assert grads[key] is None or not grads[key].any()
                continue
            grad = grads[key]
            rest = grad.clone()
            for axis, size in enumerate(parameter.shape):
                grad = grad.narrow(axis, 0, size)
            rest[tuple(slice(size) for size in parameter.shape)] = 0
            largest = max(1.0, float(parameter.grad.abs().max()))
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-8, atol=1e-10 * largest)
            assert not rest.any(), f"{key} has a gradient from padding"
    # The token that stands in padding alone is never read.
    assert not long[0].denoiser.token_embedding.weight.grad[PAD_TOKEN].any()


@given(st.lists(st.integers(0, VOCAB - 1), min_size=BATCH * 2, max_size=BATCH * 2), st.sampled_from(KINDS))
@settings(max_examples=15)
def test_what_stands_in_padding_never_matters(tokens, kind):
    """To the last bit: bounds, losses and gradients."""
    long, _ = make_pairs(kind)
    _, padded = batches()
    other = padded["x_0"].clone()
    other[:, LENGTH:] = torch.tensor(tokens).reshape(BATCH, 2)
    for bound, options in BOUNDS[::3]:
        first, second = (
            log_likelihood_bound(*long, **{**padded, "x_0": x_0}, bound=bound, **options).nats_per_sequence
            for x_0 in (padded["x_0"], other)
        )
        assert torch.equal(first, second)
    for name in OBJECTIVES:
        losses, grads = [], []
        for x_0 in (padded["x_0"], other):
            losses.append(loss_of(name, long, **{**padded, "x_0": x_0}))
            grads.append([copy.copy(p.grad) for part in long for p in part.parameters() if p.grad is not None])
        assert torch.equal(*losses)
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_is_never_masked(name):
    (model, _), _ = make_pairs("rotary")
    x_0, padded = batches()
    for seed in range(20):
        objective = OBJECTIVES[name](model.process, generator=torch.Generator().manual_seed(seed))
        batch = objective.draw(model, **padded).batch
        assert not (batch.is_masked & padded["is_padding"]).any()
        assert not (batch.target & padded["is_padding"]).any()
        assert torch.equal(batch.x_t[:, LENGTH:], padded["x_0"][:, LENGTH:])


# With rotary positions all masked positions of the start are equally certain, and rounding would choose among them.
@pytest.mark.parametrize(
    "kind",
    ["learned", "learned, no latent", "learned, conditional prior", "learned, mixture", "per position, trunk prior"],
)
@pytest.mark.parametrize("latents", ["fresh", "shared"])
@pytest.mark.parametrize("method", METHODS)
def test_samples_of_a_length_are_those_of_unpadded_sequences(kind, latents, method):
    (long, _), (short, _) = make_pairs(kind)
    x_0, padded = batches()
    steps = {} if method == "entropy-bounded" else {"num_steps": 4}
    options = {"method": method, "latents": latents, "seed": 5, **steps}
    samples = long.sample(BATCH, length=PADDED, is_padding=padded["is_padding"], **options)
    assert torch.equal(samples[:, :LENGTH], short.sample(BATCH, length=LENGTH, **options))
    assert not samples[:, LENGTH:].any()
    is_known = torch.zeros(BATCH, PADDED, dtype=torch.bool)
    is_known[:, 1:3] = True
    filled = long.infill(padded["x_0"], is_known, is_padding=padded["is_padding"], **options)
    assert torch.equal(filled[:, :LENGTH], short.infill(x_0, is_known[:, :LENGTH], **options))
    assert (filled[:, LENGTH:] == PAD_TOKEN).all()


def test_rows_of_padding_alone_are_refused_by_number():
    (model, guide), _ = make_pairs("rotary")
    _, padded = batches()
    padded["is_padding"] = padded["is_padding"].clone()
    padded["is_padding"][[1, 3]] = True
    message = "no token in 2 of 5 rows, in row 1, 3"
    with pytest.raises(DomainError, match=message):
        log_likelihood_bound(model, guide, **padded, bound="marginal")
    for name in OBJECTIVES:
        with pytest.raises(DomainError, match="is_padding leaves no token"):
            loss_of(name, (model, guide), **padded)
    for method in ("ancestral", "first-hitting"):
        with pytest.raises(DomainError, match=message):
            model.sample(BATCH, num_steps=2, method=method, length=PADDED, is_padding=padded["is_padding"])
    with pytest.raises(DomainError, match=message):
        model.infill(padded["x_0"], ~padded["is_padding"], num_steps=2, is_padding=padded["is_padding"])
