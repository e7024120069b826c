"""What is required of model and guide, for training and for evaluation."""

from typing import Any

from vadd._checks import kind_of, require_kind
from vadd.backbones.sharing import check_attached
from vadd.errors import ConfigError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel

__all__ = ["check_pair", "check_programs", "require_explains"]


def check_programs(model: Any, guide: Any) -> None:
    """Raise a ConfigError unless both are Pyro programs, of the library or your own, in this order."""
    if isinstance(model, RecognitionGuide) or isinstance(guide, VADDModel):
        raise ConfigError("model and guide are swapped: the model comes first.")
    for name, part, kind in (("model", model, "VADDModel"), ("guide", guide, "RecognitionGuide")):
        if not callable(part) or isinstance(part, type):
            raise ConfigError(f"{name} must be a {kind} or another Pyro program, got {kind_of(part)}.")


def check_pair(model: Any, guide: Any) -> None:
    """Raise a ConfigError unless model and guide are those of the library, in this order, and fit each other."""
    check_programs(model, guide)
    require_kind("model", model, VADDModel)
    require_kind("guide", guide, RecognitionGuide)
    if guide.latent_shape != model.latent_shape:
        raise ConfigError(
            f"model and guide disagree on latent_shape: {tuple(model.latent_shape)} and {tuple(guide.latent_shape)}."
        )
    check_attached(guide.recognition, model.denoiser)


def require_explains(guide: RecognitionGuide, target: str, objective: str) -> None:
    """Raise a ConfigError unless the guide explains the target that the objective trains it for."""
    if guide.explains != target:
        raise ConfigError(
            f"the latent of {objective} explains the {target} tokens and the guide explains the {guide.explains} ones: "
            f"build them alike, for example RecognitionGuide(recognition, explains={target!r})."
        )
