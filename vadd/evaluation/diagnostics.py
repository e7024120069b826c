"""Is the latent used? Numbers that tell a live latent from a collapsed one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vadd._modes import evaluating
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.bounds import check_inputs, check_sizes
from vadd.evaluation.importance import LatentIntegral
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.divergence import analytic_divergence
from vadd.objectives.times import count_free
from vadd.samplers.gate import LatentGate
from vadd.samplers.latent_draw import draw
from vadd.samplers.latents import default_latents
from vadd.types import CorruptedBatch, Distribution, Tokens

__all__ = ["LatentDiagnosis", "diagnose_latent"]


@dataclass(frozen=True)
class LatentDiagnosis:
    """What the latent carries, in nats per sequence.

    Attributes:
        mask_ratios: upper ends of the bins of the share of masked tokens.
        kl_per_bin: mean KL of guide and prior in each bin, shape ``(bins,)``.
        kl_per_dimension: the same for each latent component, shape ``(bins, *latent_shape)``, or each group of
            categories, ``(bins, *groups)``; None unless guide and prior have independent ones and a formula for them.
        active_units: latent components whose posterior mean varies over the data by more than 0.01
            (Burda et al., arXiv 1509.00519), with all tokens masked. Of a discrete latent, groups whose
            probabilities do, their variances added up.
        mutual_information: between sequence and latent with all tokens masked; an estimate on this
            batch, which cannot exceed the logarithm of its size.
        prior_gap: KL divergence of the aggregate posterior from the prior, likewise: the mass
            that sampling from the prior misses. With the mutual information it adds up to the KL. Both are NaN
            where the prior differs between the sequences (conditions, frozen tokens): there is no one aggregate.
        mixture_off_loss: nats of the one-step likelihood that are lost when the latent is fixed: at zero, or,
            if it is discrete, at the most probable category of each group under the prior, as zero is no value
            of it. About zero for a collapsed latent.
        num_latent: number of latent components, or of groups of categories.
        kl_all_masked: mean KL with all tokens masked, where one latent a trajectory is drawn.
        is_shared: whether the model keeps one latent a trajectory, wherever it draws one. Its guide is trained on whole
            sequences, and what it says of partly masked ones means little.
    """

    mask_ratios: Float[Tensor, " bins"]
    kl_per_bin: Float[Tensor, " bins"]
    kl_per_dimension: Float[Tensor, "bins *latent"] | None
    active_units: int
    mutual_information: float
    prior_gap: float
    mixture_off_loss: float
    num_latent: int
    kl_all_masked: float = math.nan
    is_shared: bool = False

    @property
    def is_collapsed(self) -> bool:
        """Whether guide and prior agree to 0.05 nats wherever a latent is drawn: then ``z`` tells nothing."""
        return self.kl_all_masked < 0.05 if self.is_shared else bool((self.kl_per_bin < 0.05).all())

    def __str__(self) -> str:
        bins = ", ".join(
            f"{float(r):.0%}: {float(k):.2f}" for r, k in zip(self.mask_ratios, self.kl_per_bin, strict=True)
        )
        state = "collapsed" if self.is_collapsed else "in use"
        return (
            f"latent {state}: {self.active_units} of {self.num_latent} units active, "
            f"mutual information {self.mutual_information:.2f} nats, prior gap {self.prior_gap:.2f}, "
            f"mixture-off loss {self.mixture_off_loss:.2f}; KL with all masked: {self.kl_all_masked:.2f}, "
            f"by share masked: {bins}"
        )


def diagnose_latent(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    num_bins: int = 4,
    num_latents: int = 64,
    is_frozen: Tensor | None = None,
    is_padding: Tensor | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    rows_per_call: int = 1024,
) -> LatentDiagnosis:
    """Measure how the pair uses its latent on a batch.

    Args:
        model, guide: the pair, evaluated with dropout off.
        x_0: clean tokens, shape ``(batch, dim)``; a few hundred sequences give useful numbers.
        num_bins: bins of the share of masked tokens, for the KL.
        num_latents: latents for the one-step likelihood, half from guide and prior each.
        is_frozen, is_padding, condition: as in :func:`~vadd.evaluation.log_likelihood_bound`.
        seed: of masks and latents.
        rows_per_call: most rows in one call of a network.

    Raises:
        ConfigError: if model and guide do not fit each other, or the model has no latent.
        DtypeError, ShapeError, DomainError: on sequences that are not as described or fewer than two, no bin, no row
            in a call, or another seed than an integer from 0 on.
    """
    check_inputs(model, guide, x_0, is_frozen=is_frozen, is_padding=is_padding)
    if not model.has_latent:
        raise ConfigError("the model has no latent to diagnose: its latent_shape is (0,).")
    if x_0.shape[0] < 2 or num_bins < 1:
        raise DomainError(f"need at least 2 sequences and 1 bin, got {x_0.shape[0]} and num_bins={num_bins}.")
    check_sizes(1, rows_per_call, seed)
    process = model.process
    options = {"is_frozen": is_frozen, "is_padding": is_padding, "condition": condition}
    masks, latents = (torch.Generator(x_0.device).manual_seed(seed + i) for i in range(2))
    integral = LatentIntegral(model, guide, num_latents, "mixture", "fresh", latents, rows_per_call)
    num_free = count_free(x_0, is_frozen, is_padding)
    kl_per_bin, kl_per_dimension = [], []
    with evaluating(model, guide):
        for b in range(num_bins):
            uniform = torch.rand(x_0.shape[0], generator=masks, device=x_0.device, dtype=torch.float64)
            ratio = ((b + 1 - uniform) / num_bins).clamp(max=1.0)
            count = torch.minimum((ratio * num_free).ceil().long(), num_free)
            parts = _parts(integral, process.corrupt_count(x_0, count, generator=masks, **options))
            kl_per_dimension.append(_kl_per_dimension(parts))
            kl_per_bin.append(_kl(parts, latents))
        ones = torch.ones(x_0.shape[0], device=x_0.device)
        parts = _parts(integral, process.corrupt(x_0, ones, generator=masks, **options))
        information, gap = _split_kl(parts, latents)
        kl_all_masked = float(_kl(parts, latents))
        draws = [draw(part.posterior, latents, torch.Size([256])) for part in parts]
        off = torch.cat([_mixture_off(integral, part, z[0]) for part, z in zip(parts, draws, strict=True)])
        loss = (torch.cat([integral.joint(part.batch) for part in parts]) - off).mean()
    is_apart = kl_per_dimension[0] is not None
    variances = _variances_of_mean(parts, torch.cat(draws, 1))
    return LatentDiagnosis(
        mask_ratios=torch.arange(1, num_bins + 1) / num_bins,
        kl_per_bin=torch.stack(kl_per_bin).double(),
        kl_per_dimension=torch.stack([k for k in kl_per_dimension if k is not None]) if is_apart else None,
        active_units=int((variances > 0.01).sum()),
        mutual_information=information,
        prior_gap=gap,
        mixture_off_loss=float(loss),
        num_latent=variances.numel(),
        kl_all_masked=kl_all_masked,
        is_shared=_is_shared(model),
    )


def _is_shared(model: VADDModel) -> bool:
    """Whether all latents that the model draws are of a whole trajectory; a gate may draw none at all."""
    choice = default_latents(model)
    drawn = {mode for plan in choice.plans.values() for mode in plan} if isinstance(choice, LatentGate) else {choice}
    return (drawn - {"null"} or {model.latents}) == {"shared"}


class _Part(NamedTuple):
    """Some rows of a batch, and what prior and guide say of them."""

    batch: CorruptedBatch
    prior: Distribution
    posterior: Distribution


def _parts(integral: LatentIntegral, batch: CorruptedBatch) -> list[_Part]:
    size = integral.rows_per_call
    pieces = [batch.rows(slice(start, start + size)) for start in range(0, len(batch.x_0), size)]
    return [_Part(rows, integral.prior(rows), integral.posterior(rows)) for rows in pieces]


def _kl_per_dimension(parts: Sequence[_Part]) -> Tensor | None:
    """Mean KL of each component, where both have independent ones."""
    apart = [_apart(part.posterior, part.prior) for part in parts]
    known = [kl for kl in apart if kl is not None]
    return torch.cat(known).mean(0) if len(known) == len(apart) else None


def _apart(posterior: Distribution, prior: Distribution) -> Tensor | None:
    if not all(isinstance(d, torch.distributions.Independent) for d in (posterior, prior)):
        return None
    p, q = cast(Any, posterior), cast(Any, prior)
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        return None
    return analytic_divergence(p.base_dist, q.base_dist)


def _kl(parts: Sequence[_Part], generator: torch.Generator) -> Tensor:
    """Mean KL: by formula, or from 16 draws a row."""
    values = []
    for _, prior, posterior in parts:
        exact = analytic_divergence(posterior, prior)
        if exact is None:
            z = draw(posterior, generator, torch.Size([16]))
            exact = posterior.log_prob(z) - prior.log_prob(z)
        values.append(exact)
    return torch.cat(values, -1).double().mean()


def _mixture_off(integral: LatentIntegral, part: _Part, like: Tensor) -> Tensor:
    """Log-probability of each sequence in one step with a fixed latent."""
    return integral.token_scores(part.batch, _fixed_latent(part.prior, part.posterior, like)).sum(-1)


def is_one_hot(distribution: Distribution) -> bool:
    """Whether it draws one category of each group."""
    base: Any = distribution
    if isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    return isinstance(base, torch.distributions.OneHotCategorical)


def _fixed_latent(prior: Distribution, posterior: Distribution, like: Tensor) -> Tensor:
    if not is_one_hot(posterior):
        return torch.zeros_like(like)
    # The mean of a one-hot latent holds its probabilities.
    return F.one_hot(prior.mean.argmax(-1), like.shape[-1]).to(like.dtype)


def _variances_of_mean(parts: Sequence[_Part], z: Tensor) -> Tensor:
    """Variance over the data of the posterior mean of each component, or of each group's probabilities.

    Where the mean has no formula it is that of the draws, and what their number adds to its variance is taken off.
    """
    try:
        variances = torch.cat([part.posterior.mean for part in parts]).var(0)
    except NotImplementedError:
        variances = z.mean(0).var(0) - z.var(0).mean(0) / z.shape[0]
    return variances.sum(-1) if is_one_hot(parts[0].posterior) else variances


def _split_kl(parts: Sequence[_Part], generator: torch.Generator) -> tuple[float, float]:
    """Mutual information and gap to the prior, with the batch's mixture of posteriors as the aggregate."""
    priors, posteriors = [part.prior for part in parts], [part.posterior for part in parts]
    z = torch.cat([draw(posterior, generator) for posterior in posteriors])
    batch = z.shape[0]
    at_first = _log_prob(priors, z[:1].expand_as(z))
    if not torch.allclose(at_first, at_first[:1].expand_as(at_first)):
        return math.nan, math.nan
    own = _log_prob(posteriors, z).double()
    # log r(z_i | x_j) for every pair: latents on a new axis on the left, one row at a time.
    pairs = torch.stack([_log_prob(posteriors, row.expand_as(z)).double() for row in z])
    aggregate = pairs.logsumexp(1) - math.log(batch)
    return float((own - aggregate).mean()), float((aggregate - _log_prob(priors, z).double()).mean())


def _log_prob(distributions: Sequence[Distribution], z: Tensor) -> Tensor:
    """Log-density of each row under the distribution that it belongs to."""
    rows = z.split([distribution.batch_shape[0] for distribution in distributions])
    return torch.cat([distribution.log_prob(value) for distribution, value in zip(distributions, rows, strict=True)])
