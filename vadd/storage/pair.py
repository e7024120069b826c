"""A model and its guide as JSON and tensors, and back. Rebuilding them executes nothing that was stored."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from vadd._protocols import ByAttributes
from vadd.backbones.base import Recognition
from vadd.backbones.sharing import attach_parts, check_attached
from vadd.errors import CheckpointError, ConfigError, VADDError
from vadd.priors import SharesRecognition
from vadd.process import MaskingProcess
from vadd.registry import build, describe
from vadd.samplers.gate import LatentGate, resolve_plan
from vadd.storage.reading import Fields

__all__ = ["Blueprint", "StoredGuide", "StoredModel"]

MODEL_PARTS = ("denoiser", "prior", "schedule")
PARTS = (*MODEL_PARTS, "recognition")
FIELDS: Fields = {
    "parts": lambda value: isinstance(value, dict) and set(value) == set(PARTS),
    "vocab_size": lambda value: type(value) is int,
    "latent_dropout": lambda value: type(value) in (int, float),
    "explains": lambda value: value in ("masked", "revealed"),
    "notes": lambda value: isinstance(value, dict),
}
_M = TypeVar("_M")
_G = TypeVar("_G")


@runtime_checkable
class StoredModel(Protocol, metaclass=ByAttributes):
    """What is stored of a model; a :class:`~vadd.model.VADDModel` has it."""

    denoiser: Any
    prior: Any
    process: MaskingProcess
    latent_shape: torch.Size
    latent_dropout: float
    latents: Any
    gate: Any

    def state_dict(self) -> Any: ...


@runtime_checkable
class StoredGuide(Protocol, metaclass=ByAttributes):
    """What is stored of a guide; a :class:`~vadd.guide.RecognitionGuide` has it."""

    recognition: Any
    explains: Any
    latent_shape: torch.Size

    def state_dict(self) -> Any: ...


def check_pair(model: Any, guide: Any) -> None:
    """Raise unless the two are stored completely: parts that share networks share those of this pair.

    Raises:
        ConfigError: if they are no model and guide, do not fit together, or weights would be lost.
    """
    if not isinstance(model, StoredModel):
        raise ConfigError(f"model must be a VADDModel, got {type(model).__name__}.")
    if guide is not None and not isinstance(guide, StoredGuide):
        raise ConfigError(f"guide must be a RecognitionGuide or None, got {type(guide).__name__}.")
    check_attached(model.prior, model.denoiser)
    if isinstance(guide, nn.Module):
        _check_latents(model, guide.recognition)
        check_attached(guide, model.denoiser)
    for part in sharing_recognition(model):
        if guide is None:
            raise ConfigError(f"{type(part).__name__} runs the guide's recognition network: pass guide= as well.")
        if part.recognition is not guide.recognition:
            raise ConfigError(
                f"{type(part).__name__} shares another recognition network than the guide's, perhaps as a copy made "
                "apart from it: call attach_recognition(guide.recognition), or copy model and guide together."
            )


def describe_pair(model: StoredModel, guide: StoredGuide | None) -> dict[str, Any]:
    """All of them that is no tensor, ready for JSON."""
    parts = {"denoiser": model.denoiser, "prior": model.prior, "schedule": model.process.schedule}
    if guide is not None:
        parts["recognition"] = guide.recognition
    return {
        "parts": {name: _description(part) for name, part in parts.items()},
        "vocab_size": model.process.vocab_size,
        "latent_dropout": model.latent_dropout,
        **({} if guide is None else {"explains": guide.explains}),
        "latents": model.latents,
        "gate": None if model.gate is None else model.gate.to_json(),
    }


def _description(part: Any) -> dict[str, Any] | None:
    """The part's, or None where it or one in it cannot be described: then it is passed again when loading."""
    try:
        return describe(part)
    except ConfigError:
        return None


def tensors_of(part: StoredModel | StoredGuide, prefix: str = "") -> dict[str, Tensor]:
    """Copies of its weights and buffers in the CPU's memory, of which no two share storage."""
    state: dict[str, Tensor] = part.state_dict()
    return {f"{prefix}{k}": v.detach().cpu().contiguous().clone() for k, v in state.items() if v.numel() > 0}


def check_notes(notes: Any, *, allow_nan: bool = False) -> None:
    """Raise :class:`CheckpointError` unless the notes can be written as JSON, and come back from it as they are."""
    try:
        read = json.loads(json.dumps(notes, allow_nan=allow_nan))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"notes must be JSON-ready: {error}") from error
    if not _is_same(notes, read):
        raise CheckpointError(
            "notes must be JSON-ready: keys are text and sequences lists, or they would come back as other values; got "
            f"{notes!r:.200}."
        )


def _is_same(value: Any, read: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == read.keys() and all(_is_same(item, read[key]) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_same, value, read))
    return bool(value == read or value != value)  # NaN is no number's equal


