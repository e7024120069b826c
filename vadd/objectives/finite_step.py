"""Objectives that bound the log-likelihood of a sampler, negated, in nats per sequence."""

from typing import Any, Literal

import torch

from vadd.errors import ConfigError
from vadd.guide import RecognitionGuide
from vadd.objectives.corruption import (
    corrupt_by_count,
    corrupt_by_jump,
    count_weight,
    explain_all_masked,
    share_latent,
)
from vadd.objectives.drawn import SiteWeights
from vadd.objectives.elbo import DiffusionELBO
from vadd.objectives.pairs import require_explains
from vadd.objectives.steps import JumpTable, StepLaw
from vadd.process import MaskingProcess
from vadd.samplers.time_grid import TimeGrid
from vadd.types import CorruptedBatch, PerSequence, Tokens

__all__ = ["ContinuousTimeELBO", "FiniteStepELBO", "SharedLatentELBO"]


class FiniteStepELBO(DiffusionELBO):
    r"""Bound on the log-likelihood of ancestral sampling in ``T`` steps, a fresh latent at each.

    With ``u`` the reveal probability of a jump and ``n`` the number of masked tokens,

    .. math:: -\sum_{jumps} E_q\bigg[E_r\Big[u \sum_{i \in M} \log \mu^i\Big] - (1 - (1-u)^n)\, KL(r \| p)\bigg]

    for a recognition model that explains all masked tokens (``target="masked"``); with
    ``target="revealed"`` the revealed set ``S`` is drawn, and the recognition model sees and
    explains ``S`` alone: ``log mu`` is summed over ``S`` and the KL charged where ``S`` is not
    empty. One jump is drawn a row, low-discrepancy over the batch, with weight ``T``.

    With a :class:`~vadd.objectives.StepLaw` each row draws its ``T`` as well, jointly low-discrepancy with the
    jump, and the expected value is :math:`E_T` of the above. It bounds the average log-likelihood
    :math:`E_T \log p_T`, and so that of a sampler that draws its number of steps from the law. The variance grows
    with ``T``, since few tokens then carry the weight ``T``: give large ``T`` little probability.

    Args:
        process: the masking process, the same object that the model holds.
        num_steps: the number of steps ``T``, or a law of it.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform. A law needs a name, or a function from
            the number of steps.
        target: what the latent of a jump explains; the guide's ``explains`` must say the same.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.

    Raises:
        DomainError, ConfigError: on a bad number of steps or grid, an unknown target, or (when run) a
            guide that explains something else.
    """

    bounds = "ancestral sampling in num_steps steps, a fresh latent at each step"

    def __init__(
        self,
        process: MaskingProcess,
        num_steps: int | StepLaw,
        *,
        time_grid: TimeGrid | None = None,
        target: Literal["masked", "revealed"] = "masked",
        **options: Any,
    ) -> None:
        super().__init__(process, **options)
        if target not in ("masked", "revealed"):
            raise ConfigError(f'target must be "masked" or "revealed", got {target!r}.')
        if num_steps is None or (isinstance(num_steps, StepLaw) and None in num_steps.steps):
            raise ConfigError(
                "num_steps must be finite here; for infinitely many steps mix in ContinuousTimeELBO or DELBO, by "
                "MixedELBO."
            )
        self.num_steps = num_steps
        self.jumps = JumpTable(num_steps, time_grid)
        self.bounds = f"ancestral sampling in {_describe(num_steps)}, a fresh latent at each step{_average(num_steps)}"
        self.target = target

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        batch = corrupt_by_jump(self.process, self.jumps, x_0, self.generator, options)
        return batch if self.target == "revealed" else explain_all_masked(batch)

    def _check_explains(self, guide: RecognitionGuide) -> None:
        require_explains(guide, self.target, f"FiniteStepELBO with target={self.target!r}")

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        weight = _num_steps(batch)
        if self.target == "revealed":
            return SiteWeights(likelihood=weight, latent=weight)
        u = self.process.reveal_probability(batch.t, batch.s)
        # In double precision: the chance that anything is revealed is small where the steps are many.
        reveals_any = (1 - (1 - u.double()) ** batch.is_masked.sum(-1)).to(u.dtype)
        return SiteWeights(likelihood=weight * u, latent=weight * reveals_any)


class ContinuousTimeELBO(DiffusionELBO):
    r"""The limit of :class:`FiniteStepELBO` for infinitely many steps: weights ``w(t)`` and ``w(t) n``.

    The latent is paid for once a token, so minimizing it puts the latent to sleep: a yardstick
    rather than a training objective. ``n`` is drawn uniformly, ``N`` the free tokens of a row.

    Args:
        process: the masking process, the same object that the model holds.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.
    """

    bounds = "ancestral sampling in infinitely many steps, a fresh latent at each step"

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        return corrupt_by_count(self.process, x_0, self.generator, options)

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        weight = count_weight(batch)
        return SiteWeights(likelihood=weight, latent=weight * batch.is_masked.sum(-1))


class SharedLatentELBO(DiffusionELBO):
    r"""Bound on the log-likelihood of a trajectory with one latent, drawn from ``p(z | all masked)``.

    .. math:: -E_r\Big[\sum_{jumps} E_q\, u \sum_{i \in M} \log \mu^i(x_t, z)\Big]
        + KL\big(r(z \mid x_0) \,\|\, p(z \mid [M] \dots [M])\big),

    one KL in all; for infinitely many steps ``w(t)`` replaces the sum. The weights match the
    sampler: those of infinitely many steps bound nothing for few.

    With a :class:`~vadd.objectives.StepLaw` each row draws its ``T``, as in :class:`FiniteStepELBO`; rows of
    infinitely many steps draw their number of masked tokens uniformly, with weight ``N/n``.

    Args:
        process: the masking process, the same object that the model holds.
        num_steps: the number of steps ``T``; None for infinitely many; or a law of it.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform. A law needs a name, or a function from
            the number of steps.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.

    Raises:
        DomainError, ConfigError: on a bad number of steps or grid.
    """

    bounds = "sampling with one latent a trajectory, in num_steps steps"

    def __init__(
        self,
        process: MaskingProcess,
        num_steps: int | StepLaw | None = None,
        *,
        time_grid: TimeGrid | None = None,
        **options: Any,
    ) -> None:
        super().__init__(process, **options)
        self.num_steps = num_steps
        self.jumps = JumpTable(num_steps, time_grid)
        self.bounds = f"sampling with one latent a trajectory, in {_describe(num_steps)}{_average(num_steps)}"

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        batch = corrupt_by_jump(self.process, self.jumps, x_0, self.generator, options)
        return share_latent(explain_all_masked(batch), self.process.mask_id)

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        num_steps = _num_steps(batch)
        by_jump = num_steps * self.process.reveal_probability(batch.t, batch.s)
        likelihood = torch.where(num_steps.isinf(), count_weight(batch), by_jump)
        return SiteWeights(likelihood=likelihood, latent=torch.ones_like(batch.t))


def _num_steps(batch: CorruptedBatch) -> PerSequence:
    if batch.num_steps is None:
        raise ConfigError("batch must say in num_steps which sampler each row belongs to, as what corrupt draws does.")
    return batch.num_steps


def _describe(num_steps: int | StepLaw | None) -> str:
    if isinstance(num_steps, StepLaw):
        return f"{num_steps} steps, each number on its grid"
    return "infinitely many steps" if num_steps is None else f"{num_steps} steps of its grid"


def _average(num_steps: int | StepLaw | None) -> str:
    return ", averaged over the number of steps" if isinstance(num_steps, StepLaw) else ""
