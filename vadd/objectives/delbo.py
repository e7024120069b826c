"""The training objective of the paper."""

from typing import Any, Literal

import torch

from vadd.errors import ConfigError
from vadd.objectives.corruption import corrupt_by_count, count_weight
from vadd.objectives.drawn import SiteWeights
from vadd.objectives.elbo import DiffusionELBO
from vadd.objectives.times import stratified_uniform
from vadd.process import MaskingProcess
from vadd.types import CorruptedBatch, Tokens

__all__ = ["DELBO"]


class DELBO(DiffusionELBO):
    r"""The double evidence lower bound, negated, in nats per sequence.

    .. math:: -\int_0^1 w(t)\, E_q E_r\left[\log p(x_0 \mid x_t, z)
        - \lambda \log \frac{r(z \mid x_0, x_t)}{p(z)}\right] dt.

    A good training loss, since each of its terms is a proper score for the jump from ``x_t`` to
    ``x_0``. With a latent it bounds *no* log-likelihood: it can lie below the entropy of the
    data. Without a latent it is the bound of masked diffusion, for infinitely many steps.

    Args:
        process: the masking process, the same object that the model holds.
        times: how times are drawn, low-discrepancy over the batch in both cases. ``"count"``: the
            number of masked tokens uniform in ``1..N`` with weight ``N/n``, of finite variance;
            ``"uniform"``: ``t`` uniform in ``(0, 1]`` with weight ``w(t)``, as published, whose
            variance is infinite.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`.

    Raises:
        ConfigError: on another word for ``times``, and as :class:`~vadd.objectives.DiffusionELBO`.

    References:
        Xie et al., arXiv 2505.17384, equation of the DELBO.
    """

    bounds = None

    def __init__(
        self, process: MaskingProcess, *, times: Literal["count", "uniform"] = "count", **options: Any
    ) -> None:
        super().__init__(process, **options)
        if times not in ("count", "uniform"):
            raise ConfigError(f'times must be "count" or "uniform", got {times!r}.')
        self.times = times

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        if self.times == "count":
            return corrupt_by_count(self.process, x_0, self.generator, options)
        uniform = stratified_uniform(x_0.shape[0], device=x_0.device, generator=self.generator)
        t = (1 - uniform).to(torch.get_default_dtype())
        return self.process.corrupt(x_0, t, generator=self.generator, **options)

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        if self.times == "count":
            weight = count_weight(batch)
        else:
            weight = self.process.schedule.weight(batch.t)
        return SiteWeights(likelihood=weight, latent=weight)
