"""A model with a latent that starts as a trained masked diffusion model has its likelihood."""

import copy

import pytest
import torch

from vadd import RecognitionGuide, VADDModel
from vadd.backbones import (
    DiTDenoiser,
    DiTRecognition,
    EmptyRecognition,
    SharedRecognition,
)
from vadd.errors import CheckpointError, ConfigError
from vadd.evaluation import log_likelihood_bound
from vadd.priors import LatentPrior, MixturePrior, StandardNormalPrior, TrunkPrior
from vadd.process import MaskingProcess
from vadd.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule
from vadd.training import save_checkpoint, start_from_mdm

VOCAB, LENGTH, LATENT = 5, 6, 3
SIZE = {"hidden_size": 16, "depth": 2, "num_heads": 2, "modulation_size": 8}
BOUNDS = [
    ("finite-step", {"num_steps": 1}),
    ("finite-step", {"num_steps": 4}),
    ("shared-latent", {"num_steps": 3, "num_latents": 2}),
    ("marginal", {"num_latents": 2}),
    ("delbo", {"num_latents": 2}),
    ("conditional", {"mask_ratio": 0.5}),
]


def make(latent=LATENT, *, schedule=None, prior: type[LatentPrior] = StandardNormalPrior, **options):
    denoiser = DiTDenoiser(VOCAB, LENGTH, latent, **{**SIZE, **options})
    made = MixturePrior(latent, 3) if prior is MixturePrior else None
    made = TrunkPrior(latent, denoiser.context_size) if prior is TrunkPrior else made or StandardNormalPrior(latent)
    return VADDModel(denoiser, made, MaskingProcess(schedule or CosineSchedule(), VOCAB))


def trained(**options):
    mdm = make(0, **options)
    with torch.no_grad():
        for parameter in mdm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mdm


def guides(model):
    shape = tuple(model.latent_shape)
    return RecognitionGuide(EmptyRecognition()), RecognitionGuide(DiTRecognition(VOCAB, LENGTH, shape, **SIZE))


@pytest.mark.parametrize("latent", [LATENT, (LENGTH, 2)], ids=str)
@pytest.mark.parametrize("options", [{}, {"positions": "learned"}, {"reads_time": True}], ids=str)
@pytest.mark.parametrize(("bound", "how"), BOUNDS, ids=str)
def test_the_likelihood_is_that_of_the_mdm(bound, how, latent, options):
    mdm, model = trained(**options), make(latent, **options)
    before = [parameter.clone() for parameter in model.denoiser.parameters()]
    assert start_from_mdm(model, mdm) is model
    assert any(not torch.equal(old, new) for old, new in zip(before, model.denoiser.parameters(), strict=True))
    empty, guide = guides(model)
    x_0 = torch.randint(VOCAB, (4, LENGTH))
    expected, result = (
        log_likelihood_bound(m, g, x_0, bound=bound, proposal="prior", **how).nats_per_sequence
        for m, g in ((mdm, empty), (model, guide))
    )
    if "num_latents" not in how:  # one latent: to the last bit
        assert torch.equal(result, expected)
    # Products of matrices of other sizes may round otherwise, by processor.
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prior", [MixturePrior, TrunkPrior])
def test_prior_and_guide_stay_and_shared_parts_read_the_new_weights(prior):
    mdm, model = trained(), make(prior=prior)
    guide = RecognitionGuide(SharedRecognition.for_denoiser(model.denoiser, hidden_size=8, num_heads=2))
    before = copy.deepcopy([model.prior.state_dict(), guide.state_dict()])
    x_0 = torch.randint(VOCAB, (4, LENGTH))
    old = guide.encode(x_0).mean
    start_from_mdm(model, mdm)
    for part, state in zip((model.prior, guide), before, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, state[name])
    assert guide.recognition.denoiser is model.denoiser
    assert not torch.equal(guide.encode(x_0).mean, old)


@pytest.mark.parametrize("kind", ["checkpoint", "pretrained", "pretrained with a guide"])
@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_a_stored_mdm_will_do(tmp_path, kind, as_type):
    mdm, empty = trained(), RecognitionGuide(EmptyRecognition())
    if kind == "checkpoint":
        save_checkpoint(tmp_path, mdm, empty)
    else:
        mdm.save_pretrained(tmp_path, guide=empty if "guide" in kind else None)
    model, same = start_from_mdm(make(), as_type(tmp_path)), start_from_mdm(make(), mdm)
    x_t, t = torch.randint(VOCAB + 1, (4, LENGTH)), torch.rand(4)
    assert torch.equal(model.denoise(x_t, t).logits, same.denoise(x_t, t).logits)


def test_another_schedule_is_noticed_that_does_not_print_its_parameter(monkeypatch):
    monkeypatch.setattr(PolynomialSchedule, "extra_repr", lambda self: "")
    with pytest.raises(ConfigError, match="one masking process"):
        start_from_mdm(make(schedule=PolynomialSchedule(3.0)), make(0, schedule=PolynomialSchedule(2.0)))


@pytest.mark.parametrize(
    ("mdm", "model", "match"),
    [
        ({"depth": 3}, {}, "trunk.blocks.2.qkv.weight"),
        ({"num_classes": 2}, {}, "trunk.conditioning.label_embedding.weight"),
        ({"hidden_size": 32}, {}, "head.weight"),
        ({"schedule": LinearSchedule()}, {}, "one masking process"),
        ({}, {"latent": 0}, "model has no latent"),
        ({"latent": 2}, {}, "mdm must have no latent"),
    ],
    ids=str,
)
def test_what_cannot_be_taken_is_named_and_nothing_is_changed(mdm, model, match):
    source, model = make(**{"latent": 0, **mdm}), make(**model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=match):
        start_from_mdm(model, source)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("name", "value"), [("mdm", 3), ("mdm", None), ("model", "folder")])
def test_a_model_of_another_type_is_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a VADDModel.*, got {type(value).__name__}"):
        start_from_mdm(**{"model": make(), "mdm": trained(), name: value})


def test_a_denoiser_that_reads_the_latent_already_is_refused():
    model = make()
    torch.nn.init.normal_(model.denoiser.trunk.conditioning.latent.modulation.weight)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="initialized to zero"):
        start_from_mdm(model, trained())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no model"):
        start_from_mdm(make(), tmp_path)
