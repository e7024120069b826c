"""Folders of a trained model by the Hugging Face convention: ``config.json`` and safetensors beside it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vadd._version import __version__
from vadd.errors import CheckpointError, ConfigError
from vadd.storage import hub
from vadd.storage.files import make_durable, save_tensors, sha256, write_text
from vadd.storage.pair import (
    FIELDS,
    MODEL_PARTS,
    PARTS,
    Blueprint,
    StoredGuide,
    StoredModel,
    attach_recognition,
    check_notes,
    check_pair,
    describe_pair,
    load_weights,
    sharing_recognition,
    tensors_of,
)
from vadd.storage.reading import Fields, check_fields, check_version, is_sha256, read_json, read_tensors

__all__ = ["load_guide", "load_model", "load_pair", "push_to_hub", "save_pretrained"]

FORMAT_VERSION = 1
LIBRARY = "vadd"
CONFIG, MODEL, GUIDE = "config.json", "model.safetensors", "guide.safetensors"
FILES = (CONFIG, MODEL, GUIDE)
CHECKPOINT = "checkpoint.json"  # the header of save_checkpoint
_M = TypeVar("_M", bound=nn.Module)
_G = TypeVar("_G", bound=nn.Module)


def save_pretrained(
    model: StoredModel,
    folder: str | Path,
    *,
    guide: StoredGuide | None = None,
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write the model, and its guide where one is given, to a folder; others than these files there are left alone.

    ``config.json`` describes the parts, the gate and the latents, ``model.safetensors`` and ``guide.safetensors`` hold
    the tensors. The config is written last and holds the hashes of the others: a folder that an interrupted save left
    half new is refused when it is loaded.

    Args:
        model: a :class:`~vadd.model.VADDModel`. Call it as ``model.save_pretrained(...)``.
        folder: created if missing; what was saved there before is replaced.
        guide: the model's guide. A prior that runs the guide's recognition network needs it.
        notes: JSON-ready values kept in the config (data set, step, figures).

    Returns:
        The folder.

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
        ConfigError: if model and guide do not fit together, or one shares a network that is not the other's.
    """
    folder = Path(folder)
    check_pair(model, guide)
    check_notes(notes)
    config: dict[str, Any] = {
        "library": LIBRARY,
        "format_version": FORMAT_VERSION,
        "versions": {LIBRARY: __version__, "torch": torch.__version__},
        **describe_pair(model, guide),
        "notes": notes or {},
    }
    written = {MODEL: model} if guide is None else {MODEL: model, GUIDE: guide}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, part in written.items():
            partial = _partial(folder, name)
            save_tensors(tensors_of(part), partial)
            make_durable(partial)
            hashes[name] = sha256(partial)
        text = json.dumps({**config, "sha256": hashes}, indent=2) + "\n"
        for name in written:  # all are complete: from here to the new config, the folder is refused
            os.replace(_partial(folder, name), folder / name)
        write_text(folder / CONFIG, text)
        if guide is None:
            (folder / GUIDE).unlink(missing_ok=True)
            _partial(folder, GUIDE).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the model to {folder}: {error}") from error
    return folder


def load_model(
    cls: type[_M],
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    **parts: nn.Module,
) -> _M:
    """Read a model that :meth:`save_pretrained` or :meth:`push_to_hub` wrote; it comes in evaluation mode, on the CPU.

    Nothing that was stored is executed. A prior that runs the guide's recognition network gets that network, too;
    :meth:`RecognitionGuide.from_pretrained <vadd.guide.RecognitionGuide.from_pretrained>` gives it the guide's.

    Args:
        cls: the model's class. Call it as ``VADDModel.from_pretrained(...)``.
        path_or_repo: a folder, else a repository of the Hugging Face Hub, ``"owner/name"``, which is downloaded.
        revision: branch, tag or commit of the repository.
        token: access token of a private repository; default the one that was stored by logging in.
        **parts: ``denoiser=``, ``prior=`` or ``schedule=`` for parts of classes that are not registered; they are given
            the stored weights. ``recognition=`` where the prior runs that network.

    Raises:
        CheckpointError: if files are missing, damaged, of another format or kind, if the weights do not fit the parts,
            or the download fails.
        ConfigError: if parts that were passed do not fit together, or the optional package for downloads is missing.
    """
    folder = hub.locate(path_or_repo, FILES, revision=revision, token=token)
    config = _read_config(folder)
    blueprint = Blueprint(config, folder / CONFIG, parts)
    model: Any = blueprint.model(cls)
    load_weights(model, "model", _read(folder, MODEL, config), folder / MODEL)
    if sharing_recognition(model):
        _require_guide(folder, config)
        network = blueprint.recognition(model)
        load_weights(nn.ModuleDict({"recognition": network}), "guide", _read(folder, GUIDE, config), folder / GUIDE)
        attach_recognition(model, network.eval())
    elif "recognition" in parts:
        raise CheckpointError("recognition is a part of the guide: pass it to RecognitionGuide.from_pretrained.")
    return model.eval()


