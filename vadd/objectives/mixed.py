"""Mixtures of objectives by rows of the batch."""

import copy
import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.guide import RecognitionGuide
from vadd.objectives.corruption import merge_rows
from vadd.objectives.drawn import SiteWeights
from vadd.objectives.elbo import DiffusionELBO
from vadd.objectives.finite_step import FiniteStepELBO
from vadd.process import MaskingProcess
from vadd.samplers.latent_draw import mix_seed
from vadd.types import CorruptedBatch, Tokens

__all__ = ["MixedELBO", "apportion"]

#: The options that all objectives have, with their defaults: a part must leave them alone.
_OWN = {
    name: parameter.default
    for name, parameter in inspect.signature(DiffusionELBO.__init__).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


class MixedELBO(DiffusionELBO):
    r"""A mixture of objectives: each row of a batch is drawn and weighted by one of them, in one pass of the pair.

    For shares :math:`\pi_k` that sum to one the expected value is

    .. math:: \sum_k \pi_k \, L_k

    in nats per sequence, for every batch size: row numbers are rounded up or down at random such that their
    expectations are :math:`\pi_k B`, and rows assigned at random, so that each belongs to part ``k`` with probability
    :math:`\pi_k`. Each part stratifies its own rows. For example::

        MixedELBO([(SharedLatentELBO(process, StepLaw.log_uniform(16)), 0.6), (NullLatentELBO(process), 0.4)])
        MixedELBO([(FiniteStepELBO(process, StepLaw.log_uniform(16)), 0.5), (DELBO(process), 0.5)])

    KL weight, free bits, particles and generator are the mixture's own, for the rows of all parts: ``free_bits`` are
    nats of KL a sequence that cost nothing in each row that pays for its latent, whatever its part. The recognition
    network runs on all rows, those with the null latent included.

    Args:
        parts: pairs of an objective and its share, which is positive; the shares sum to one. All are built with one
            process. They are copied, and no mixtures themselves.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.

    Raises:
        ConfigError: if ``parts`` is not as described, a part has options that are the mixture's own, two parts disagree
            on what the latent of a jump explains, or (when run) a part does not fit the guide.
        DomainError: if a share is not positive.
        ShapeError: when run, if an option of the batch has not one entry a row.
    """

    #: A sampler's, where all parts bound the log-likelihood of the same.
    bounds = None

    def __init__(self, parts: Sequence[tuple[DiffusionELBO, int | float]], **options: Any) -> None:
        objectives, self.shares = _checked(parts)
        super().__init__(objectives[0].process, **options)
        self.parts = tuple(copy.copy(part) for part in objectives)  # the generator of these follows the mixture's
        first = self.parts[0]
        if all(_bounds_the_same(first, part) for part in self.parts[1:]):
            self.bounds = first.bounds

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        self.process.check_tokens(x_0, **{name: options.get(name) for name in ("is_frozen", "is_padding")})
        size = x_0.shape[0]
        for name, value in options.items():
            if isinstance(value, Tensor) and value.shape[:1] != (size,):
                raise ShapeError(f"{name} must have one entry for each of the {size} rows, got {tuple(value.shape)}.")
        counts = apportion(self.shares, size, self._uniform())
        order = torch.randperm(size, device=x_0.device, generator=self.generator)
        batches = []
        for k, rows in enumerate(order.split(counts)):
            if len(rows) == 0:
                continue
            part = self.parts[k]
            part.generator = self.generator
            own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in options.items()}
            batch = part.corrupt(x_0[rows], **own)
            num_steps = torch.full_like(batch.t, torch.nan) if batch.num_steps is None else batch.num_steps
            batches.append(replace(batch, num_steps=num_steps, part=torch.full_like(rows, k)))
        return merge_rows(batches, order.argsort())

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        if batch.part is None:
            raise ConfigError("batch must say in part which objective drew each row, as what corrupt draws does.")
        # Every part is asked about every row, and heard about its own: to count those would make the host wait.
        weights = [part.weigh(batch) for part in self.parts]
        own = batch.part[None]
        return SiteWeights(*(torch.stack(values).gather(0, own)[0] for values in zip(*weights, strict=True)))

    def _check_explains(self, guide: RecognitionGuide) -> None:
        # Where steps decide what a jump reveals, jumps to clean data are the case in which it is everything.
        steps = [part for part in self.parts if isinstance(part, FiniteStepELBO)]
        for part in steps or self.parts:
            part._check_explains(guide)

    def _uniform(self) -> float:
        """A number in ``[0, 1)``, on the host: how many rows a part gets is the shape of its tensors."""
        generator = self.generator
        if generator is not None and generator.device.type != "cpu":
            # To draw on a GPU is to wait for it. The host knows the state of its generator, which each draw changes.
            generator = torch.Generator().manual_seed(mix_seed(0, *generator.get_state().tolist()))
        return float(torch.rand((), dtype=torch.float64, generator=generator))


def apportion(shares: Sequence[int | float], size: int, uniform: float) -> list[int]:
    r"""Numbers of rows, :math:`\pi_k B` rounded up or down, with sum ``B``.

    The shares are laid end to end on ``[0, B]``, and row numbers are the numbers of points ``1 - u, 2 - u, ...`` in
    each (systematic sampling): for ``u`` uniform in ``[0, 1)`` their expectations are exactly :math:`\pi_k B`.
    """
    ends = [min(size, math.floor(size * total + uniform)) for total in itertools.accumulate(shares)]
    ends[-1] = size  # whatever the rounding errors of the sum
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def _checked(parts: Any) -> tuple[list[DiffusionELBO], tuple[int | float, ...]]:
    """The objectives and their shares, if they are a mixture."""
    if isinstance(parts, MaskingProcess):
        raise ConfigError("parts must be pairs of an objective and its share; the process is that of the objectives.")
    is_list = isinstance(parts, Sequence) and len(parts) > 0
    if not is_list or any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in parts):
        raise ConfigError(f"parts must be one or more pairs of an objective and its share, got {parts!r}.")
    objectives, shares = [part for part, _ in parts], tuple(share for _, share in parts)
    for part, share in parts:
        if not isinstance(part, DiffusionELBO) or isinstance(part, MixedELBO):
            raise ConfigError(
                f"a part must be an objective that is no mixture, followed by its share, got {type(part).__name__}."
            )
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise DomainError(f"shares must be positive numbers, got {share!r} for {type(part).__name__}.")
        if part.process is not objectives[0].process:
            raise ConfigError("all parts must be built with one process, the same object: model.process.")
        given = [name for name, default in _OWN.items() if getattr(part, name) != default]
        if given:
            raise ConfigError(
                f"{', '.join(given)} of {type(part).__name__} would have no effect: give MixedELBO these options, for "
                "the rows of all parts."
            )
    if abs(math.fsum(shares) - 1) > 1e-9:
        raise ConfigError(f"shares must sum to one, got {math.fsum(shares)}.")
    targets = {part.target for part in objectives if isinstance(part, FiniteStepELBO)}
    if len(targets) > 1:
        raise ConfigError(
            'the target of the parts must be the same, got "masked" and "revealed": they share the guide.'
        )
    return objectives, shares


def _bounds_the_same(one: DiffusionELBO, other: DiffusionELBO) -> bool:
    """Whether two objectives bound the log-likelihood of one sampler, its grid included."""
    if type(one) is not type(other) or one.bounds is None or one.bounds != other.bounds:
        return False
    jumps = getattr(one, "jumps", None)
    return jumps is None or jumps.is_same(getattr(other, "jumps"))  # noqa: B009 - unknown to type checkers
