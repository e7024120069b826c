"""Folders of ``save_pretrained``: exact round trips, sharing brought back, the two formats told apart."""

import json

import pytest
import torch
from torch import nn

import vadd
from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPRecognition
from vadd.errors import CheckpointError, ConfigError
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.samplers import LatentGate
from vadd.schedules import LinearSchedule
from vadd.training import load_checkpoint, save_checkpoint

from .pairs import (
    KINDS,
    LATENT,
    LENGTH,
    VOCAB,
    assert_same_guide,
    assert_same_model,
    assert_same_state,
    config_of,
    denoiser,
    names,
    pair,
    perturbed,
    recognition,
)

FILES = ["config.json", "guide.safetensors", "model.safetensors"]


def shared(model, guide):
    """The networks that parts of the pair run without owning them, beside their owners."""
    found = []
    if hasattr(model.prior, "attach"):
        found.append((model.prior.denoiser, model.denoiser))
    if hasattr(model.prior, "attach_recognition"):
        found.append((model.prior.recognition, guide.recognition))
    if hasattr(guide.recognition, "attach"):
        found.append((guide.recognition.denoiser, model.denoiser))
    return found


# Round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_gives_the_same_model_and_guide(tmp_path, kind, dtype):
    model, guide = pair(kind, latent_dropout=0.25)
    model.to(dtype), guide.to(dtype)
    folder = model.save_pretrained(tmp_path / "a" / "b", guide=guide)
    assert names(folder) == FILES
    loaded = VADDModel.from_pretrained(str(folder))
    assert_same_model(loaded, model)  # also where the prior needs the guide's network
    loaded_guide = RecognitionGuide.from_pretrained(folder, model=loaded)
    assert_same_guide(loaded_guide, guide)
    assert_same_model(loaded, model)
    assert all(used is owned for used, owned in shared(loaded, loaded_guide))
    assert len(shared(loaded, loaded_guide)) == (kind in ("trunk", "vamp", "features"))
    assert not any(part.training for part in [*loaded.modules(), *loaded_guide.modules()])


@pytest.mark.parametrize("kind", ["plain", "mdm", "trunk"])
def test_a_model_is_stored_without_a_guide(tmp_path, kind):
    model, _ = pair(kind)
    folder = model.save_pretrained(tmp_path)
    assert names(folder) == ["config.json", "model.safetensors"]
    loaded = VADDModel.from_pretrained(folder)
    assert_same_model(loaded, model)
    with pytest.raises(CheckpointError, match=r"without its guide: .*guide=guide"):
        RecognitionGuide.from_pretrained(folder, model=loaded)
    with pytest.raises(CheckpointError, match=r"without its guide: load it with VADDModel.from_pretrained"):
        load_checkpoint(folder)


@pytest.mark.parametrize("gate", [None, LatentGate({1: ("null",), 3: ("shared", "fresh", "null")})])
@pytest.mark.parametrize("latents", ["fresh", "shared", "null"])
def test_gate_and_latents_are_kept(tmp_path, latents, gate):
    model, _ = pair(latents=latents)
    model.gate = gate
    loaded = VADDModel.from_pretrained(model.save_pretrained(tmp_path))
    assert (loaded.latents, loaded.gate) == (latents, gate)


def test_what_is_loaded_checks_its_arguments(tmp_path):
    model, guide = pair()
    model.process.validate_args = False
    model.save_pretrained(tmp_path / "model", guide=guide)
    save_checkpoint(tmp_path / "checkpoint", model, guide)
    assert VADDModel.from_pretrained(tmp_path / "model").process.validate_args
    assert load_checkpoint(tmp_path / "checkpoint").model.process.validate_args


def test_a_network_that_the_prior_runs_is_in_evaluation_mode_before_there_is_a_guide(tmp_path):
    model, guide = pair("vamp")
    loaded = VADDModel.from_pretrained(model.save_pretrained(tmp_path, guide=guide))
    assert not any(part.training for part in loaded.prior.recognition.modules())


def test_the_config_says_what_is_stored(tmp_path):
    model, guide = pair()
    notes = {"step": 7, "figures": [1.5, None], "data": {"name": "toys"}}
    model.save_pretrained(tmp_path, guide=guide, notes=notes)
    config = config_of(tmp_path)
    assert (config["library"], config["format_version"]) == ("vadd", 1)
    assert config["versions"] == {"vadd": vadd.__version__, "torch": torch.__version__}
    assert config["notes"] == notes
    assert {name: part["class"] for name, part in config["parts"].items()} == {
        "denoiser": "MLPDenoiser",
        "prior": "StandardNormalPrior",
        "schedule": "CosineSchedule",
        "recognition": "MLPRecognition",
    }
    assert load_checkpoint(tmp_path).notes == notes
    assert (tmp_path / "config.json").read_text().count("\n") > 20  # for people as well


