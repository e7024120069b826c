"""Checks that a sampler of your own keeps the contract of its base class."""

import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from vadd.errors import NonFiniteError
from vadd.samplers import Sampler, SamplerRun, SamplerState, infill, sample
from vadd.samplers.base import Jump
from vadd.samplers.gate import Mode
from vadd.testing.chain import exact_sampler_distribution
from vadd.testing.contracts_shared import require
from vadd.testing.tiny import tiny_model

__all__ = ["check_sampler"]

_VOCAB, _LENGTH, _STEPS, _DRAWS = 2, 3, 3, 20_000
_FALSE_ALARM = 1e-9


def check_sampler(sampler: Sampler) -> None:
    """Check a sampler: clean tokens, known tokens kept, states left alone, seeds, NaN, and the model's law.

    The law is checked where the sampler says that it has it (``has_model_law``), with a number of steps, on a tabular
    model that reads the time and whose prior reads the tokens: 20,000 draws against enumeration, from all-masked and
    from known tokens, at a false-alarm rate of 1e-9 each; probabilities that are wrong by 8 % (root mean square) are
    caught with probability 0.999.

    Args:
        sampler: the sampler; one that may do without a number of steps is also checked so.

    Raises:
        AssertionError: naming what to correct.
    """
    require(isinstance(sampler, Sampler), f"{type(sampler).__name__} must derive from vadd.samplers.Sampler.")
    require(
        sampler.takes_num_steps in ("always", "optional", "never"),
        f'takes_num_steps must be "always", "optional" or "never", got {sampler.takes_num_steps!r}.',
    )
    require(
        not (sampler.has_model_law and sampler.takes_num_steps == "never"),
        "has_model_law must be False where no number of steps is taken: the model's law is that of a number of steps.",
    )
    model = tiny_model(_VOCAB, _LENGTH, atoms=[-1.5, 0.0, 1.5], is_conditional=True, time_scale=1.0, scale=1.5, seed=7)
    counts = {"always": (1, _STEPS), "optional": (None, 1, _STEPS), "never": (None,)}[sampler.takes_num_steps]
    _check_states(model, sampler, counts[-1])
    for num_steps in counts:
        options = {"num_steps": num_steps, "method": sampler}
        _check_samples(model, options)
        _check_known(model, options)
        _check_seeds(model, options)
        _check_nan(model, options)
        if sampler.has_model_law and num_steps is not None:
            _check_law(model, options)


def _check_samples(model: Any, options: dict[str, Any]) -> None:
    x = sample(model, 50, seed=0, **options)
    require(
        tuple(x.shape) == (50, _LENGTH) and x.dtype == torch.int64 and bool(((x >= 0) & (x < _VOCAB)).all()),
        "samples must be clean tokens, int64, of the shape of the start.",
    )
    require(len(x.unique(dim=0)) > 1, "samples must differ: draw with run.reveal, or with run.generator.")


def _check_known(model: Any, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(_VOCAB, (60, _LENGTH), generator=generator)
    is_known = torch.rand(x.shape, generator=generator) < 0.5
    is_known[0], is_known[1] = True, False
    y = infill(model, x, is_known, seed=0, **options)
    require(torch.equal(y[is_known], x[is_known]), "tokens known from the start must not change; see run.is_free.")
    require(bool((y < _VOCAB).all()), "rows with known tokens must be completed too.")


def _check_seeds(model: Any, options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    first, second, other = (sample(model, 40, seed=seed, **options) for seed in (3, 3, 4))
    require(
        torch.equal(torch.get_rng_state(), before),
        "with a seed the global random state must stay as it is: draw from run.generator.",
    )
    require(torch.equal(first, second), "one seed must give the same samples: keep nothing in the sampler.")
    require(not torch.equal(first, other), "another seed must give other samples.")


def _check_nan(model: Any, options: dict[str, Any]) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.denoiser.tables.fill_(torch.nan)
    try:
        sample(model, 4, seed=0, **options)
    except NonFiniteError:
        return
    raise AssertionError("where the network returns NaN positions must stay masked, which is then reported.")


def _check_law(model: Any, options: dict[str, Any]) -> None:
    num_steps = options["num_steps"]
    x, is_known = torch.tensor([1, 0, 1]), torch.tensor([True, False, False])
    plan: tuple[Mode, ...] = ("shared", "null", "fresh")
    choices: tuple[Mode | tuple[Mode, ...], ...] = ("fresh", "shared", plan[:num_steps])
    for latents in choices:
        drawn = sample(model, _DRAWS, latents=latents, seed=0, **options)
        _require_law(drawn, exact_sampler_distribution(model, _LENGTH, num_steps=num_steps, latents=latents))
        rows, known = (value.expand(_DRAWS, -1) for value in (x, is_known))
        drawn = infill(model, rows, known, latents=latents, seed=0, **options)
        expected = exact_sampler_distribution(
            model, _LENGTH, num_steps=num_steps, latents=latents, x=x, is_known=is_known
        )
        _require_law(drawn, expected)


def _require_law(x: Tensor, expected: Tensor) -> None:
    """Chi-square over all sequences."""
    observed = (x * _VOCAB ** torch.arange(_LENGTH - 1, -1, -1)).sum(-1).bincount(minlength=len(expected)).double()
    is_possible = expected > 0
    expected = len(x) * expected[is_possible]
    statistic = ((observed[is_possible] - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    chance = float(torch.special.gammaincc(degrees, statistic / 2))
    require(
        chance > _FALSE_ALARM and not bool(observed[~is_possible].any()),
        "samples must have the law of ancestral sampling, or has_model_law be False: chi-square "
        f"{float(statistic):.0f} at {len(expected) - 1} degrees of freedom.",
    )


def _check_states(model: Any, sampler: Sampler, num_steps: int | None) -> None:
    """Step by step: what goes in is not changed, and nothing is remembered but in the state."""
    grid = None if num_steps is None else tuple(1 - k / num_steps for k in range(num_steps)) + (0.0,)

    def run_of(seed: int) -> SamplerRun:
        return SamplerRun(
            model,
            start=torch.full((6, _LENGTH), _VOCAB),
            grid=grid,
            latents=_fresh,
            generator=torch.Generator().manual_seed(seed),
        )

    run = run_of(0)
    state = SamplerState(run.start)
    with torch.no_grad():
        for jump in sampler.jumps(run):
            require(isinstance(jump, Jump), f"jumps must be of vadd.samplers.Jump, got {type(jump).__name__}.")
            if state.is_finished:
                break
            kept = {f.name: _copy(getattr(state, f.name)) for f in fields(state)}
            after = sampler.step(run, state, jump)
            require(isinstance(after, SamplerState), f"a step must return a SamplerState, got {type(after).__name__}.")
            for name, value in kept.items():
                require(_equal(getattr(state, name), value), f"a step must not change the state it is given ({name}).")
            state = after
    require(not bool(run.is_masked(state.x).any()), "after the last jump nothing may be masked.")


def _fresh(run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
    return replace(state, z=run.draw_latents(state.x, jump.t, jump.index, jump.repeat))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _equal(value: Any, other: Any) -> bool:
    return torch.equal(value, other) if isinstance(value, Tensor) else value == other
