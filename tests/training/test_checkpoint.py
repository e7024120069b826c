"""Checkpoints: exact round trips, damage found, nothing executed, the earlier one kept when saving fails."""

import copy
import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vadd.training.checkpoint as checkpoint
from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.errors import CheckpointError, ConfigError, VADDError
from vadd.priors import ConditionalPrior, FlowPrior, LatentPrior, StandardNormalPrior, VampPrior
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.training import load_checkpoint, save_checkpoint

from ..storage.pairs import Bomb, assert_same_state

VOCAB, LENGTH, LATENT = 5, 4, 2
SIZE = {"hidden_size": 16, "depth": 1, "modulation_size": 8}
HEADER = "checkpoint.json"


def perturb(*parts):
    with torch.no_grad():
        for part in parts:
            for p in part.parameters():
                p.add_(0.3 * torch.randn_like(p))


def make_pair(kind="mlp", latent=LATENT, schedule=None, prior=None, **options):
    denoiser, recognition = {"mlp": (MLPDenoiser, MLPRecognition), "dit": (DiTDenoiser, DiTRecognition)}[kind]
    process = MaskingProcess(schedule or LinearSchedule(), VOCAB)
    model = VADDModel(denoiser(VOCAB, LENGTH, latent, **SIZE), prior or StandardNormalPrior(latent), process, **options)
    guide = RecognitionGuide(recognition(VOCAB, LENGTH, latent, **SIZE) if latent else EmptyRecognition())
    perturb(model, guide)
    return model, guide


def sampled(model):
    return model.sample(16, num_steps=3, generator=torch.Generator().manual_seed(3))


def header_of(folder):
    return json.loads((folder / HEADER).read_text())


def rewrite_header(folder, **changes):
    (folder / HEADER).write_text(json.dumps({**header_of(folder), **changes}))


def weights_of(folder):
    (path,) = folder.glob("weights-*.safetensors")
    return path


def replace_weights(folder, data):
    """Put other bytes in the place of the weights, with a header that names them rightly."""
    weights_of(folder).unlink()
    digest = hashlib.sha256(data).hexdigest()
    (folder / f"weights-{digest[:16]}.safetensors").write_bytes(data)
    rewrite_header(folder, sha256=digest)


@pytest.fixture
def saved(tmp_path):
    model, guide = make_pair()
    folder = save_checkpoint(tmp_path / "checkpoint", model, guide, notes={"step": 3})
    return folder, model, guide


# Round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("latent", [LATENT, (LENGTH, LATENT), 0])
@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_a_round_trip_gives_the_same_samples(tmp_path, kind, latent, dtype):
    model, guide = make_pair(kind, latent, latent_dropout=0.25)
    model.to(dtype), guide.to(dtype)
    notes = {"step": 7, "figures": [1.5, None], "data": {"name": "toys"}}
    folder = save_checkpoint(tmp_path / "a" / "b", model, guide, notes=notes)
    torch.manual_seed(99)
    loaded = load_checkpoint(folder)
    assert_same_state(loaded.model, model)
    assert_same_state(loaded.guide, guide)
    assert loaded.notes == notes
    assert loaded.model.latent_dropout == 0.25
    assert loaded.model.process.vocab_size == VOCAB
    assert repr(loaded.model) == repr(model)
    assert repr(loaded.guide) == repr(guide)
    if dtype != torch.bfloat16:  # whether the networks run in it is not the question here
        assert torch.equal(sampled(loaded.model), sampled(model))
        x_0 = torch.randint(VOCAB, (3, LENGTH))
        assert torch.equal(loaded.guide.encode(x_0).mean, guide.encode(x_0).mean)


@pytest.mark.parametrize("prior", [FlowPrior(LATENT, num_layers=2, hidden_size=8), StandardNormalPrior(LATENT)])
def test_parts_of_several_dtypes_come_back_in_theirs(tmp_path, prior):
    model, guide = make_pair(prior=prior)
    model.bfloat16(), guide.bfloat16()
    model.prior.float()
    model.denoiser.head.double()
    guide.recognition.trunk.double()
    loaded = load_checkpoint(save_checkpoint(tmp_path / "checkpoint", model, guide))
    model.save_pretrained(tmp_path / "model", guide=guide)
    pretrained = VADDModel.from_pretrained(tmp_path / "model")
    for own, other in ((model, loaded.model), (model, pretrained), (guide, loaded.guide)):
        assert_same_state(other, own)
    if isinstance(prior, FlowPrior):  # a buffer that is not stored follows its neighbours
        assert loaded.model.prior.loc.dtype == torch.float32