def test_tensors_have_the_names_of_the_state(tmp_path):
    from safetensors.torch import load_file

    model, guide = pair()
    model.save_pretrained(tmp_path, guide=guide)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert load_file(tmp_path / "guide.safetensors").keys() == guide.state_dict().keys()


def test_saving_draws_and_changes_nothing(tmp_path):
    model, guide = pair()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path, guide=guide)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_subclass_loads_as_itself(tmp_path):
    class Mine(VADDModel):
        """A user's model."""

    class MyGuide(RecognitionGuide):
        """A user's guide."""

    model, guide = pair()
    model.save_pretrained(tmp_path, guide=guide)
    loaded = Mine.from_pretrained(tmp_path)
    assert type(loaded) is Mine
    assert type(MyGuide.from_pretrained(tmp_path, model=loaded)) is MyGuide


def test_a_second_save_replaces_the_first_and_leaves_other_files(tmp_path):
    first, guide = pair()
    first.save_pretrained(tmp_path, guide=guide, notes={"step": 1})
    (tmp_path / "README.md").write_text("mine")
    second, guide = pair(latents="shared")
    second.save_pretrained(tmp_path, guide=guide)
    assert_same_model(VADDModel.from_pretrained(tmp_path), second)
    assert config_of(tmp_path)["notes"] == {}
    assert names(tmp_path) == ["README.md", *FILES]
    second.save_pretrained(tmp_path)
    assert names(tmp_path) == ["README.md", "config.json", "model.safetensors"]


# What is refused


def test_a_prior_that_runs_the_guides_network_is_not_stored_without_it(tmp_path):
    model, _ = pair("vamp")
    _, other = pair("vamp")
    with pytest.raises(ConfigError, match=r"VampPrior runs the guide's recognition network: pass guide="):
        model.save_pretrained(tmp_path / "new")
    with pytest.raises(ConfigError, match="shares another recognition network than the guide's"):
        model.save_pretrained(tmp_path / "new", guide=other)
    assert not (tmp_path / "new").exists()


def test_a_guide_that_does_not_go_with_the_model_is_refused(tmp_path):
    model, _ = pair()
    with pytest.raises(ConfigError, match=r"latent_shape: \(2,\) and \(3,\)"):
        model.save_pretrained(tmp_path / "new", guide=RecognitionGuide(recognition(LATENT + 1)))
    _, guide = pair("features")
    with pytest.raises(ConfigError, match="shares another denoiser"):
        model.save_pretrained(tmp_path / "new", guide=guide)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["mdm", "features"])
def test_a_stored_guide_is_refused_by_a_model_that_it_does_not_fit(tmp_path, kind):
    model, guide = pair(kind)
    model.save_pretrained(tmp_path, guide=guide)
    other = VADDModel(denoiser(3), StandardNormalPrior(3), MaskingProcess(LinearSchedule(), VOCAB))
    with pytest.raises(CheckpointError, match="latent_shape"):
        RecognitionGuide.from_pretrained(tmp_path, model=other)


@pytest.mark.usefixtures("_unchecked")
def test_what_is_no_model_or_guide_is_named(tmp_path):
    model, guide = pair()
    with pytest.raises(ConfigError, match="guide must be a RecognitionGuide or None, got Linear"):
        model.save_pretrained(tmp_path, guide=nn.Linear(1, 1))
    model.save_pretrained(tmp_path, guide=guide)
    with pytest.raises(ConfigError, match="model must be a VADDModel, got MLPDenoiser"):
        RecognitionGuide.from_pretrained(tmp_path, model=model.denoiser)
    with pytest.raises(ConfigError, match="recognition must be a Recognition, got Linear"):
        RecognitionGuide.from_pretrained(tmp_path, model=model, recognition=nn.Linear(1, 1))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "notes", [{"x": object()}, {"x": torch.zeros(2)}, {(1, 2): 3}, {"x": float("nan")}, {"x": float("inf")}]
)
def test_notes_that_are_not_json_are_refused_and_the_earlier_model_kept(tmp_path, notes):
    model, _ = pair()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="notes must be JSON"):
        pair()[0].save_pretrained(tmp_path, notes=notes)
    assert_same_model(VADDModel.from_pretrained(tmp_path), model)


# Parts that are not registered


class Shifted(LatentPrior):
    """A prior of a user, with a parameter; not registered."""

    def __init__(self, size=LATENT):
        super().__init__()
        self.latent_shape = torch.Size([size])
        self.loc = nn.Parameter(torch.randn(size))

    def forward(self, x_t, t, **options):
        loc = self.loc.expand(x_t.shape[0], -1)
        return torch.distributions.Independent(torch.distributions.Normal(loc, 1.0), 1)


class Mine(MLPRecognition):
    """A network of a user; not registered."""


