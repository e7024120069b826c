"""The objective of the path without a latent, inside a model that has one."""

from dataclasses import replace
from typing import Any

import torch

from vadd.guide import RecognitionGuide
from vadd.objectives.corruption import corrupt_by_count, count_weight
from vadd.objectives.drawn import SiteWeights
from vadd.objectives.elbo import DiffusionELBO
from vadd.types import CorruptedBatch, Tokens

__all__ = ["NullLatentELBO"]


class NullLatentELBO(DiffusionELBO):
    r"""The bound of masked diffusion for the null path of a model: every row has the null latent.

    .. math:: -\sum_{n=1}^N \frac{1}{n} E_{|M|=n}\Big[\sum_{i \in M} \log \mu^i(x_0^i \mid x_t, z_0)\Big],

    with :math:`z_0` the null latent and ``n`` drawn uniformly on the ``N`` free tokens of a row. No KL is paid,
    and the guide gets no gradient. In a :class:`~vadd.objectives.MixedELBO` it keeps a masked diffusion model inside
    the model; for a model without a latent it equals :class:`~vadd.objectives.DELBO`.

    Args:
        process: the masking process, the same object that the model holds.
        **options: those of :class:`~vadd.objectives.DiffusionELBO`; the KL's have no effect.
    """

    bounds = "ancestral sampling in infinitely many steps, the null latent at each step"

    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        batch = corrupt_by_count(self.process, x_0, self.generator, options)
        return replace(batch, is_null=torch.ones_like(batch.t, dtype=torch.bool))

    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        return SiteWeights(likelihood=count_weight(batch), latent=torch.zeros_like(batch.t))

    def _check_explains(self, guide: RecognitionGuide) -> None:
        """Any guide: it is not used."""