@pytest.mark.parametrize(
    "schedule", [CosineSchedule(), PolynomialSchedule(1.7), GeometricSchedule(0.01, 9.0)], ids=repr
)
def test_schedules_come_back_with_their_options(tmp_path, schedule):
    model, guide = make_pair(schedule=schedule)
    loaded = load_checkpoint(save_checkpoint(tmp_path, model, guide)).model.process.schedule
    assert repr(loaded) == repr(schedule)
    t = torch.linspace(0, 1, 7)
    assert torch.equal(loaded.alpha(t), schedule.alpha(t))


def test_saving_draws_and_changes_nothing(tmp_path):
    model, guide = make_pair()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    save_checkpoint(tmp_path, model, guide)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_tied_weights_are_stored(tmp_path):
    model, guide = make_pair()
    model.denoiser.trunk.inner[0].weight = nn.Parameter(model.denoiser.trunk.outer[0].weight.data.T)
    loaded = load_checkpoint(save_checkpoint(tmp_path, model, guide))
    assert_same_state(loaded.model, model)


def test_a_second_checkpoint_replaces_the_first(saved):
    folder, *_ = saved
    model, guide = make_pair()
    save_checkpoint(folder, model, guide)
    assert_same_state(load_checkpoint(folder).model, model)
    assert load_checkpoint(folder).notes == {}
    assert sorted(path.name for path in folder.iterdir()) == [HEADER, weights_of(folder).name]


def test_the_same_weights_may_be_saved_twice(saved):
    folder, model, guide = saved
    save_checkpoint(folder, model, guide, notes={"step": 4})
    assert_same_state(load_checkpoint(folder).model, model)
    assert load_checkpoint(folder).notes == {"step": 4}


def test_a_figure_that_is_nan_does_not_stop_a_checkpoint(tmp_path):
    model, guide = make_pair()
    save_checkpoint(tmp_path, model, guide, notes={"loss": float("nan")})
    assert load_checkpoint(tmp_path).notes["loss"] != load_checkpoint(tmp_path).notes["loss"]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("notes", [{1: "a"}, {"a": (1, 2)}, {"a": [{"b": {None: 1}}]}, {"a": [float("nan"), (1,)]}])
def test_notes_that_would_come_back_as_others_are_refused(tmp_path, notes):
    model, guide = make_pair()
    with pytest.raises(CheckpointError, match="keys are text and sequences lists"):
        save_checkpoint(tmp_path / "new", model, guide, notes=notes)
    with pytest.raises(CheckpointError, match="notes must be JSON-ready"):
        model.save_pretrained(tmp_path / "new", notes=notes)
    assert not (tmp_path / "new").exists()


FIRST_HEADER = {
    "format_version": 1,
    "parts": {
        "denoiser": {
            "class": "MLPDenoiser",
            "arguments": {"vocab_size": VOCAB, "num_tokens": LENGTH, "latent_shape": LATENT, **SIZE},
        },
        "prior": {"class": "StandardNormalPrior", "arguments": {"latent_shape": LATENT}},
        "schedule": {"class": "LinearSchedule", "arguments": {}},
        "recognition": {
            "class": "MLPRecognition",
            "arguments": {"vocab_size": VOCAB, "num_tokens": LENGTH, "latent_shape": LATENT, **SIZE},
        },
    },
    "vocab_size": VOCAB,
    "latent_dropout": 0.25,
    "explains": "revealed",
    "notes": {"step": 3},
}


def test_a_folder_of_the_first_version_is_read(tmp_path):
    """Written here word for word as the first version wrote it, without latents and gate."""
    model, guide = make_pair(latent_dropout=0.25)
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"guide.{key}": value for key, value in guide.state_dict().items()}
    save_file(tensors, tmp_path / "weights")
    digest = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()
    (tmp_path / "weights").rename(tmp_path / f"weights-{digest[:16]}.safetensors")
    (tmp_path / HEADER).write_text(json.dumps({**FIRST_HEADER, "sha256": digest}, indent=2))
    loaded = load_checkpoint(tmp_path)
    assert_same_state(loaded.model, model)
    assert_same_state(loaded.guide, guide)
    assert torch.equal(sampled(loaded.model), sampled(model))
    assert (loaded.model.latent_dropout, loaded.guide.explains) == (0.25, "revealed")
    assert (loaded.model.latents, loaded.model.gate, loaded.notes) == ("fresh", None, {"step": 3})