def my_network():
    return Mine(VOCAB, LENGTH, LATENT, hidden_size=8, depth=1)


def test_parts_that_are_not_registered_must_be_passed(tmp_path):
    guide = RecognitionGuide(my_network())
    model = VADDModel(denoiser(), Shifted(), MaskingProcess(LinearSchedule(), VOCAB))
    perturbed(model, guide)
    model.save_pretrained(tmp_path, guide=guide)
    with pytest.raises(CheckpointError, match=r"prior .* not registered: pass prior="):
        VADDModel.from_pretrained(tmp_path)
    loaded = VADDModel.from_pretrained(tmp_path, prior=Shifted())
    assert_same_state(loaded, model)
    with pytest.raises(CheckpointError, match=r"recognition .* not registered: pass recognition="):
        RecognitionGuide.from_pretrained(tmp_path, model=loaded)
    assert_same_guide(RecognitionGuide.from_pretrained(tmp_path, model=loaded, recognition=my_network()), guide)
    with pytest.raises(CheckpointError, match=r"do not fit the model: .*prior\.loc"):
        VADDModel.from_pretrained(tmp_path, prior=StandardNormalPrior(LATENT))
    with pytest.raises(ConfigError, match="latent_shape"):
        VADDModel.from_pretrained(tmp_path, prior=Shifted(LATENT + 1))


def test_a_network_that_the_prior_runs_is_passed_to_the_model_as_well(tmp_path):
    from vadd.priors import VampPrior

    guide = RecognitionGuide(my_network())
    prior = VampPrior.from_data(guide.recognition, torch.randint(VOCAB, (6, LENGTH)), 3)
    model = VADDModel(denoiser(), prior, MaskingProcess(LinearSchedule(), VOCAB))
    perturbed(model, guide)
    model.save_pretrained(tmp_path, guide=guide)
    with pytest.raises(CheckpointError, match="pass recognition="):
        VADDModel.from_pretrained(tmp_path)
    loaded = VADDModel.from_pretrained(tmp_path, recognition=my_network())
    assert_same_model(loaded, model)


def test_parts_that_are_not_used_are_refused(tmp_path):
    model, guide = pair()
    model.save_pretrained(tmp_path, guide=guide)
    with pytest.raises(CheckpointError, match="unknown parts denoise; .*denoiser"):
        VADDModel.from_pretrained(tmp_path, denoise=denoiser())
    with pytest.raises(CheckpointError, match=r"pass it to RecognitionGuide\.from_pretrained"):
        VADDModel.from_pretrained(tmp_path, recognition=recognition())
    with pytest.raises(CheckpointError, match=r"prior: parts of the model"):
        RecognitionGuide.from_pretrained(tmp_path, model=model, prior=StandardNormalPrior(LATENT))


def test_a_guide_that_cannot_be_loaded_leaves_the_model_alone(tmp_path):
    model, guide = pair("vamp")
    folder = model.save_pretrained(tmp_path, guide=guide)
    loaded = VADDModel.from_pretrained(folder)
    before = loaded.prior.recognition
    with pytest.raises(CheckpointError, match="do not fit the guide"):
        RecognitionGuide.from_pretrained(folder, model=loaded, recognition=my_network())
    assert loaded.prior.recognition is before


# Beside the checkpoints of training


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_read_from_a_folder_with_a_guide(tmp_path, kind):
    model, guide = pair(kind)
    model.gate = LatentGate({2: ("fresh", "null")})
    loaded = load_checkpoint(model.save_pretrained(tmp_path, guide=guide, notes={"step": 3}))
    assert_same_model(loaded.model, model)
    assert_same_guide(loaded.guide, guide)
    assert all(used is owned for used, owned in shared(loaded.model, loaded.guide))
    assert not any(part.training for part in [*loaded.model.modules(), *loaded.guide.modules()])
    assert loaded.notes == {"step": 3}


def test_a_checkpoint_of_training_says_how_it_is_loaded(tmp_path):
    model, guide = pair()
    save_checkpoint(tmp_path, model, guide)
    with pytest.raises(CheckpointError, match=r"checkpoint of save_checkpoint: load it with .*load_checkpoint"):
        VADDModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint of save_checkpoint: load it with .*load_checkpoint"):
        RecognitionGuide.from_pretrained(tmp_path, model=model)


def test_both_formats_in_one_folder_are_each_read_by_their_own_function(tmp_path):
    first, guide = pair()
    save_checkpoint(tmp_path, first, guide)
    second, guide = pair()
    second.save_pretrained(tmp_path, guide=guide)
    assert_same_model(load_checkpoint(tmp_path).model, first)
    assert_same_model(VADDModel.from_pretrained(tmp_path), second)


def test_the_config_is_json_of_the_standard(tmp_path):
    pair()[0].save_pretrained(tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "config.json").read_text(), parse_constant=refuse)