def load_guide(
    cls: type[_G],
    path_or_repo: str | Path,
    *,
    model: StoredModel,
    revision: str | None = None,
    token: str | bool | None = None,
    **parts: nn.Module,
) -> _G:
    """Read the guide that was stored beside a model; it comes in evaluation mode, on the CPU.

    It is attached to the model's denoiser where it shares that, and the model's prior to its recognition network where
    the prior runs that.

    Args:
        cls: the guide's class. Call it as ``RecognitionGuide.from_pretrained(...)``.
        path_or_repo, revision, token: as for :meth:`VADDModel.from_pretrained <vadd.model.VADDModel.from_pretrained>`.
        model: the model from the same place.
        **parts: ``recognition=``, for a network of a class that is not registered.

    Raises:
        CheckpointError, ConfigError: as for the model, and if no guide is stored there.
    """
    if not isinstance(model, StoredModel):
        raise ConfigError(f"model must be a VADDModel, got {type(model).__name__}.")
    folder = hub.locate(path_or_repo, FILES, revision=revision, token=token)
    config = _read_config(folder)
    _require_guide(folder, config)
    blueprint = Blueprint(config, folder / CONFIG, parts)
    others = sorted(set(parts) - {"recognition"})
    if others:
        raise CheckpointError(f"{', '.join(others)}: parts of the model, pass them to VADDModel.from_pretrained.")
    guide: Any = blueprint.guide(cls, model)
    load_weights(guide, "guide", _read(folder, GUIDE, config), folder / GUIDE)
    attach_recognition(model, guide.recognition)
    return guide.eval()


def load_pair(
    make_model: Callable[..., _M], make_guide: Callable[..., _G], folder: Path, parts: dict[str, nn.Module]
) -> tuple[_M, _G, dict[str, Any]]:
    """Model, guide and notes of a local folder, as :func:`load_model` and :func:`load_guide` read them."""
    config = _read_config(folder)
    _require_guide(folder, config)
    tensors = {"model": _read(folder, MODEL, config), "guide": _read(folder, GUIDE, config)}
    model, guide = Blueprint(config, folder / CONFIG, parts).pair(make_model, make_guide, tensors)
    return model, guide, config["notes"]


def push_to_hub(
    model: StoredModel,
    repo_id: str,
    *,
    guide: StoredGuide | None = None,
    notes: dict[str, Any] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Save to a repository of the Hugging Face Hub, in one commit; others than the three files there are left alone.

    Needs the optional package ``huggingface_hub``: ``pip install 'vadd[hub]'``.

    Args:
        model: a :class:`~vadd.model.VADDModel`. Call it as ``model.push_to_hub(...)``.
        repo_id: ``"owner/name"``, or ``"name"`` of one's own; created if missing.
        guide, notes: as for :meth:`save_pretrained`.
        private: whether a new repository is private; default the owner's. For one that exists, what it has to be.
        token: access token; default the one that was stored by logging in.
        commit_message: first line of the commit's message.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: if the upload fails; what can be saved nowhere fails as in :meth:`save_pretrained`.
        ConfigError: if the optional package is missing, or an existing repository is not as ``private`` says.
    """

    def save(folder: Path) -> None:
        save_pretrained(model, folder, guide=guide, notes=notes)

    return hub.push(save, repo_id, FILES, private=private, token=token, commit_message=commit_message)


def _partial(folder: Path, name: str) -> Path:
    return folder / f"{name}.partial"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        if (folder / CHECKPOINT).is_file():
            raise CheckpointError(
                f"{folder} holds a checkpoint of save_checkpoint: load it with vadd.training.load_checkpoint(folder)."
            )
        raise CheckpointError(
            f"no model in {folder}: {CONFIG} is missing; pass a folder that save_pretrained wrote, or save it again."
        )
    config = read_json(path)
    if config.get("library") != LIBRARY:
        kind = config.get("model_type", config.get("library"))
        raise CheckpointError(f"{path} describes another architecture than a VADDModel (model_type {kind!r}).")
    check_version(config, path, FORMAT_VERSION)
    has_guide = isinstance(config.get("parts"), dict) and "recognition" in config["parts"]
    names = {MODEL, GUIDE} if has_guide else {MODEL}
    fields: Fields = {
        **FIELDS,
        "parts": lambda value: isinstance(value, dict) and set(value) == set(PARTS if has_guide else MODEL_PARTS),
        "explains": FIELDS["explains"] if has_guide else lambda value: value is None,
        "sha256": lambda value: isinstance(value, dict) and set(value) == names and all(map(is_sha256, value.values())),
    }
    check_fields(config, path, fields)
    return config


def _require_guide(folder: Path, config: dict[str, Any]) -> None:
    if GUIDE not in config["sha256"]:
        raise CheckpointError(
            f"{folder} holds a model without its guide: load it with VADDModel.from_pretrained, or save the model "
            "again with save_pretrained(folder, guide=guide)."
        )


def _read(folder: Path, name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    return read_tensors(folder / name, config["sha256"][name])