def test_a_checkpoint_has_the_fields_of_the_first_version(saved):
    folder, *_ = saved
    assert header_of(folder).keys() - FIRST_HEADER.keys() == {"sha256", "latents", "gate"}
    assert all(key.startswith(("model.", "guide.")) for key in load_file(weights_of(folder)))


def test_a_guide_of_another_latent_is_refused(tmp_path):
    model, _ = make_pair()
    with pytest.raises(ConfigError, match="latent_shape"):
        save_checkpoint(tmp_path / "new", model, RecognitionGuide(EmptyRecognition()))
    assert not (tmp_path / "new").exists()


# Parts that are not registered


class Shifted(LatentPrior):
    """A prior of a user, with a parameter; not registered."""

    def __init__(self, size):
        super().__init__()
        self.latent_shape = torch.Size([size])
        self.loc = nn.Parameter(torch.randn(size))

    def forward(self, x_t, t, **options):
        loc = self.loc.expand(x_t.shape[0], -1)
        return torch.distributions.Independent(torch.distributions.Normal(loc, 1.0), 1)


class Subclassed(StandardNormalPrior):
    """A subclass of a registered class is not registered by that."""


@pytest.mark.parametrize("prior", [Shifted, Subclassed])
def test_an_unregistered_part_must_be_passed(tmp_path, prior):
    model, guide = make_pair(prior=prior(LATENT))
    folder = save_checkpoint(tmp_path, model, guide)
    with pytest.raises(CheckpointError, match=r"prior .* not registered: pass prior="):
        load_checkpoint(folder)
    loaded = load_checkpoint(folder, prior=prior(LATENT))
    assert_same_state(loaded.model, model)
    if prior is Shifted:
        with pytest.raises(CheckpointError, match=r"do not fit the model: .*prior\.loc"):
            load_checkpoint(folder, prior=StandardNormalPrior(LATENT))
    with pytest.raises(ConfigError, match="latent_shape"):
        load_checkpoint(folder, prior=prior(LATENT + 1))


class Encoder(Recognition):
    """A network of a user, not registered, to be a part of registered ones."""

    def __init__(self):
        super().__init__()
        self.latent_shape = torch.Size([LATENT])
        self.inner = MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE)

    def forward(self, tokens, target, t, **options):
        return self.inner(tokens, target, t)


def test_a_part_with_an_unregistered_one_inside_must_be_passed(tmp_path):
    model, guide = make_pair(prior=ConditionalPrior(Encoder(), VOCAB))
    folder = save_checkpoint(tmp_path, model, guide)
    with pytest.raises(CheckpointError, match=r"prior \(or something inside\) is .*: pass prior="):
        load_checkpoint(folder)
    loaded = load_checkpoint(folder, prior=ConditionalPrior(Encoder(), VOCAB))
    assert_same_state(loaded.model, model)


def test_unknown_parts_are_refused(saved):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match="unknown parts denoise; .*denoiser"):
        load_checkpoint(folder, denoise=MLPDenoiser(VOCAB, LENGTH, LATENT))


@pytest.mark.parametrize(
    "denoiser",
    [
        MLPDenoiser(VOCAB, LENGTH, LATENT, **{**SIZE, "hidden_size": 17}),
        MLPDenoiser(VOCAB, LENGTH, LATENT, **{**SIZE, "depth": 2}),
        DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE),
    ],
    ids=["wider", "deeper", "dit"],
)
def test_weights_of_another_architecture_are_refused(saved, denoiser):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        load_checkpoint(folder, denoiser=denoiser)
    header = header_of(folder)
    header["parts"]["recognition"]["arguments"]["hidden_size"] = 18
    rewrite_header(folder, **header)
    with pytest.raises(CheckpointError, match="weights do not fit the guide"):
        load_checkpoint(folder)


@pytest.mark.parametrize("change", ["missing", "unexpected", "dtype"])
def test_misfitting_tensors_are_named(saved, change):
    folder, *_ = saved
    tensors = load_file(weights_of(folder))
    key = "model.denoiser.head.bias"
    if change == "missing":
        del tensors[key]
    elif change == "unexpected":
        key = "model.denoiser.head.more"
        tensors[key] = torch.zeros(2)
    else:
        tensors[key] = tensors[key].long()
    save_file(tensors, folder / "other")
    replace_weights(folder, (folder / "other").read_bytes())
    with pytest.raises(CheckpointError, match=key.removeprefix("model.")):
        load_checkpoint(folder)


