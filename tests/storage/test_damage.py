"""Damaged, foreign and half-written folders of ``save_pretrained``: an error that names the file, nothing executed."""

import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vadd import RecognitionGuide, VADDModel, registry
from vadd.errors import CheckpointError, VADDError
from vadd.storage import pretrained
from vadd.training import load_checkpoint

from .pairs import Bomb, assert_same_guide, assert_same_model, config_of, pair, rewrite_config

CONFIG, MODEL, GUIDE = "config.json", "model.safetensors", "guide.safetensors"


@pytest.fixture
def saved(tmp_path):
    model, guide = pair()
    return model.save_pretrained(tmp_path / "saved", guide=guide, notes={"step": 3}), model, guide


def load(folder):
    model = VADDModel.from_pretrained(folder)
    return model, RecognitionGuide.from_pretrained(folder, model=model)


def make_hash_fit(folder, name):
    """Let the config name what is in a file, as one does who wants it loaded."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    rewrite_config(folder, sha256={**config_of(folder)["sha256"], name: digest})


# The weights


@pytest.mark.parametrize("name", [MODEL, GUIDE])
def test_a_truncated_file_is_found(saved, tmp_path, name):
    folder, *_ = saved
    data = (folder / name).read_bytes()
    for size in (0, 4, 100, len(data) - 1):
        copy = shutil.copytree(folder, tmp_path / f"copy{size}")
        (copy / name).write_bytes(data[:size])
        for loader in (load, load_checkpoint):
            with pytest.raises(CheckpointError, match=rf"{name} is damaged .* save or download all files again"):
                loader(copy)
        make_hash_fit(copy, name)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read: .* save or download all files again"):
            load(copy)


@pytest.mark.parametrize("name", [MODEL, GUIDE])
def test_a_flipped_bit_is_found_anywhere(saved, name):
    folder, *_ = saved
    data = (folder / name).read_bytes()
    for position in (0, 9, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        (folder / name).write_bytes(bytes(flipped))
        with pytest.raises(CheckpointError, match=f"{name} is damaged .* sha256 differs"):
            load(folder)
    (folder / name).write_bytes(data)
    load(folder)


@pytest.mark.parametrize("name", [CONFIG, MODEL, GUIDE])
def test_a_missing_file_is_named(saved, name):
    folder, *_ = saved
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing; .*save"):
        load(folder)


def test_weights_of_another_save_are_not_mixed_in(saved, tmp_path):
    folder, *_ = saved
    model, guide = pair()
    other = model.save_pretrained(tmp_path / "other", guide=guide)
    shutil.copy(other / GUIDE, folder / GUIDE)
    with pytest.raises(CheckpointError, match=f"{GUIDE} is damaged or belongs to another checkpoint"):
        load(folder)


@pytest.mark.parametrize("change", ["missing", "unexpected", "dtype", "shape"])
@pytest.mark.parametrize("name", [MODEL, GUIDE])
def test_misfitting_tensors_are_named(saved, name, change):
    folder, *_ = saved
    tensors = load_file(folder / name)
    key = next(key for key in sorted(tensors) if key.endswith(".weight"))
    if change == "missing":
        del tensors[key]
    elif change == "unexpected":
        key += ".more"
        tensors[key] = torch.zeros(2)
    else:
        tensors[key] = tensors[key].long() if change == "dtype" else tensors[key][1:].clone()
    save_file(tensors, folder / name)
    make_hash_fit(folder, name)
    with pytest.raises(CheckpointError, match=f"{name}: the weights do not fit .*{key}"):
        load(folder)


@pytest.mark.parametrize("part", ["denoiser", "recognition"])
def test_a_config_of_other_options_does_not_fit_the_weights(saved, part):
    folder, *_ = saved
    parts = config_of(folder)["parts"]
    parts[part]["arguments"]["hidden_size"] += 1
    rewrite_config(folder, parts=parts)
    with pytest.raises(CheckpointError, match="the weights do not fit"):
        load(folder)


# The config


@pytest.mark.parametrize("text", ["", "{", "not JSON", "\x00", "[1, 2]", '"text"', "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(saved, text):
    folder, *_ = saved
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=CONFIG):
        load(folder)
    (folder / CONFIG).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CheckpointError, match=CONFIG):
        load(folder)


@pytest.mark.parametrize("config", [{}, {"a": 1}, {"model_type": "bert", "architectures": ["BertModel"]}])
def test_a_config_of_another_library_is_told(saved, config):
    folder, *_ = saved
    (folder / CONFIG).write_text(json.dumps(config))
    kind = config.get("model_type")
    with pytest.raises(CheckpointError, match=rf"{CONFIG} describes another architecture .*{kind}"):
        load(folder)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("version", "remedy"), [(2, "update vadd"), (0, "wrote it"), ("1", "wrote it"), (True, "wro")])
def test_another_format_version_is_refused(saved, version, remedy):
    folder, *_ = saved
    rewrite_config(folder, format_version=version)
    with pytest.raises(CheckpointError, match=f"{CONFIG} has format version .* reads 1; .*{remedy}"):
        load(folder)


def test_what_a_later_version_adds_is_ignored_within_a_format_version(saved):
    folder, model, guide = saved
    rewrite_config(folder, more=[1])
    assert_same_model(load(folder)[0], model)


FIELDS = ["library", "format_version", "parts", "vocab_size", "latent_dropout", "explains", "notes", "sha256"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_config_without_one_of_its_fields_is_refused(saved, field):
    folder, *_ = saved
    config = config_of(folder)
    del config[field]
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=CONFIG):
        load(folder)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("field", [*FIELDS, "latents"])
@pytest.mark.parametrize("value", [None, "text", -3, 2.5, [1], {"a": 1}, True])
def test_a_field_of_the_wrong_kind_is_damage(saved, field, value):
    folder, *_ = saved
    if (field, value) == ("notes", {"a": 1}):
        pytest.skip("of the right kind")
    rewrite_config(folder, **{field: value})
    with pytest.raises(CheckpointError, match=CONFIG):
        load(folder)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "field", [{"latents": "other"}, {"gate": "fresh"}, {"gate": {"2": []}}, {"gate": {"x": ["null"]}}]
)
def test_a_damaged_gate_is_no_matter_of_the_parts_that_are_passed(saved, field):
    folder, model, _ = saved
    rewrite_config(folder, **field)
    for parts in ({}, {"prior": model.prior}):
        with pytest.raises(CheckpointError, match=f"{CONFIG} cannot be built: .*(latents|gate)"):
            VADDModel.from_pretrained(folder, **parts)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("part", ["denoiser", "prior", "schedule", "recognition"])
@pytest.mark.parametrize(
    "value",
    [
        "MLPDenoiser",
        3,
        [],
        {},
        {"class": "os.system", "arguments": {"command": "true"}},
        {"class": "LinearSchedule", "arguments": {"unknown": 1}},
        {"class": ["MLPDenoiser"], "arguments": {}},
        {"class": "MLPDenoiser", "arguments": [1]},
        {"class": "MLPDenoiser", "arguments": {"vocab_size": "5", "num_tokens": None}},
        {"class": "MLPDenoiser", "arguments": {"vocab_size": 5, "num_tokens": 10**30}},
        {"class": "MLPRecognition", "arguments": {"vocab_size": 5, "num_tokens": 4, "latent_shape": [[1], 2]}},
    ],
    ids=str,
)
def test_a_damaged_description_is_an_error_of_the_library(saved, part, value):
    folder, *_ = saved
    rewrite_config(folder, parts={**config_of(folder)["parts"], part: value})
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("error", [ZeroDivisionError, OverflowError, IndexError, AssertionError])
def test_whatever_a_class_raises_at_damaged_arguments_names_the_config(saved, monkeypatch, error):
    def fail(**arguments):
        raise error("damaged")

    folder, *_ = saved
    monkeypatch.setitem(registry._PARTS, "StandardNormalPrior", fail)
    with pytest.raises(CheckpointError, match=f"{CONFIG} cannot be built: damaged"):
        load(folder)


def test_a_description_of_more_or_fewer_parts_than_files_is_refused(saved):
    folder, *_ = saved
    config = config_of(folder)
    hashes = config["sha256"]
    without = {name: part for name, part in config["parts"].items() if name != "recognition"}
    for changes in (
        {"parts": without},
        {"parts": {**config["parts"], "more": None}},
        {"sha256": {MODEL: hashes[MODEL]}},
        {"sha256": {**hashes, "../../etc/passwd": hashes[MODEL]}},
        {"sha256": {**hashes, MODEL: "../" + hashes[MODEL]}},
    ):
        rewrite_config(folder, **{**config, **changes})
        with pytest.raises(CheckpointError, match=f"{CONFIG} is damaged: its field"):
            load(folder)


@pytest.mark.usefixtures("_unchecked")
def test_a_flipped_bit_in_the_config_raises_nothing_but_the_librarys_errors(saved):
    folder, *_ = saved
    data = (folder / CONFIG).read_bytes()
    refused = 0
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 7
        (folder / CONFIG).write_bytes(bytes(flipped))
        try:
            load(folder)
        except VADDError:
            refused += 1
    assert refused > len(data) // 7 // 4  # most of the rest is in blanks, numbers of no effect, and the notes


# Nothing stored is executed


@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize("name", [CONFIG, MODEL, GUIDE])
def test_a_pickle_in_the_place_of_a_file_is_never_executed(saved, tmp_path, name, how):
    folder, *_ = saved
    witness = tmp_path / "witness"
    if how == "pickle":
        (folder / name).write_bytes(pickle.dumps(Bomb(witness)))
    else:
        torch.save({"model": Bomb(witness)}, folder / name)
    for loader in (load, load_checkpoint):
        with pytest.raises(CheckpointError, match=name):
            loader(folder)
    if name != CONFIG:  # also where the config was made to fit
        make_hash_fit(folder, name)
        for loader in (load, load_checkpoint):
            with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
                loader(folder)
    assert not witness.exists()
    if how == "pickle":
        pickle.loads(pickle.dumps(Bomb(witness))).close()  # the witness works
    else:
        torch.save({"model": Bomb(witness)}, tmp_path / "bomb.pt")
        torch.load(tmp_path / "bomb.pt", weights_only=False)["model"].close()
    assert witness.exists()


# Interrupted saves


def failing_at(function, number):
    """A stand-in that fails at its call of the given number."""
    calls = []

    def stand_in(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError("no space left on device")
        return function(*args, **kwargs)

    return stand_in


# What the folder holds afterwards: the earlier pair, neither, or the new one.
STAGES = {
    "model not written": (pretrained, "save_tensors", 1, "old"),
    "guide not written": (pretrained, "save_tensors", 2, "old"),
    "model not synced": (pretrained, "make_durable", 1, "old"),
    "guide not synced": (pretrained, "make_durable", 2, "old"),
    "guide not hashed": (pretrained, "sha256", 2, "old"),
    "model not renamed": (os, "replace", 1, "old"),
    "guide not renamed": (os, "replace", 2, "neither"),
    "config not written": (pretrained, "write_text", 1, "neither"),
    "config not renamed": (os, "replace", 3, "neither"),
    "folder not synced": (os, "fsync", 4, "new"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_save_is_recognised_and_never_mixed(saved, monkeypatch, stage):
    folder, *old = saved
    new = pair(latents="shared")
    where, name, number, outcome = STAGES[stage]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing_at(getattr(where, name), number))
        with pytest.raises(CheckpointError, match="cannot write the model to .*no space left"):
            new[0].save_pretrained(folder, guide=new[1])
    if outcome == "neither":
        with pytest.raises(CheckpointError, match=f"{MODEL} is damaged .* interrupted save.*save or download"):
            load(folder)
    else:
        loaded = load(folder)
        expected = {"old": old, "new": new}[outcome]
        assert_same_model(loaded[0], expected[0])
        assert_same_guide(loaded[1], expected[1])
    new[0].save_pretrained(folder, guide=new[1])  # and does not stand in the way of the next
    assert_same_model(load(folder)[0], new[0])
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, GUIDE, MODEL]


def test_a_first_save_that_is_interrupted_leaves_no_model(tmp_path, monkeypatch):
    model, guide = pair()
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "write_text", failing_at(pretrained.write_text, 1))
        with pytest.raises(CheckpointError, match="cannot write"):
            model.save_pretrained(tmp_path, guide=guide)
    with pytest.raises(CheckpointError, match=f"no model in .*: {CONFIG} is missing"):
        load(tmp_path)


def test_an_earlier_guide_that_was_not_removed_is_not_taken_for_the_new_models(saved, monkeypatch):
    folder, *_ = saved
    model, _ = pair()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", failing_at(lambda self, missing_ok=False: None, 2))
        with pytest.raises(CheckpointError, match="cannot write"):
            model.save_pretrained(folder)
    assert (folder / GUIDE).exists()
    loaded = VADDModel.from_pretrained(folder)
    assert_same_model(loaded, model)
    with pytest.raises(CheckpointError, match="without its guide"):
        RecognitionGuide.from_pretrained(folder, model=loaded)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    model, _ = pair()
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=f"cannot write the model to {folder}"):
            model.save_pretrained(folder)
