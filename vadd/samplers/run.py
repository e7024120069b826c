"""What a sampler works with: the model, its options, the latents, and the randomness of one run."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd._checks import require_kind
from vadd._protocols import ByAttributes
from vadd.distributions import MaskedCategorical, sample_categorical
from vadd.process import MaskingProcess
from vadd.samplers.base import Jump, SamplerState
from vadd.samplers.latent_draw import draw_seeded, mix_seed, temper
from vadd.samplers.shaping import Shaping
from vadd.types import Flags, Latents, Times, Tokens

__all__ = ["SampledModel", "SamplerRun"]


@runtime_checkable
class SampledModel(Protocol, metaclass=ByAttributes):
    """What samplers need of a model; a :class:`~vadd.model.VADDModel` has it."""

    process: MaskingProcess
    prior: Any
    denoiser: Any
    null_latent: Tensor
    latents: Any
    gate: Any

    def denoise(
        self,
        x_t: Tokens,
        t: Any,
        z: Any = None,
        *,
        target: Any = None,
        is_padding: Any = None,
        condition: Any = None,
    ) -> MaskedCategorical: ...


@dataclass(frozen=True)
class SamplerRun:
    """One batch of trajectories: what stays the same from step to step.

    Attributes:
        model: the model.
        start: tokens at time 1, shape ``(batch, dim)``: the mask token where positions are to be filled in.
        grid: the times of the jumps, from 1 to 0; None for samplers without a number of steps.
        latents: sets the latents of a state before its network call; see
            :class:`~vadd.samplers.latents.LatentPolicy`.
        shaping: of the token probabilities.
        latent_temperature: see :func:`~vadd.samplers.latent_draw.temper`.
        guidance: weight of the condition; 1 is the network with its condition.
        options: ``is_padding`` and ``condition``, those that there are.
        given: tokens that are given though masked at the start, and where: when such a position is
            revealed its token is taken from here, and the state collects its log-probability.
        generator: source of randomness; None is the global one.
        seed: of the latents.
    """

    model: SampledModel
    start: Tokens
    grid: tuple[float, ...] | None
    latents: Callable[["SamplerRun", SamplerState, Jump], SamplerState]
    shaping: Shaping = field(default_factory=Shaping)
    latent_temperature: float = 1.0
    guidance: float = 1.0
    options: dict[str, Tensor] = field(default_factory=dict)
    given: tuple[Tokens, Flags] | None = None
    generator: torch.Generator | None = None
    seed: int = 0

    # Positions and times

    def is_masked(self, x: Tokens) -> Flags:
        """Positions that are not revealed yet."""
        return x == self.model.process.mask_id

    @functools.cached_property
    def is_free(self) -> Flags:
        """Positions that are to be filled in; all others keep their tokens."""
        return self.is_masked(self.start)

    @functools.cached_property
    def num_free(self) -> list[int]:
        """Number of positions to be filled in, row by row."""
        return self.is_free.sum(-1).tolist()

    def times(self, t: float | list[float]) -> Times:
        """A time for each row."""
        if isinstance(t, float):
            return torch.full((len(self.start),), t, device=self.start.device)
        return torch.tensor(t, dtype=torch.get_default_dtype(), device=self.start.device)

    def time_of(self, masked: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The times at which positions are masked with these probabilities."""
        return self.model.process.schedule.time_of(masked.double()).to(torch.get_default_dtype())

    def jumps(self) -> list[Jump]:
        """The jumps of the time grid."""
        assert self.grid is not None
        grid = torch.tensor(self.grid, dtype=torch.float64, device=self.start.device)
        masked = self.model.process.schedule.mask_probability(grid).tolist()
        pairs = zip(masked[:-1], masked[1:], strict=True)
        return [Jump(k, self.times(self.grid[k]), pair) for k, pair in enumerate(pairs)]

    # Randomness

    def uniform(self) -> Float[Tensor, "batch dim"]:
        """A uniform for each position, float64."""
        device = self.start.device
        return torch.rand(self.start.shape, dtype=torch.float64, device=device, generator=self.generator)

    def draw_latents(self, x: Tokens, t: Times, *key: int) -> Latents:
        """A draw from the prior ``p(z | x, t)``, the same for the same key.

        Keyed, so that a draw does not depend on how many were made, or left out, before.
        """
        prior = temper(self.model.prior(x, t, **self.options), self.latent_temperature)
        return draw_seeded(prior, mix_seed(self.seed, *key), self.start.device)

    def reveal_index(self, jumps: Sequence[Jump]) -> Int[Tensor, "batch dim"]:
        """For each position which of the time grid's jumps reveals it; past the last one where it is not free.

        A position is revealed by the first jump that ends with a mask probability of at most its own uniform.
        """
        ends = torch.tensor([jump.masked[1] for jump in jumps], dtype=torch.float64, device=self.start.device)
        uniform = self.uniform().masked_fill(~self.is_free, -1.0)
        return len(ends) - torch.searchsorted(ends.flip(0), uniform, right=True)

    # Network calls

    def predict(
        self, state: SamplerState, jump: Jump, target: Flags, *, rows: Int[Tensor, " rows"] | None = None
    ) -> tuple[SamplerState, Float[Tensor, "selected vocab"]]:
        """Set the latents, then call the network.

        Args:
            state: the state.
            jump: the step; its time is what the network is given, and its slots, where it has any, are projected in
                place of the target, which is among them.
            target: positions to project to the vocabulary, all of them masked; without slots no others are.
            rows: the rows that the network is to see, all with a target among them; default all. Not with slots.

        Returns:
            The state with its latents, and guided logits at the target positions, in row-major order, or at the slots.
            Tokens are drawn from :attr:`shaping` of them; what ranks positions reads them as they are, for a shaping
            that leaves one token makes all positions equally certain.

        Raises:
            ConfigError: if the policy of the latents returns no state.
        """
        assert rows is None or jump.slots is None
        state = self.latents(self, state, jump)
        advice = "a policy ends with return dataclasses.replace(state, z=z)"
        require_kind("what latents returns", state, SamplerState, advice)
        state = replace(state, t=jump.t, num_calls=state.num_calls + (1 if self.guidance == 1 else 2))
        x, t, z, options = state.x, jump.t, state.z, self.options
        if rows is not None:
            x, t, target = x[rows], t[rows], target[rows]
            z = None if z is None else z[rows]
            options = {name: value[rows] for name, value in options.items()}
        where = target if jump.slots is None else jump.slots[0]
        logits = self.model.denoise(x, t, z, target=target, **options).logits_at(where)
        if self.guidance != 1:
            options = {name: value for name, value in options.items() if name != "condition"}
            free = self.model.denoise(x, t, z, target=target, **options).logits_at(where)
            logits, free = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (logits, free))
            # A token that either of the two rules out stays ruled out, but for a weight of zero for the other.
            guided = logits + (self.guidance - 1) * (logits - free)
            is_out = (logits == -torch.inf) | (free == -torch.inf)
            logits = free if self.guidance == 0 else guided.masked_fill(is_out, -torch.inf)
        return state, logits

    def reveal(
        self, state: SamplerState, jump: Jump, target: Flags, *, rows: Int[Tensor, " rows"] | None = None
    ) -> SamplerState:
        """Draw the tokens of the target positions; arguments as in :meth:`predict`."""
        state, logits = self.predict(state, jump, target, rows=rows)
        logits = self.shaping(logits)
        tokens = sample_categorical(logits, generator=self.generator)
        places = _Places(target, None if jump.slots is None else jump.slots[0])
        if self.given is not None:
            tokens, state = self._take_given(tokens, logits, places, state, *self.given)
        return replace(state, x=places.put(state.x, tokens))

    def _take_given(
        self, tokens: Tensor, logits: Tensor, places: "_Places", state: SamplerState, given: Tensor, is_given: Tensor
    ) -> tuple[Tensor, SamplerState]:
        """The tokens with those that are given put in, and the state with their log-probabilities added."""
        here = places.pick(is_given)
        tokens = torch.where(here, places.pick(given), tokens)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        scores = wide.gather(-1, tokens.clamp(max=wide.shape[-1] - 1)[:, None])[:, 0].double()
        per_position = torch.zeros(given.shape, dtype=torch.float64, device=given.device)
        total = places.put(per_position, torch.where(here, scores, 0.0)).sum(-1)
        return tokens, replace(state, log_weight=total if state.log_weight is None else state.log_weight + total)


@dataclass(frozen=True)
class _Places:
    """The positions of a batch that a step reveals, by flags or as some of the numbered slots."""

    target: Tensor
    slots: Tensor | None

    def pick(self, values: Tensor) -> Tensor:
        """Those of the places, of the slots in their order."""
        return values[self.target] if self.slots is None else values.flatten()[self.slots]

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """The values with new ones at the target."""
        if self.slots is None:
            return values.masked_scatter(self.target, new)
        new = torch.where(self.pick(self.target), new, self.pick(values))
        return values.flatten().index_copy(0, self.slots, new).reshape(values.shape)