# Damage


def test_a_truncated_file_is_found(saved):
    folder, *_ = saved
    data = weights_of(folder).read_bytes()
    for size in (0, 4, 100, len(data) - 1):
        weights_of(folder).write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(folder)
        copy = shutil.copytree(folder, folder.parent / f"copy{size}")
        replace_weights(copy, data[:size])  # also where the header was made to fit
        with pytest.raises(CheckpointError, match=r"cannot be read|do not fit"):
            load_checkpoint(copy)


def test_a_flipped_bit_is_found_anywhere(saved):
    folder, *_ = saved
    data = weights_of(folder).read_bytes()
    for position in (0, 9, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        weights_of(folder).write_bytes(bytes(flipped))
        with pytest.raises(CheckpointError, match="sha256 differs"):
            load_checkpoint(folder)
    weights_of(folder).write_bytes(data)
    load_checkpoint(folder)


def test_missing_files_are_named(saved, tmp_path):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match=rf"no checkpoint in .*: {HEADER} is missing"):
        load_checkpoint(tmp_path / "nowhere")
    name = weights_of(folder).name
    weights_of(folder).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(folder)
    (folder / HEADER).unlink()
    with pytest.raises(CheckpointError, match=HEADER):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["", "{", "not JSON", "\x00", "[1, 2]", '"text"', "null", "{}", '{"a": 1}'])
def test_what_is_no_header_is_refused(saved, text):
    folder, *_ = saved
    (folder / HEADER).write_text(text)
    with pytest.raises(CheckpointError, match=HEADER):
        load_checkpoint(folder)


def test_a_header_in_no_encoding_is_refused(saved):
    folder, *_ = saved
    (folder / HEADER).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CheckpointError, match=HEADER):
        load_checkpoint(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(saved, version):
    folder, *_ = saved
    rewrite_header(folder, format_version=version)
    with pytest.raises(CheckpointError, match="format version"):
        load_checkpoint(folder)


FIELDS = ["format_version", "parts", "vocab_size", "latent_dropout", "notes", "sha256"]
PARTS = ["denoiser", "prior", "schedule", "recognition"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_header_without_one_of_its_fields_is_refused(saved, field):
    folder, *_ = saved
    header = header_of(folder)
    del header[field]
    (folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=f"{HEADER}.*({field}|not the header)"):
        load_checkpoint(folder)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "text", -3, 2.5, [1], {"a": 1}, True])
def test_a_field_of_the_wrong_kind_is_an_error_of_the_library(saved, field, value):
    folder, *_ = saved
    if (field, value) in (("notes", {"a": 1}), ("format_version", True)):
        pytest.skip("of the right kind, and equal to the right value")
    rewrite_header(folder, **{field: value})
    with pytest.raises(VADDError):
        load_checkpoint(folder)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "value",
    [
        "MLPDenoiser",
        3,
        [],
        {},
        {"class": "MLPDenoiser"},
        {"class": "os.system", "arguments": {"command": "true"}},
        {"class": "Tensor", "arguments": {}},
        {"class": "LinearSchedule", "arguments": {"unknown": 1}},
        {"class": ["MLPDenoiser"], "arguments": {}},
        {"class": "MLPDenoiser", "arguments": [1]},
        {"class": "MLPDenoiser", "arguments": {"vocab_size": "5", "num_tokens": None}},
    ],
    ids=str,
)
def test_a_damaged_description_is_an_error_of_the_library(saved, part, value):
    folder, *_ = saved
    header = header_of(folder)
    header["parts"][part] = value
    rewrite_header(folder, parts=header["parts"])
    with pytest.raises(VADDError):
        load_checkpoint(folder)


def test_the_header_cannot_lead_out_of_the_folder(saved):
    folder, *_ = saved
    rewrite_header(folder, sha256="../../../../etc/passwd")
    with pytest.raises(CheckpointError, match="sha256"):
        load_checkpoint(folder)


# Nothing stored is executed


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_the_place_of_the_weights_is_never_executed(saved, tmp_path, how):
    folder, *_ = saved
    witness = tmp_path / "witness"
    if how == "pickle":
        data = pickle.dumps(Bomb(witness))
    else:
        torch.save({"model": Bomb(witness)}, tmp_path / "bomb.pt")
        data = (tmp_path / "bomb.pt").read_bytes()
    original = weights_of(folder)
    kept = original.read_bytes()
    original.write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256"):
        load_checkpoint(folder)
    original.write_bytes(kept)
    replace_weights(folder, data)  # also where the header was made to fit
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)
    (folder / HEADER).write_bytes(data)  # ... and in the place of the header
    with pytest.raises(CheckpointError, match="JSON"):
        load_checkpoint(folder)
    assert not witness.exists()
    pickle.loads(pickle.dumps(Bomb(witness))).close()  # the witness works
    assert witness.exists()


