"""Samplers that take tokens back: remasking, and a corrector between jumps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from vadd._checks import require_integer, require_number
from vadd.errors import ConfigError, DomainError
from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.run import SamplerRun

__all__ = ["PredictorCorrectorSampler", "RemaskingSampler"]


@dataclass(frozen=True)
class RemaskingSampler(Sampler):
    r"""ReMDM: at each jump revealed tokens are masked again with probability :math:`\sigma`.

    It has not the model's law. Masked positions are revealed with probability
    :math:`(\alpha_s - (1 - \sigma) \alpha_t) / (1 - \alpha_t)`, so that as many are masked at each time as under the
    forward process. At most :math:`\sigma_{max} = \min(1, (1 - \alpha_s) / \alpha_t)` can be masked again; the last
    jump masks nothing. With ``strength=0`` it is ancestral sampling. Tokens known from the start are never masked.

    More steps than positions are of use here: they go on correcting.

    Args:
        strength: the factor :math:`\eta` in ``[0, 1]``.
        rule: ``"rescale"``: :math:`\sigma = \eta\, \sigma_{max}`; ``"cap"``: :math:`\min(\eta, \sigma_{max})`.
        between: times ``(low, high)``, between which jumps that start there mask again; default all.

    Raises:
        ConfigError, DomainError: on an unknown rule or values outside their range.

    References:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", arXiv 2503.00307.
    """

    strength: float = 0.1
    rule: Literal["rescale", "cap"] = "rescale"
    between: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require_number("strength", self.strength, 0.0, 1.0)
        if self.rule not in ("rescale", "cap"):
            raise ConfigError(f'rule must be "rescale" or "cap", got {self.rule!r}.')
        between = self.between
        is_pair = isinstance(between, Sequence) and [isinstance(time, int | float) for time in between] == [True, True]
        if not is_pair or not 0 <= between[0] <= between[1] <= 1:
            raise DomainError(f"between must be times (low, high) with 0 <= low <= high <= 1, got {between!r}.")

    def jumps(self, run: SamplerRun) -> Iterable[Jump]:
        return run.jumps()

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        assert run.grid is not None
        sigma = self._sigma(*jump.masked) if self.between[0] <= run.grid[jump.index] <= self.between[1] else 0.0
        masked, uniform = run.is_masked(state.x), run.uniform()
        target = masked & (uniform < jump.reveal_share(sigma))
        is_taken_back = ~masked & run.is_free & (uniform < sigma)
        state = run.reveal(state, jump, target)
        return replace(state, x=state.x.masked_fill(is_taken_back, run.model.process.mask_id))

    def _sigma(self, before: float, after: float) -> float:
        largest = 1.0 if before == 1 else min(1.0, after / (1 - before))
        return self.strength * largest if self.rule == "rescale" else min(self.strength, largest)


@dataclass(frozen=True)
class PredictorCorrectorSampler(Sampler):
    """Ancestral jumps, each followed by corrections: some tokens are masked and drawn again.

    It has not the model's law. A correction at time ``s`` goes a step up the forward process, which masks each revealed
    token with probability ``strength``, and an ancestral jump back down to ``s``. If the network were exact, and each
    jump short, the law at ``s`` would stay what it is; so corrections undo errors of the predictor. Each takes a
    network call, with a latent of its own where latents are fresh. There is none after the last jump, and tokens
    known from the start stay.

    Args:
        num_corrections: after each jump but the last.
        strength: in ``(0, 1]``.

    Raises:
        DomainError: on values outside their range.

    References:
        Gat et al., "Discrete Flow Matching", arXiv 2407.15595; for remasking as a corrector see arXiv 2503.00307.
    """

    num_corrections: int = 1
    strength: float = 0.1

    def __post_init__(self) -> None:
        require_integer("num_corrections", self.num_corrections)
        require_number("strength", self.strength, 0.0, 1.0, above=True)

    def jumps(self, run: SamplerRun) -> Iterator[Jump]:
        jumps = run.jumps()
        for jump in jumps:
            yield jump
            if jump is jumps[-1]:
                return
            at = jump.masked[1]
            above = at + self.strength * (1 - at)
            t = run.times(float(run.time_of(torch.tensor(above, dtype=torch.float64, device=run.start.device))))
            for k in range(self.num_corrections):
                yield Jump(jump.index, t, (above, at), repeat=k + 1)

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        if jump.repeat:
            is_taken_back = ~run.is_masked(state.x) & run.is_free & (run.uniform() < self.strength)
            state = replace(state, x=state.x.masked_fill(is_taken_back, run.model.process.mask_id))
        target = run.is_masked(state.x) & (run.uniform() < jump.reveal_share())
        return run.reveal(state, jump, target)
