"""Integrating the latent out: importance-weighted estimates of the log-probability of what a jump reveals."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vadd._checks import require_integer
from vadd.errors import ConfigError, DomainError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.corruption import explain_all_masked
from vadd.objectives.divergence import check_same_kind, latent_divergence
from vadd.samplers.latent_draw import draw
from vadd.types import CorruptedBatch, Distribution, PerSequence

__all__ = ["LatentIntegral", "Proposal", "log_mean"]

Proposal = Literal["guide", "prior", "mixture"]


@dataclass(frozen=True)
class LatentIntegral:
    r"""Estimates of :math:`\log \int p(z) \prod_i \mu^i dz` with ``K`` draws inside the logarithm.

    Any proposal gives a lower bound in expectation, tighter with ``K``.

    Args:
        model, guide: the pair.
        num_latents: draws ``K``; even for the mixture proposal.
        proposal: ``"guide"``, ``"prior"``, or ``"mixture"``: half of the draws from each, weighted by the
            density of the mixture.
        latents: ``"fresh"`` integrates over the prior, ``"null"`` uses the null latent.
        generator: source of the latents.
        rows_per_call: most rows in one call of the denoiser, so that memory does not grow with ``K``.
    """

    model: VADDModel
    guide: RecognitionGuide
    num_latents: int
    proposal: Proposal
    latents: Literal["fresh", "null"]
    generator: torch.Generator
    rows_per_call: int

    def __post_init__(self) -> None:
        require_integer("num_latents", self.num_latents)
        if self.proposal not in ("guide", "prior", "mixture"):
            raise ConfigError(f'proposal must be "guide", "prior" or "mixture", got {self.proposal!r}.')
        if self.latents not in ("fresh", "null"):
            raise ConfigError(f'latents must be "fresh" or "null", got {self.latents!r}.')
        if self.integrates and self.proposal == "mixture" and self.num_latents % 2:
            raise DomainError(f"num_latents must be even for the mixture proposal, got {self.num_latents}.")

    @property
    def integrates(self) -> bool:
        """Whether there is a latent to integrate out."""
        return self.model.has_latent and self.latents == "fresh"

    @property
    def is_guide_draw(self) -> bool:
        """Whether each logarithm holds one draw from the guide: then its KL divergence is subtracted instead."""
        return self.num_latents == 1 and self.proposal == "guide"

    def evidence(self, batch: CorruptedBatch) -> PerSequence:
        """Lower bound, in expectation, of :meth:`joint` for infinitely many draws."""
        if not self.is_guide_draw:
            return self.joint(batch)
        likelihood, kl = self.pairwise(batch)
        return torch.where(batch.target.any(-1), likelihood - kl, 0.0)

    def joint(self, batch: CorruptedBatch) -> PerSequence:
        """Log-probability of all target tokens together, nats, shape ``(batch,)``; zero for an empty target."""
        value = log_mean(tokens.sum(-1) + weights for tokens, weights in self._scores(batch))
        return torch.where(batch.target.any(-1), value, 0.0)

    def marginal(self, batch: CorruptedBatch) -> PerSequence:
        """Sum over the target tokens of their separate log-probabilities, nats, shape ``(batch,)``."""
        parts = (tokens + weights[..., None] for tokens, weights in self._scores(batch))
        # Outside the target the scores are zero and only the weights are left: not part of the sum.
        return torch.where(batch.target, log_mean(parts), 0.0).sum(-1)

    def pairwise(self, batch: CorruptedBatch) -> tuple[PerSequence, PerSequence]:
        """One draw from the guide: log-likelihood of the target and KL divergence, nats, apart."""
        if not self.integrates:
            ((tokens, weights),) = self._scores(batch)
            return tokens[0].sum(-1), weights[0]
        z, kl = self.guide_draw(batch)
        return self.token_scores(batch, z).sum(-1), kl

    def guide_draw(self, batch: CorruptedBatch) -> tuple[Tensor, PerSequence]:
        """One latent a row from the guide, and the KL divergence of guide and prior in nats, float64."""
        prior, posterior = self.prior(batch), self.posterior(batch)
        check_same_kind(posterior, prior)
        z = draw(posterior, self.generator)
        return z, latent_divergence(posterior, prior, z).double()

    def prior(self, batch: CorruptedBatch) -> Distribution:
        """The prior that the batch's jump draws from."""
        return self.model.prior(*batch.latent_inputs, **batch.network_options)

    def posterior(self, batch: CorruptedBatch) -> Distribution:
        """What the guide proposes: it explains the tokens that it was trained to explain."""
        return self.guide.posterior(explain_all_masked(batch) if self.guide.explains == "masked" else batch)

    def token_scores(self, batch: CorruptedBatch, z: Tensor | None) -> Float[Tensor, "*particles batch dim"]:
        """Log-probability of each target token given latents, float64; zero elsewhere."""
        likelihood = self.model.denoise(batch.x_t, batch.t, z, target=batch.target, **batch.network_options)
        return likelihood.token_log_prob(batch.x_s).double()

    def propose(self, batch: CorruptedBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of latents ``(k, batch, *latent)`` with their log importance weights ``(k, batch)``.

        Without a latent to integrate out they are all alike, the null latent with weight one.
        """
        batch_size = batch.x_0.shape[0]
        chunk = max(1, self.rows_per_call // batch_size)
        if not self.integrates:
            null = self.model.null_latent
            for start in range(0, self.num_latents, chunk):
                k = min(chunk, self.num_latents - start)
                yield null.expand(k, batch_size, *null.shape), batch.t.new_zeros(k, batch_size, dtype=torch.float64)
            return
        prior = self.prior(batch)
        posterior = None if self.proposal == "prior" else self.posterior(batch)
        if posterior is not None:
            check_same_kind(posterior, prior)
        for source, count in self._sources(prior, posterior):
            for start in range(0, count, chunk):
                z = draw(source, self.generator, torch.Size([min(chunk, count - start)]))
                log_prior = prior.log_prob(z).double()
                if posterior is None:
                    log_density = log_prior
                elif self.proposal == "guide":
                    log_density = posterior.log_prob(z).double()
                else:
                    log_density = torch.logaddexp(posterior.log_prob(z).double(), log_prior) - math.log(2)
                yield z, log_prior - log_density

    def _sources(self, prior: Any, posterior: Any) -> list[tuple[Any, int]]:
        if self.proposal == "prior":
            return [(prior, self.num_latents)]
        if self.proposal == "guide":
            return [(posterior, self.num_latents)]
        return [(posterior, self.num_latents // 2), (prior, self.num_latents // 2)]

    def _scores(self, batch: CorruptedBatch) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.integrates:
            z = None if self.model.has_latent else batch.t.new_zeros(batch.x_0.shape[0], 0)
            tokens = self.token_scores(batch, z)[None]
            yield tokens, tokens.new_zeros(tokens.shape[:2])
            return
        for z, weights in self.propose(batch):
            yield self.token_scores(batch, z), weights


def log_mean(parts: Iterable[Tensor]) -> Tensor:
    """Log of the mean of exponentials over the first axis of all parts, which are summed as they come."""
    total, count = None, 0
    for part in parts:
        here = part.logsumexp(0)
        total = here if total is None else torch.logaddexp(total, here)
        count += part.shape[0]
    if total is None:
        raise ConfigError("there is nothing to average.")
    return total - math.log(count)
