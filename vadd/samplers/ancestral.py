"""Ancestral sampling, with and without the steps in which nothing happens."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from vadd.errors import ConfigError
from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.run import SamplerRun

__all__ = ["AncestralSampler"]


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    r"""The reverse process, step by step (Algorithm 2 of the paper). It has the model's law: it defines it.

    A jump from ``t`` to ``s`` reveals each masked position with probability
    :math:`u = (\alpha_s - \alpha_t) / (1 - \alpha_t)`, and draws its token from the network. The decision and the
    token are drawn apart, in double precision: one categorical over tokens and "stays masked" loses rare tokens
    when ``u`` is small.

    Args:
        skip: ``"nothing"``: the network sees every row at every step. ``"steps"``: it is not called where a step
            reveals nothing in any row. ``"rows"``: it also sees only the rows in which something is revealed. The
            samples are the same for one seed, up to the rounding of a network that is run on fewer rows. Both
            need the host to wait for the decision; ``"rows"`` is poor for networks compiled for one batch size.

    Raises:
        ConfigError: on another value of ``skip``.
    """

    skip: Literal["nothing", "steps", "rows"] = "nothing"
    has_model_law: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.skip not in ("nothing", "steps", "rows"):
            raise ConfigError(f'skip must be "nothing", "steps" or "rows", got {self.skip!r}.')

    def jumps(self, run: SamplerRun) -> Iterable[Jump]:
        return run.jumps()

    def step(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        target = run.is_masked(state.x) & (run.uniform() < jump.reveal_share())
        if self.skip == "nothing":
            return run.reveal(state, jump, target)
        rows = target.any(-1).nonzero()[:, 0]
        if not len(rows):
            return state
        return run.reveal(state, jump, target, rows=rows if self.skip == "rows" else None)
