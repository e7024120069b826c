"""Where the latents of each jump come from: state in, state out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from vadd._checks import require_integer
from vadd.distributions import sample_categorical
from vadd.errors import ConfigError, DomainError, NonFiniteError
from vadd.samplers.base import Jump, SamplerState
from vadd.samplers.gate import LatentGate, Mode, resolve_plan
from vadd.samplers.latent_draw import draw_seeded, mix_seed, temper
from vadd.samplers.run import SampledModel, SamplerRun
from vadd.types import Latents, Times, Tokens

__all__ = ["LatentBlocks", "LatentChoice", "LatentPolicy", "PosteriorLatents", "default_latents", "resolve_latents"]

# Origins of a jump's latents besides the jump at which they are drawn.
_SHARED, _NULL = -1, -2
_ROWS_PER_CALL = 1024


@runtime_checkable
class LatentPolicy(Protocol):
    """Sets the latents of a state, just before the network is called with them.

    It returns the state with another ``z`` (None is the null latent).
    ``run.draw_latents(state.x, jump.t, jump.index, jump.repeat)`` draws from ``p(z | x_t, t)``; a prior that is not
    drawn from is not evaluated. Methods that skip network calls skip the policy with them: let what it sets depend on
    the jump, not on the calls before. :func:`~vadd.samplers.infill` with ``num_candidates`` refuses one whose attribute
    ``has_model_law`` is False.
    """

    def __call__(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState: ...


@dataclass(frozen=True)
class LatentBlocks:
    """One latent for each block of consecutive jumps, from ``p(z | x_t, t)`` where the block starts.

    Blocks of one jump are ``"fresh"``. One block of all jumps is ``"shared"``.

    Args:
        lengths: numbers of jumps, which sum to the number of steps; or one number ``k``: a new latent every
            ``k`` jumps.

    Raises:
        DomainError: on no lengths, or lengths that are not positive integers.
    """

    lengths: int | Sequence[int]

    def __post_init__(self) -> None:
        if not isinstance(self.lengths, int | Sequence):
            raise DomainError(f"lengths must be an integer or a sequence of them, got {self.lengths!r}.")
        for length in (self.lengths,) if isinstance(self.lengths, int) else self.lengths or (0,):
            require_integer("lengths", length)

    def origins(self, num_steps: int) -> tuple[int, ...]:
        """The first jump of the block of each jump.

        Raises:
            ConfigError: if the lengths sum to another number of steps.
        """
        if isinstance(self.lengths, int):
            return tuple(k - k % self.lengths for k in range(num_steps))
        if sum(self.lengths) != num_steps:
            raise ConfigError(f"blocks of {sum(self.lengths)} jumps do not fit a sampler of {num_steps} steps.")
        starts = [sum(self.lengths[:k]) for k in range(len(self.lengths))]
        return tuple(start for start, length in zip(starts, self.lengths, strict=True) for _ in range(length))


@dataclass(frozen=True)
class PosteriorLatents:
    r"""Several draws, re-weighted by the model: latents that explain the tokens revealed so far.

    Of ``K`` draws from :math:`p(z \mid x_1, 1)`, with everything masked, one is kept with a probability
    proportional to :math:`\prod_i \mu^i(x^i \mid x_1, z, 1)` over the known and the revealed positions. With many draws
    that is the posterior of the latent given these tokens, had they been revealed in one jump; with one draw it
    is the prior. So this is not the law of the model with fresh latents, and not Bayes conditioning of the sampler
    in ``T`` steps either. Tokens are weighted without shaping and guidance.

    Args:
        num_draws: the number ``K``. They take ``K`` rows of the network for each row of the batch.
        latents: when they are drawn: ``"shared"`` at the start, for infilling; ``"fresh"`` at every jump; or
            :class:`LatentBlocks`.

    Raises:
        DomainError: if ``num_draws`` is no positive integer.
        ConfigError: on another choice of ``latents``.
    """

    num_draws: int = 64
    latents: Literal["shared", "fresh"] | LatentBlocks = "shared"

    def __post_init__(self) -> None:
        require_integer("num_draws", self.num_draws)
        if self.latents not in ("shared", "fresh") and not isinstance(self.latents, LatentBlocks):
            raise ConfigError(f'latents must be "shared", "fresh" or LatentBlocks, got {self.latents!r}.')


LatentChoice = (
    Mode | Literal["posterior"] | Sequence[Mode] | LatentGate | LatentBlocks | PosteriorLatents | LatentPolicy
)


def resolve_latents(
    latents: LatentChoice | None, model: SampledModel, num_steps: int | None, num_positions: int
) -> LatentPolicy:
    """The policy of a choice of latents.

    Args:
        latents: the choice; None is the model's gate, or its default.
        model: the model.
        num_steps: jumps of the time grid; None where there is none.
        num_positions: most steps of a sampler without a grid.

    Raises:
        ConfigError: on an unknown choice, or one that does not fit the number of steps.
    """
    chosen = default_latents(model) if latents is None else latents
    if isinstance(chosen, type):
        raise ConfigError(f"latents must be an object, got a class; call it, {chosen.__name__}(...).")
    if callable(chosen):
        return chosen
    num_draws = 1
    if chosen == "posterior":
        chosen = PosteriorLatents()
    if isinstance(chosen, PosteriorLatents):
        num_draws, chosen = chosen.num_draws, chosen.latents
    is_for_one_number = not isinstance(chosen, str) and not (
        isinstance(chosen, LatentBlocks) and isinstance(chosen.lengths, int)
    )
    if num_steps is None and is_for_one_number:
        raise ConfigError(
            "latents chosen jump by jump (a plan, a gate, blocks) need num_steps; without it give latents= as "
            '"fresh", "shared", "null" or LatentBlocks(k).'
        )
    num_jumps = num_positions if num_steps is None else num_steps
    if isinstance(chosen, LatentBlocks):
        origins = chosen.origins(num_jumps)
    else:
        code = {"shared": _SHARED, "null": _NULL}
        origins = tuple(code.get(mode, k) for k, mode in enumerate(resolve_plan(chosen, num_jumps)))
    if not model.null_latent.numel():
        origins, num_draws = (_NULL,) * num_jumps, 1
    return _ScheduledLatents(origins, num_draws)


def default_latents(model: SampledModel) -> Mode | LatentGate:
    """What the model was made for."""
    return model.gate or model.latents


@dataclass(frozen=True)
class _ScheduledLatents:
    """Latents drawn at given jumps and kept from there.

    Args:
        origins: for each jump, the one at which its latent is drawn, or a code of where else it comes from.
        num_draws: draws of which one is kept by its weight.
    """

    origins: tuple[int, ...]
    num_draws: int

    @property
    def has_model_law(self) -> bool:
        """Whether latents are draws from the prior."""
        return self.num_draws == 1

    def __call__(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        if jump.rows is not None:
            return self._by_row(run, state, jump, jump.rows)
        origin = self.origins[jump.index]
        if origin == _NULL:
            return replace(state, z=None, origin=(origin,))
        if origin == _SHARED:
            state = self._with_shared(run, state)
            return replace(state, z=state.shared, origin=(origin,))
        # Corrections draw a latent anew only where it serves this jump alone.
        is_again = jump.repeat > 0 and origin == jump.index and self.origins.count(origin) == 1
        if state.origin == (origin,) and not is_again:
            return state
        t = jump.t if origin == jump.index or run.grid is None else run.times(run.grid[origin])
        return replace(self._draw(run, state, t, origin, jump.repeat if is_again else 0), origin=(origin,))

    def _by_row(self, run: SamplerRun, state: SamplerState, jump: Jump, rows: tuple[int, ...]) -> SamplerState:
        """Rows at different jumps, those of negative numbers finished."""
        assert run.grid is not None
        before = state.origin or (_NULL,) * len(rows)
        now = tuple(self.origins[k] if k >= 0 else old for k, old in zip(rows, before, strict=True))
        if set(now) == {_NULL}:
            return replace(state, z=None, origin=now)
        old = state.z
        is_new = [here >= 0 and here != there for here, there in zip(now, before, strict=True)]
        if any(is_new):
            t = run.times([run.grid[max(k, 0)] for k in now])
            state = self._draw(run, state, t, jump.index, 0)
        if _SHARED in now:
            state = self._with_shared(run, state)
        null = run.model.null_latent
        z = null.expand(len(rows), *null.shape) if old is None else old
        for flags, value in (
            (is_new, state.z),
            ([here == _SHARED for here in now], state.shared),
            ([here == _NULL for here in now], null),
        ):
            if any(flags) and value is not None:
                chosen = torch.tensor(flags, device=z.device).reshape(-1, *[1] * null.ndim)
                z = torch.where(chosen, value, z)
        return replace(state, z=z, origin=now)

    def _with_shared(self, run: SamplerRun, state: SamplerState) -> SamplerState:
        """The state with the latents drawn at the start."""
        if state.shared is not None:
            return state
        drawn = self._draw(run, replace(state, x=run.start), run.times(1.0), _SHARED, 0)
        return replace(state, shared=drawn.z, num_calls=drawn.num_calls)

    def _draw(self, run: SamplerRun, state: SamplerState, t: Times, origin: int, repeat: int) -> SamplerState:
        """The state with new latents for all rows."""
        if self.num_draws == 1:
            return replace(state, z=run.draw_latents(state.x, t, origin, repeat))
        z, num_calls = _draw_posterior(run, state.x, self.num_draws, (origin, repeat))
        return replace(state, z=z, num_calls=state.num_calls + num_calls)


def _draw_posterior(run: SamplerRun, x: Tokens, num_draws: int, key: tuple[int, ...]) -> tuple[Latents, int]:
    """One of ``num_draws`` latents for each row by its weight, and the number of network calls."""
    model, device = run.model, x.device
    is_shown = ~run.is_masked(x)
    x_1 = torch.full_like(x, model.process.mask_id)
    if "is_padding" in run.options:
        is_shown = is_shown & ~run.options["is_padding"]
        x_1 = torch.where(run.options["is_padding"], x, x_1)
    x_s, t = torch.where(is_shown, x, x_1), run.times(1.0)
    prior = temper(model.prior(x_1, t, **run.options), run.latent_temperature)
    size = max(1, _ROWS_PER_CALL // len(x))
    parts: list[tuple[Tensor, Tensor]] = []
    for start in range(0, num_draws, size):
        shape = torch.Size([min(size, num_draws - start)])
        z = draw_seeded(prior, mix_seed(run.seed, *key, 1, start), device, shape)
        likelihood = model.denoise(x_1, t, z, target=is_shown, **run.options)
        parts.append((z, likelihood.token_log_prob(x_s).double().sum(-1)))
    z, log_weights = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    generator = torch.Generator(device).manual_seed(mix_seed(run.seed, *key, 2))
    chosen = sample_categorical(log_weights.T, generator=generator)
    if bool((chosen == num_draws).any()):
        raise NonFiniteError("the known tokens have probability zero, or NaN, under every draw of the latent.")
    return z[chosen, torch.arange(len(x), device=device)], len(parts)
