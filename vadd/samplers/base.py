"""The interface of samplers: state in, state out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.types import Flags, Latents, Times, Tokens

if TYPE_CHECKING:
    from vadd.samplers.run import SamplerRun

__all__ = ["Jump", "Sampler", "SamplerState"]


@dataclass(frozen=True)
class Jump:
    """One step that is to be made.

    Attributes:
        index: counts the jumps of the time grid from 0; the steps, where ``rows`` is given or there is no grid.
        t: the time that the network is given, one a row.
        masked: probabilities that a position is masked, where the jump starts and where it ends.
        target: positions to reveal, where that is decided before the step.
        slots: flat numbers of as many positions at every jump, and which of them to reveal.
        rows: each row's own jump of the time grid, where rows are at different ones.
        active: the rows that take part; default all.
        repeat: 0; counts from 1 on further steps of the same index, which draw latents anew.
    """

    index: int
    t: Times
    masked: tuple[float, float] = (1.0, 0.0)
    target: Flags | None = None
    slots: tuple[Int[Tensor, " slots"], Bool[Tensor, " slots"]] | None = None
    rows: tuple[int, ...] | None = None
    active: Int[Tensor, " rows"] | None = None
    repeat: int = 0

    def reveal_share(self, taken_back: float = 0.0) -> float:
        """Share of the masked positions to reveal, where this share of the others is masked again."""
        before, after = self.masked
        # A mask probability that underflows leaves no others to wait for.
        return (before - after + taken_back * (1 - before)) / before if before > 0 else 1.0


@dataclass(frozen=True)
class SamplerState:
    """Where a batch of trajectories is.

    Attributes:
        x: tokens, the mask token where nothing is revealed yet.
        z: latents of the latest network call; None is the null latent, or none yet.
        t: times of the latest network call.
        shared: the latents drawn at the start, once one was needed.
        origin: at which jump ``z`` was drawn; a tuple, row by row, where rows are at different jumps.
        num_calls: network calls so far, those of the prior aside.
        log_weight: log-probability in nats of the tokens that were given instead of drawn; None where all are drawn.
        is_finished: whether further steps would change nothing.
    """

    x: Tokens
    z: Latents | None = None
    t: Times | None = None
    shared: Latents | None = None
    origin: tuple[int, ...] | None = None
    num_calls: int = 0
    log_weight: Float[Tensor, " batch"] | None = None
    is_finished: bool = False


class Sampler(ABC):
    """A way from masked positions to clean tokens.

    Subclasses say which jumps there are and implement one step, with the help of
    :class:`~vadd.samplers.run.SamplerRun`: it knows the model, its options, the latents, the shaping of the
    probabilities and the randomness. A step returns a new state and changes nothing else. It must leave positions
    alone that are not masked at the start. Check yours with :func:`vadd.testing.check_sampler`.

    Attributes:
        has_model_law: whether samples have the law of ancestral sampling with the same number of steps, time grid and
            latents.
        takes_num_steps: whether it must be given a number of steps, may be, or must not.
    """

    has_model_law: ClassVar[bool] = False
    takes_num_steps: ClassVar[Literal["always", "optional", "never"]] = "always"

    @abstractmethod
    def jumps(self, run: "SamplerRun") -> Iterable[Jump]:
        """The steps to make, in order; ``run.jumps()`` are those of the time grid."""

    @abstractmethod
    def step(self, run: "SamplerRun", state: SamplerState, jump: Jump) -> SamplerState:
        """The state after one step."""