# A failed save


def fail_at(number):
    """A stand-in for a function that fails at its call of the given number."""
    calls = []

    def wrap(function):
        def failing(*args, **kwargs):
            calls.append(args)
            if len(calls) == number:
                raise OSError("no space left on device")
            return function(*args, **kwargs)

        return failing

    return wrap


STAGES = {
    "weights not written": lambda m: m.setattr(checkpoint, "save_tensors", fail_at(1)(checkpoint.save_tensors)),
    "weights not hashed": lambda m: m.setattr(checkpoint, "sha256", fail_at(1)(checkpoint.sha256)),
    "weights not synced": lambda m: m.setattr(os, "fsync", fail_at(1)(os.fsync)),
    "weights not renamed": lambda m: m.setattr(os, "replace", fail_at(1)(os.replace)),
    "header not synced": lambda m: m.setattr(os, "fsync", fail_at(3)(os.fsync)),
    "header not renamed": lambda m: m.setattr(os, "replace", fail_at(2)(os.replace)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_save_leaves_the_earlier_checkpoint(saved, monkeypatch, stage):
    folder, model, guide = saved
    other_model, other_guide = make_pair()
    with monkeypatch.context() as patch:
        STAGES[stage](patch)
        with pytest.raises(CheckpointError, match="no space left"):
            save_checkpoint(folder, other_model, other_guide, notes={"step": 4})
    loaded = load_checkpoint(folder)
    assert_same_state(loaded.model, model)
    assert_same_state(loaded.guide, guide)
    assert loaded.notes == {"step": 3}
    save_checkpoint(folder, other_model, other_guide)  # and does not stand in the way of the next
    assert_same_state(load_checkpoint(folder).model, other_model)
    assert len(list(folder.iterdir())) == 2


def test_an_interrupted_clean_up_leaves_the_new_checkpoint(saved, monkeypatch):
    folder, *_ = saved
    other_model, other_guide = make_pair()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", fail_at(2)(lambda self, missing_ok=False: None))
        with pytest.raises(CheckpointError, match="no space left"):
            save_checkpoint(folder, other_model, other_guide)
    assert_same_state(load_checkpoint(folder).model, other_model)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("notes", [{"x": object()}, {"x": torch.zeros(2)}, {"x": {1, 2}}, {(1, 2): 3}])
def test_notes_that_are_not_json_are_refused_and_the_earlier_checkpoint_kept(saved, notes):
    folder, model, guide = saved
    other_model, other_guide = make_pair()
    with pytest.raises(CheckpointError, match="notes must be JSON"):
        save_checkpoint(folder, other_model, other_guide, notes=notes)
    assert_same_state(load_checkpoint(folder).model, model)
    assert load_checkpoint(folder).notes == {"step": 3}


def test_notes_that_refer_to_themselves_are_refused(tmp_path):
    model, guide = make_pair()
    notes = {}
    notes["self"] = notes
    with pytest.raises(CheckpointError, match="notes must be JSON"):
        save_checkpoint(tmp_path, model, guide, notes=notes)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    model, guide = make_pair()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "file", model, guide)
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "file" / "below", model, guide)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes to read-only folders")
def test_a_read_only_folder_is_named(tmp_path):
    model, guide = make_pair()
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(folder, model, guide)


def test_a_network_shared_with_another_guide_is_refused(tmp_path):
    size = {"hidden_size": 8, "depth": 1, "embedding_size": 4, "modulation_size": 8}
    guide = RecognitionGuide(MLPRecognition(2, 3, 2, **size))
    prior = VampPrior.from_data(guide.recognition, torch.randint(2, (4, 3)), 3)
    model = VADDModel(MLPDenoiser(2, 3, 2, **size), prior, MaskingProcess(LinearSchedule(), 2))
    save_checkpoint(tmp_path / "together", *copy.deepcopy(torch.nn.ModuleList([model, guide])))
    with pytest.raises(ConfigError, match="shares another recognition network than the guide's"):
        save_checkpoint(tmp_path / "apart", copy.deepcopy(model), copy.deepcopy(guide))
    assert not (tmp_path / "apart").exists()
