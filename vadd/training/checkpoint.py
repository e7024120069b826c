"""Checkpoints: tensors in safetensors, everything else in JSON. Loading executes nothing that was stored."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vadd.backbones.sharing import attach_parts, check_attached
from vadd.errors import CheckpointError, ConfigError, VADDError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.priors import SharesRecognition
from vadd.process import MaskingProcess
from vadd.registry import build, describe
from vadd.samplers.gate import LatentGate
from vadd.storage.files import put_in_place, sha256, write_text

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT_VERSION = 1
_HEADER = "checkpoint.json"
_PARTS = ("denoiser", "prior", "schedule", "recognition")
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "parts": lambda value: isinstance(value, dict) and set(value) == set(_PARTS),
    "vocab_size": lambda value: type(value) is int,
    "latent_dropout": lambda value: type(value) in (int, float),
    "explains": lambda value: value in ("masked", "revealed"),
    "notes": lambda value: isinstance(value, dict),
    "sha256": lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
}


class Checkpoint(NamedTuple):
    """A model, its guide, and what was noted beside them."""

    model: VADDModel
    guide: RecognitionGuide
    notes: dict[str, Any]


def save_checkpoint(
    folder: str | Path, model: VADDModel, guide: RecognitionGuide, *, notes: dict[str, Any] | None = None
) -> Path:
    """Write model and guide to ``folder``, replacing an earlier checkpoint there.

    Args:
        folder: created if missing.
        model, guide: the pair; their parts must be registered (:func:`vadd.registry.register`), or
            be passed to :func:`load_checkpoint` again.
        notes: JSON-ready values kept beside them (data set, step, figures).

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
        ConfigError: if a part shares a network that is not the one of this pair: its weights would be lost.
    """
    folder = Path(folder)
    _require_own_networks(model, guide)
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in (("model", model), ("guide", guide))
        for key, value in part.state_dict().items()
        if value.numel() > 0
    }
    objects = (model.denoiser, model.prior, model.process.schedule, guide.recognition)
    parts = dict(zip(_PARTS, objects, strict=True))
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "parts": {name: _describe(part) for name, part in parts.items()},
        "vocab_size": model.process.vocab_size,
        "latent_dropout": model.latent_dropout,
        "explains": guide.explains,
        "latents": model.latents,
        "gate": None if model.gate is None else model.gate.to_json(),
        "notes": notes or {},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "weights.partial"
        save_file(tensors, partial)
        digest = sha256(partial)
        text = json.dumps({**header, "sha256": digest}, indent=2)
        weights = folder / _weights_name(digest)
        put_in_place(partial, weights)
        # The header names its weights by their content, so replacing it is the one step that
        # turns the old checkpoint into the new one.
        write_text(folder / _HEADER, text)
        for old in folder.glob("weights-*.safetensors"):
            if old != weights:
                old.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint to {folder}: {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"notes must be JSON-ready: {error}") from error
    return folder


def load_checkpoint(folder: str | Path, **parts: nn.Module) -> Checkpoint:
    """Read a checkpoint; model and guide come in evaluation mode.

    Args:
        folder: where :func:`save_checkpoint` wrote it.
        **parts: ``denoiser=``, ``prior=``, ``schedule=`` or ``recognition=``, for parts of classes that are
            not registered; they are given the stored weights.

    Raises:
        CheckpointError: if files are missing, damaged or of another format, or the weights do not
            fit the parts.
        ConfigError: if parts that were passed do not fit together.
    """
    folder = Path(folder)
    header = _read_header(folder)
    unknown = set(parts) - set(header["parts"])
    if unknown:
        raise CheckpointError(
            f"unknown parts {', '.join(sorted(unknown))}; a checkpoint has {', '.join(header['parts'])}."
        )
    tensors = _read_tensors(folder, header["sha256"])
    try:
        model, guide = _build(header, parts)
    except (VADDError, RuntimeError, MemoryError) as error:
        if isinstance(error, CheckpointError) or (parts and isinstance(error, VADDError)):
            raise  # the parts that were passed do not fit
        raise CheckpointError(f"the model described in {folder / _HEADER} cannot be built: {error}") from error
    _load_weights(model, "model", tensors)
    _load_weights(guide, "guide", tensors)
    return Checkpoint(model.eval(), guide.eval(), header["notes"])


def _build(header: dict[str, Any], parts: dict[str, nn.Module]) -> tuple[VADDModel, RecognitionGuide]:
    built: dict[str, Any] = {}
    for name, description in header["parts"].items():
        if name in parts:
            built[name] = parts[name]
        elif description is None:
            raise CheckpointError(f"the {name} is of a class that is not registered: pass {name}=... to load.")
        else:
            built[name] = build(description)
    process = MaskingProcess(built["schedule"], header["vocab_size"])
    options = {"latent_dropout": header["latent_dropout"], "latents": header.get("latents", "fresh")}
    model = VADDModel(built["denoiser"], built["prior"], process, **options)
    if header.get("gate") is not None:  # neither field is there in checkpoints of earlier versions
        model.gate = LatentGate.from_json(header["gate"])
    guide = RecognitionGuide(built["recognition"], explains=header["explains"])
    attach_parts(guide, model.denoiser)
    for part in model.prior.modules():
        if isinstance(part, SharesRecognition):
            part.attach_recognition(guide.recognition)
    return model, guide


def _require_own_networks(model: VADDModel, guide: RecognitionGuide) -> None:
    """Raise unless parts that share networks share those of this pair, to which loading attaches them."""
    check_attached(model.prior, model.denoiser)
    check_attached(guide, model.denoiser)
    for part in model.prior.modules():
        if isinstance(part, SharesRecognition) and part.recognition is not guide.recognition:
            raise ConfigError(
                f"{type(part).__name__} shares another recognition network than the guide's, perhaps as a copy made "
                "apart from it: call attach_recognition(guide.recognition), or copy model and guide together."
            )


def _describe(part: nn.Module) -> dict[str, Any] | None:
    return describe(part) if "_arguments" in part.__dict__ else None


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    try:
        header = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint in {folder}: {_HEADER} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(header, dict) or "format_version" not in header:
        raise CheckpointError(f"{path} is not the header of a checkpoint.")
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {header['format_version']}, this version of vadd reads {FORMAT_VERSION}; "
            "load it with the version of vadd that wrote it."
        )
    for name, is_right in _FIELDS.items():
        if not is_right(header.get(name)):
            raise CheckpointError(f"{path} is damaged: its field {name} holds {header.get(name)!r}.")
    return header


def _read_tensors(folder: Path, expected: str) -> dict[str, torch.Tensor]:
    path = folder / _weights_name(expected)
    try:
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path} is damaged or belongs to another checkpoint: its sha256 differs from the one in {_HEADER}."
            )
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint in {folder}: {path.name} is missing.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _load_weights(part: nn.Module, name: str, tensors: dict[str, torch.Tensor]) -> None:
    stored = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    dtypes = {value.dtype for value in stored.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        part.to(dtypes.pop())
    own = part.state_dict()
    expected = {key for key, value in own.items() if value.numel() > 0}
    wrong = sorted(
        (expected ^ set(stored))
        | {k for k in expected & set(stored) if (own[k].shape, own[k].dtype) != (stored[k].shape, stored[k].dtype)}
    )
    if wrong:
        raise CheckpointError(
            f"the weights do not fit the {name}: missing, unexpected or of another shape or dtype: "
            f"{', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}. Were the parts built with other options?"
        )
    part.load_state_dict(stored, strict=False)


def _weights_name(digest: str) -> str:
    return f"weights-{digest[:16]}.safetensors"
