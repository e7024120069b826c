"""Samplers by name."""

from typing import Literal

from vadd.errors import ConfigError
from vadd.samplers.ancestral import AncestralSampler
from vadd.samplers.base import Sampler
from vadd.samplers.first_hitting import FirstHittingSampler
from vadd.samplers.ordered import ConfidenceSampler, EntropyBoundedSampler
from vadd.samplers.remasking import PredictorCorrectorSampler, RemaskingSampler
from vadd.samplers.static import StaticSampler

__all__ = ["Method", "resolve_sampler"]

Method = Literal[
    "ancestral",
    "cached",
    "static",
    "first-hitting",
    "confidence",
    "entropy-bounded",
    "remasking",
    "predictor-corrector",
]
_SAMPLERS: dict[str, Sampler] = {
    "ancestral": AncestralSampler(),
    "cached": AncestralSampler(skip="rows"),
    "static": StaticSampler(),
    "first-hitting": FirstHittingSampler(),
    "confidence": ConfidenceSampler(),
    "entropy-bounded": EntropyBoundedSampler(),
    "remasking": RemaskingSampler(),
    "predictor-corrector": PredictorCorrectorSampler(),
}


def resolve_sampler(method: Method | Sampler) -> Sampler:
    """The sampler of a name, or the sampler itself.

    Raises:
        ConfigError: on an unknown name.
    """
    if isinstance(method, Sampler):
        return method
    if not isinstance(method, str) or method not in _SAMPLERS:
        raise ConfigError(f"method must be one of {', '.join(_SAMPLERS)}, or a Sampler, got {method!r}.")
    return _SAMPLERS[method]
