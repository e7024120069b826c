"""One loop for every sampler, in batches of rows."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vadd._checks import require_integer, require_kind, require_number
from vadd._modes import checks_on, evaluating
from vadd.errors import ConfigError, NonFiniteError, ShapeError
from vadd.samplers.base import Sampler, SamplerState
from vadd.samplers.latents import LatentChoice, LatentPolicy, resolve_latents
from vadd.samplers.methods import Method, resolve_sampler
from vadd.samplers.run import SampledModel, SamplerRun
from vadd.samplers.shaping import Shaping
from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.samplers.trajectory import Trajectory
from vadd.types import Tokens

__all__ = ["Generation"]

_SECONDS_UNTIL_BAR = 3.0


@dataclass(frozen=True)
class Generation:
    """One call of :func:`~vadd.samplers.sample` or :func:`~vadd.samplers.infill`, its options resolved."""

    model: SampledModel
    sampler: Sampler
    latents: LatentPolicy
    grid: tuple[float, ...] | None
    shaping: Shaping
    latent_temperature: float
    guidance: float
    batch_size: int | None
    generator: torch.Generator | None
    progress: bool
    record: Trajectory | None

    @classmethod
    def of(
        cls,
        model: SampledModel,
        num_positions: int,
        *,
        num_steps: int | None,
        method: Method | Sampler,
        latents: LatentChoice | None,
        time_grid: TimeGrid | None,
        shaping: Shaping,
        latent_temperature: float,
        guidance: float,
        batch_size: int | None,
        generator: torch.Generator | None,
        seed: int | None,
        progress: bool,
        record: Trajectory | None,
    ) -> "Generation":
        """Resolve and check options.

        Raises:
            ConfigError, DomainError: on options out of range, or that do not fit together.
        """
        require_number("latent_temperature", latent_temperature)
        require_number("guidance", guidance)
        if batch_size is not None:
            require_integer("batch_size", batch_size)
        if record is not None:
            require_kind("record", record, Trajectory, "make one, Trajectory(), and read it afterwards")
            if not record.is_empty:
                raise ConfigError("record holds an earlier call already: give a new Trajectory.")
        sampler = resolve_sampler(method)
        grid = _resolve_steps(sampler, num_steps, time_grid)
        return cls(
            model,
            sampler,
            resolve_latents(latents, model, num_steps, num_positions),
            grid,
            shaping,
            latent_temperature,
            guidance,
            batch_size,
            _resolve_generator(generator, seed, model.null_latent.device),
            progress,
            record,
        )

    def __call__(
        self, start: Tokens, options: dict[str, Tensor | None], given: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Fill in the masked positions.

        Args:
            start: tokens at time 1.
            options: ``is_padding`` and ``condition``, or None.
            given: as in :class:`SamplerRun`.

        Returns:
            Clean tokens, and the log-probabilities in nats of those that were given.
        """
        present = {name: value for name, value in options.items() if value is not None}
        if self.guidance != 1 and "condition" not in present:
            raise ConfigError("guidance needs condition: it weighs the network with its condition against without.")
        for name, value in present.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise ShapeError(f"{name} must be a tensor with one row a sequence, {len(start)}, got {value!r}.")
            if len(value) != len(start):
                raise ShapeError(f"{name} must have one row a sequence, {len(start)}, got {tuple(value.shape)}.")
        size = self.batch_size or len(start)
        num_batches = -(-len(start) // size)
        states = []
        # disable=None: no bar where nobody watches
        with (
            evaluating(cast(nn.Module, self.model)),
            tqdm(delay=_SECONDS_UNTIL_BAR, disable=None if self.progress else True, unit="step") as bar,
        ):
            for k in range(0, len(start), size):
                rows = slice(k, k + size)
                run = SamplerRun(
                    model=self.model,
                    start=start[rows],
                    grid=self.grid,
                    latents=self.latents,
                    shaping=self.shaping,
                    latent_temperature=self.latent_temperature,
                    guidance=self.guidance,
                    options={name: value[rows] for name, value in present.items()},
                    given=None if given is None else (given[0][rows], given[1][rows]),
                    generator=self.generator,
                    seed=self._latent_seed(),
                )
                states.append(self._trajectories(run, bar, num_batches))
        x = torch.cat([state.x for state in states])
        if bool((x == self.model.process.mask_id).any()):
            raise NonFiniteError(
                "sampling left masked positions: the denoiser returned NaN. Check its weights and the latents."
            )
        weights = [state.log_weight for state in states if state.log_weight is not None]
        return x, torch.cat(weights) if weights else None

    def _trajectories(self, run: SamplerRun, bar: Any, num_batches: int) -> SamplerState:
        log_weight = (
            None if run.given is None else torch.zeros(len(run.start), dtype=torch.float64, device=run.start.device)
        )
        state = SamplerState(run.start, log_weight=log_weight)
        if self.record is not None:
            self.record.start(run, state)
        jumps = self.sampler.jumps(run)
        if isinstance(jumps, Sized):
            bar.total = num_batches * len(jumps)
        for jump in jumps:
            if state.is_finished:
                break
            with checks_on(state.num_calls == 0 or run.start.device.type == "cpu"):
                state = self.sampler.step(run, state, jump)
            bar.update()
            if self.record is not None:
                self.record.add(run, state)
        return state

    def _latent_seed(self) -> int:
        device = "cpu" if self.generator is None else self.generator.device
        return int(torch.randint(2**62, (), generator=self.generator, device=device))


def _resolve_steps(sampler: Sampler, num_steps: int | None, time_grid: TimeGrid | None) -> tuple[float, ...] | None:
    """The times of the grid, for samplers that have one."""
    name = type(sampler).__name__
    if num_steps is None:
        if sampler.takes_num_steps == "always":
            raise ConfigError(f"num_steps must be given: {name} needs the number of steps.")
        if time_grid is not None:
            raise ConfigError("time_grid needs num_steps, the number of its jumps.")
        return None
    if sampler.takes_num_steps == "never":
        raise ConfigError(f"{name} takes as many steps as the sequences need: leave num_steps out.")
    return tuple(resolve_grid(num_steps, time_grid).tolist())


def _resolve_generator(
    generator: torch.Generator | None, seed: int | None, device: torch.device
) -> torch.Generator | None:
    if seed is None:
        if generator is not None and generator.device.type != device.type:
            raise ConfigError(f"generator is on {generator.device}, the model on {device}; they must agree.")
        return generator
    if generator is not None:
        raise ConfigError("give seed or generator, not both.")
    require_integer("seed", seed, minimum=0)
    return torch.Generator(device).manual_seed(seed)