def load_weights(part: nn.Module, name: str, stored: dict[str, Tensor], path: Path) -> None:
    """Give a part the tensors of a file, in their dtypes.

    Raises:
        CheckpointError: if one is missing, unexpected, or of another shape or dtype.
    """
    _take_dtypes(part, stored)
    own = part.state_dict()
    expected = {key for key, value in own.items() if value.numel() > 0}
    wrong = sorted(
        (expected ^ set(stored))
        | {k for k in expected & set(stored) if (own[k].shape, own[k].dtype) != (stored[k].shape, stored[k].dtype)}
    )
    if wrong:
        raise CheckpointError(
            f"{path}: the weights do not fit the {name}: missing, unexpected or of another shape or dtype: "
            f"{', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}. Were the parts built with other options?"
        )
    part.load_state_dict(stored, strict=False)


def _take_dtypes(part: nn.Module, stored: dict[str, Tensor], prefix: str = "") -> None:
    """Give a part the floating dtypes of its stored tensors; buffers that are not stored follow those beside them."""
    dtypes = {v.dtype for key, v in stored.items() if key.startswith(prefix) and v.is_floating_point()}
    if len(dtypes) == 1:
        part.to(dtypes.pop())
        return
    for name, child in part.named_children() if dtypes else ():
        _take_dtypes(child, stored, f"{prefix}{name}.")
    for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
        value = stored.get(f"{prefix}{name}")
        if value is not None and value.is_floating_point() and tensor.is_floating_point():
            tensor.data = tensor.data.to(value.dtype)


class Blueprint:
    """Rebuilds the pair from its description, without its weights.

    Args:
        header: as :func:`describe_pair` made it.
        path: the file that it comes from.
        parts: parts to take instead of those that are described.

    Raises:
        CheckpointError: if there are parts of other names.
    """

    def __init__(self, header: dict[str, Any], path: Path, parts: Mapping[str, nn.Module]) -> None:
        self.header = header
        self.path = path
        self.parts = parts
        unknown = set(parts) - set(header["parts"])
        if unknown:
            raise CheckpointError(
                f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(header['parts'])}."
            )

    def model(self, make: Callable[..., _M]) -> _M:
        """The model, made by its class; a prior that shares the recognition network is left without."""
        with self._errors_named():
            latents, gate = self._latents()
            denoiser, prior, schedule = (self.part(name) for name in MODEL_PARTS)
            process = MaskingProcess(schedule, self.header["vocab_size"])
            model: Any = make(denoiser, prior, process, latent_dropout=self.header["latent_dropout"], latents=latents)
            model.gate = gate
            return model

    def guide(self, make: Callable[..., _G], model: StoredModel) -> _G:
        """The guide of a model, made by its class and attached to the denoiser where it shares that."""
        with self._errors_named():
            guide: Any = make(self.recognition(model), explains=self.header["explains"])
            return guide

    def recognition(self, model: StoredModel) -> Any:
        """The recognition network alone, attached to the model's denoiser where it shares that."""
        with self._errors_named():
            network = self.part("recognition")
            if not isinstance(network, Recognition):
                raise ConfigError(f"recognition must be a Recognition, got {type(network).__name__}.")
            _check_latents(model, network)
            attach_parts(network, model.denoiser)
            return network

    def pair(
        self, make_model: Callable[..., _M], make_guide: Callable[..., _G], tensors: dict[str, dict[str, Tensor]]
    ) -> tuple[_M, _G]:
        """Both with their weights, ``tensors["model"]`` and ``tensors["guide"]``, in evaluation mode."""
        model: Any = self.model(make_model)
        guide: Any = self.guide(make_guide, model)
        with self._errors_named():
            attach_recognition(model, guide.recognition)
        for name, part in (("model", model), ("guide", guide)):
            load_weights(part, name, tensors[name], self.path)
        return model.eval(), guide.eval()

    def part(self, name: str) -> Any:
        """One part: that passed, else that described."""
        if name in self.parts:
            return self.parts[name]
        description = self.header["parts"][name]
        if description is None:
            raise CheckpointError(
                f"the {name} (or something inside) is of a class that is not registered: pass {name}=... to load."
            )
        return build(description)

    def _latents(self) -> tuple[Any, LatentGate | None]:
        latents, gate = self.header.get("latents", "fresh"), self.header.get("gate")  # absent in early checkpoints
        try:
            return resolve_plan(latents, 1)[0], None if gate is None else LatentGate.from_json(gate)
        except ConfigError as error:
            raise CheckpointError(f"the model described in {self.path} cannot be built: {error}") from error

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a class may raise anything when it is given damaged arguments
            if isinstance(error, CheckpointError) or (self.parts and isinstance(error, VADDError)):
                raise  # the parts that were passed do not fit
            raise CheckpointError(f"the model described in {self.path} cannot be built: {error}") from error


def sharing_recognition(model: StoredModel) -> list[SharesRecognition]:
    """The parts of its prior that run the guide's recognition network."""
    return [part for part in model.prior.modules() if isinstance(part, SharesRecognition)]


def attach_recognition(model: StoredModel, recognition: Any) -> None:
    """Let the parts of its prior that share the recognition network run this one."""
    for part in sharing_recognition(model):
        part.attach_recognition(recognition)


def _check_latents(model: StoredModel, recognition: Recognition) -> None:
    shapes = tuple(model.latent_shape), tuple(recognition.latent_shape)
    if shapes[0] != shapes[1]:
        raise ConfigError(f"model and recognition network disagree on latent_shape: {shapes[0]} and {shapes[1]}.")
