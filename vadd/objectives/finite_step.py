"""Objectives that bound the log-likelihood of a sampler, negated, in nats per sequence."""

from typing import Any, Literal

import torch

from vadd.errors import ConfigError
from vadd.guide import RecognitionGuide
from vadd.objectives.corruption import (
    corrupt_by_count,
    count_weight,
    explain_all_masked,
    share_latent,
    stratified_jumps,
)
from vadd.objectives.elbo import DiffusionELBO, SiteWeights
from vadd.process import MaskingProcess
from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.types import CorruptedBatch, Tokens

__all__ = ["ContinuousTimeELBO", "FiniteStepELBO", "SharedLatentELBO"]


class FiniteStepELBO(DiffusionELBO):
    r"""Bound on the log-likelihood of ancestral sampling in ``T`` steps, a fresh latent at each.

    With ``u`` the reveal probability of a jump and ``n`` the number of masked tokens,

    .. math:: -\sum_{jumps} E_q E_r\Big[u \sum_{i \in M} \log \mu^i\Big] - (1 - (1-u)^n)\, KL(r \| p)

    for a recognition model that explains all masked tokens (``target="masked"``); with
    ``target="revealed"`` the revealed set ``S`` is drawn, and the recognition model sees and
    explains ``S`` alone: ``log mu`` is summed over ``S`` and the KL charged where ``S`` is not
    empty. One jump is drawn a row, low-discrepancy over the batch, with weight ``T``.

    Args:
        process: the masking process, the same object that the model holds.
        num_steps: the number of steps ``T``.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform.
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
        num_steps: int,
        *,
        time_grid: TimeGrid | None = None,
        target: Literal["masked", "revealed"] = "masked",
        **options: Any,
    ) -> None:
        super().__init__(process, **options)
        if target not in ("masked", "revealed"):
            raise ConfigError(f'target must be "masked" or "revealed", got {target!r}.')
        self.num_steps = num_steps
        self.grid = resolve_grid(num_steps, time_grid).tolist()
        self.bounds = f"ancestral sampling in {num_steps} steps of its grid, a fresh latent at each step"
        self.target = target

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        t, s = stratified_jumps(self.grid, x_0, self.generator)
        batch = self.process.corrupt(x_0, t, s, generator=self.generator, **options)
        return batch if self.target == "revealed" else explain_all_masked(batch)

    def _check_pair(self, model: Any, guide: Any) -> None:
        super()._check_pair(model, guide)
        has_latent = isinstance(guide, RecognitionGuide) and guide.latent_shape.numel() > 0
        if has_latent and guide.explains != self.target:
            raise ConfigError(
                f"the objective's target is {self.target!r} and the guide explains {guide.explains!r}: build them "
                f"alike, for example RecognitionGuide(recognition, explains={self.target!r})."
            )

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        weight = torch.full_like(batch.t, float(self.num_steps))
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

    .. math:: E_r\Big[\sum_{jumps} u \sum_{i \in M} \log \mu^i(x_t, z)\Big]
        - KL\big(r(z \mid x_0) \,\|\, p(z \mid [M] \dots [M])\big),

    one KL in all; for infinitely many steps ``w(t)`` replaces the sum. The weights match the
    sampler: those of infinitely many steps bound nothing for few.

    Args:
        process: the masking process, the same object that the model holds.
        num_steps: the number of steps ``T``; None for infinitely many.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.

    Raises:
        DomainError, ConfigError: on a bad number of steps or grid.
    """

    bounds = "sampling with one latent a trajectory, in num_steps steps"

    def __init__(
        self,
        process: MaskingProcess,
        num_steps: int | None = None,
        *,
        time_grid: TimeGrid | None = None,
        **options: Any,
    ) -> None:
        super().__init__(process, **options)
        if num_steps is None and time_grid is not None:
            raise ConfigError("time_grid needs num_steps: infinitely many steps have no grid.")
        self.num_steps = num_steps
        self.grid = None if num_steps is None else resolve_grid(num_steps, time_grid).tolist()
        steps = "infinitely many steps" if num_steps is None else f"{num_steps} steps of its grid"
        self.bounds = f"sampling with one latent a trajectory, in {steps}"

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        if self.grid is None:
            batch = corrupt_by_count(self.process, x_0, self.generator, options)
        else:
            t, s = stratified_jumps(self.grid, x_0, self.generator)
            batch = explain_all_masked(self.process.corrupt(x_0, t, s, generator=self.generator, **options))
        return share_latent(batch, self.process.mask_id)

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        if self.num_steps is None:
            likelihood = count_weight(batch)
        else:
            likelihood = self.num_steps * self.process.reveal_probability(batch.t, batch.s)
        return SiteWeights(likelihood=likelihood, latent=torch.ones_like(batch.t))
