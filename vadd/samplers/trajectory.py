"""Every step of the trajectories of a sampler, on request."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import ConfigError
from vadd.samplers.base import SamplerState
from vadd.samplers.run import SamplerRun
from vadd.types import PerSequence

__all__ = ["Trajectory"]


class _Step(NamedTuple):
    x: Tensor
    z: Tensor
    t: Tensor


class Trajectory:
    """Records what a sampler does: ``model.sample(8, num_steps=4, record=trajectory)``.

    One object records one call. Where batches of rows take different numbers of steps (first-hitting, entropy-bounded),
    those that end sooner stay at their last step.
    """

    def __init__(self) -> None:
        self._batches: list[list[_Step]] = []
        self._last: list[SamplerState] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is recorded yet."""
        return not self._batches

    @property
    def x(self) -> Int[Tensor, "times batch dim"]:
        """Tokens at the start and after each step."""
        return self._stack(0)

    @property
    def t(self) -> Float[Tensor, "steps batch"]:
        """Times that the network was given at each step, or last before it where it was not called."""
        return self._stack(2)[1:]

    @property
    def z(self) -> Float[Tensor, "steps batch *latent"]:
        """Latents of the same network calls; the null latent as the network is given it."""
        return self._stack(1)[1:]

    @property
    def num_calls(self) -> int:
        """Network calls, summed over the batches of rows."""
        self._require_steps()
        return sum(state.num_calls for state in self._last)

    @property
    def log_weights(self) -> PerSequence:
        """Of candidates: log-probabilities of the known tokens, nats; see :func:`~vadd.samplers.infill`.

        Raises:
            ConfigError: if none were drawn.
        """
        weights = [state.log_weight for state in self._last if state.log_weight is not None]
        if not weights:
            raise ConfigError("there are no log_weights: they are those of infill(..., num_candidates=...).")
        return torch.cat(weights)

    def start(self, run: SamplerRun, state: SamplerState) -> None:
        """Begin another batch of rows."""
        self._batches.append([])
        self._last.append(state)
        self.add(run, state)

    def add(self, run: SamplerRun, state: SamplerState) -> None:
        """Take down the state after a step."""
        null = run.model.null_latent
        z = null.expand(len(state.x), *null.shape) if state.z is None else state.z
        self._batches[-1].append(_Step(state.x, z, run.times(1.0) if state.t is None else state.t))
        self._last[-1] = state

    def _stack(self, part: int) -> Tensor:
        self._require_steps()
        num = max(len(steps) for steps in self._batches)
        padded = [steps + [steps[-1]] * (num - len(steps)) for steps in self._batches]
        return torch.stack([torch.cat([steps[k][part] for steps in padded]) for k in range(num)])

    def _require_steps(self) -> None:
        if self.is_empty:
            raise ConfigError("nothing is recorded yet: pass the object to sample or infill as record=.")
