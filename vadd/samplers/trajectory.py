"""Every step of the trajectories of a sampler, on request."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import ConfigError
from vadd.samplers.base import Jump, SamplerState
from vadd.samplers.run import SamplerRun
from vadd.types import PerSequence

__all__ = ["Trajectory"]


class Trajectory:
    """Records what a sampler does: ``model.sample(8, num_steps=4, record=trajectory)``.

    One object records one call. Where batches of rows take different numbers of steps (first-hitting, entropy-bounded),
    those that end sooner stay at their last step.
    """

    def __init__(self) -> None:
        self._batches: list[list[tuple[Tensor, Tensor, Tensor]]] = []
        self._num_calls: list[int] = []
        self._log_weights: list[Tensor] = []

    @property
    def x(self) -> Int[Tensor, "times batch dim"]:
        """Tokens at the start and after each step."""
        return self._stack(0)

    @property
    def z(self) -> Float[Tensor, "steps batch *latent"]:
        """Latents of each step; the null latent as the network is given it."""
        return self._stack(1)[1:]

    @property
    def t(self) -> Float[Tensor, "steps batch"]:
        """Times that the network was given at each step."""
        return self._stack(2)[1:]

    @property
    def num_calls(self) -> int:
        """Network calls, summed over the batches of rows."""
        self._require_steps()
        return sum(self._num_calls)

    @property
    def log_weights(self) -> PerSequence:
        """Of candidates: log-probabilities of the given tokens, nats; see :func:`~vadd.samplers.infill`."""
        if not self._log_weights:
            raise ConfigError("there are no log_weights: they are those of infill(..., num_candidates=...).")
        return torch.cat(self._log_weights)

    def start(self, run: SamplerRun, state: SamplerState) -> None:
        """Begin another batch of rows."""
        self._batches.append([])
        self._num_calls.append(0)
        self._add(run, state, run.times(1.0))

    def add(self, run: SamplerRun, state: SamplerState, jump: Jump) -> None:
        """Record the state after a step."""
        self._add(run, state, jump.t)
        self._num_calls[-1] = state.num_calls

    def _add(self, run: SamplerRun, state: SamplerState, t: Tensor) -> None:
        null = run.model.null_latent
        z = null.expand(len(state.x), *null.shape) if state.z is None else state.z
        self._batches[-1].append((state.x, z, t))

    def _stack(self, part: int) -> Tensor:
        self._require_steps()
        num = max(len(steps) for steps in self._batches)
        padded: Sequence[list[tuple[Tensor, Tensor, Tensor]]] = [
            steps + [steps[-1]] * (num - len(steps)) for steps in self._batches
        ]
        return torch.stack([torch.cat([steps[k][part] for steps in padded]) for k in range(num)])

    def _require_steps(self) -> None:
        if not self._batches:
            raise ConfigError("nothing is recorded yet: pass the object to sample or infill as record=.")
