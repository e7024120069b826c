"""Exact values for tiny models by enumeration, to check estimators, bounds and samplers against.

Every sum over masks, revealed sets and sequences is carried out in full, in float64; the latent is summed over or
integrated as :mod:`vadd.testing.nodes` says. Cost grows as ``(V + 1)**N * 2**N``. All values are in nats per
sequence, and are log-probabilities or lower bounds: an objective's loss is their negative.

The functions need of a model ``denoise(x_t, t, z)``, ``prior(x_t, t)`` and ``process``, and of a guide
``recognition(tokens, target, t)``.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.testing.chain import exact_log_likelihood, exact_sampler_distribution
from vadd.testing.enumeration import all_masks, all_sequences, reveal_probability, token_scores
from vadd.testing.nodes import distribution_nodes, latent_nodes
from vadd.types import Distribution, Flags, PerSequence, Tokens

__all__ = [
    "all_masks",
    "all_sequences",
    "exact_delbo",
    "exact_finite_step_bound",
    "exact_joint",
    "exact_log_likelihood",
    "exact_marginal_bound",
    "exact_sampler_distribution",
    "exact_shared_bound",
]

_NUM_TIMES = 16

# What a bound earns at (x_0, is_masked, t): one value a row.
_Term = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def exact_delbo(
    model: Any,
    guide: Any,
    x_0: Tokens,
    *,
    kl_weight: float = 1.0,
    num_nodes: int | None = None,
    num_times: int = _NUM_TIMES,
) -> PerSequence:
    """The double evidence lower bound of each sequence; it bounds no log-likelihood.

    Args:
        model: the model.
        guide: the guide.
        x_0: clean sequences, shape ``(batch, dim)``.
        kl_weight: factor of the KL divergence.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.
        num_times: quadrature nodes in ``1 - alpha_t``; from ``dim / 2`` on the value is exact for networks
            that do not read ``t``.
    """

    def term(x_0: Tensor, is_masked: Tensor, t: Tensor) -> Tensor:
        fit, kl = _explain(model, guide, x_0, is_masked, is_masked, t, num_nodes)
        return fit - kl_weight * kl

    return _integrate(model, x_0, term, num_times)


@torch.no_grad()
def exact_joint(model: Any, x_0: Tokens, *, num_nodes: int | None = None, num_times: int = _NUM_TIMES) -> PerSequence:
    r"""What the DELBO bounds: :math:`\sum_n \frac1n E_{|M|=n} \log p(x_M \mid x_t)`, joint over ``M``.

    Args:
        model: the model.
        x_0: clean sequences, shape ``(batch, dim)``.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.
        num_times: as in :func:`exact_delbo`.
    """

    def term(x_0: Tensor, is_masked: Tensor, t: Tensor) -> Tensor:
        scores, log_weights = _prior_scores(model, x_0, is_masked, t, num_nodes)
        return (log_weights + _select_sum(scores, is_masked)).logsumexp(0)

    return _integrate(model, x_0, term, num_times)


@torch.no_grad()
def exact_marginal_bound(
    model: Any, x_0: Tokens, *, num_nodes: int | None = None, num_times: int = _NUM_TIMES
) -> PerSequence:
    r"""Bound of infinitely many steps: :math:`\sum_n \frac1n E_{|M|=n} \sum_{i \in M} \log E_z \mu^i`.

    Args:
        model: the model.
        x_0: clean sequences, shape ``(batch, dim)``.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.
        num_times: as in :func:`exact_delbo`.
    """

    def term(x_0: Tensor, is_masked: Tensor, t: Tensor) -> Tensor:
        scores, log_weights = _prior_scores(model, x_0, is_masked, t, num_nodes)
        return _select_sum((log_weights[..., None] + scores).logsumexp(0), is_masked)

    return _integrate(model, x_0, term, num_times)


@torch.no_grad()
def exact_finite_step_bound(
    model: Any,
    guide: Any,
    x_0: Tokens,
    *,
    num_steps: int,
    time_grid: TimeGrid | None = None,
    target: Literal["masked", "revealed"] = "masked",
    num_nodes: int | None = None,
) -> PerSequence:
    """Bound on the log-likelihood of the sampler in ``num_steps`` steps with fresh latents.

    Args:
        model: the model.
        guide: the guide.
        x_0: clean sequences, shape ``(batch, dim)``.
        num_steps: number of reverse steps ``T``.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform.
        target: whether the recognition model explains all masked tokens, or sees and explains those
            that the jump reveals.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.
    """
    grid = resolve_grid(num_steps, time_grid)
    bound = torch.zeros(len(x_0), dtype=torch.float64)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        u = reveal_probability(model, t, s)
        for is_masked, probability in _masks_at(model, t, x_0.shape[1]):
            if target == "masked":
                fit, kl = _explain(model, guide, x_0, is_masked, is_masked, t, num_nodes)
                bound += probability * (u * fit - (1 - (1 - u) ** is_masked.sum()) * kl)
                continue
            for shown in all_masks(x_0.shape[1])[1:]:
                if (shown & ~is_masked).any():
                    continue
                chance = u ** shown.sum() * (1 - u) ** (is_masked & ~shown).sum()
                fit, kl = _explain(model, guide, x_0, is_masked, shown, t, num_nodes)
                bound += probability * chance * (fit - kl)
    return bound


@torch.no_grad()
def exact_shared_bound(
    model: Any,
    guide: Any,
    x_0: Tokens,
    *,
    num_steps: int | None = None,
    time_grid: TimeGrid | None = None,
    num_nodes: int | None = None,
    num_times: int = _NUM_TIMES,
) -> PerSequence:
    """Bound on the log-likelihood of the sampler with one latent a trajectory; one KL in all.

    Args:
        model: the model.
        guide: the guide.
        x_0: clean sequences, shape ``(batch, dim)``.
        num_steps: number of reverse steps ``T``; None for infinitely many.
        time_grid: as in :func:`vadd.samplers.sample`; default uniform.
        num_nodes: as in :func:`~vadd.testing.nodes.distribution_nodes`.
        num_times: as in :func:`exact_delbo`, for infinitely many steps.
    """
    start = torch.ones(len(x_0), dtype=torch.float64)
    everywhere = torch.ones_like(x_0, dtype=torch.bool)
    posterior = guide.recognition(x_0, everywhere, start)
    prior = model.prior(torch.full_like(x_0, model.process.mask_id), start)
    z, log_weights = distribution_nodes(posterior, num_nodes)

    def term(x_0: Tensor, is_masked: Tensor, t: Tensor) -> Tensor:
        x_t = x_0.masked_fill(is_masked, model.process.mask_id)
        fit = _select_sum(token_scores(model, x_t, t.expand(len(x_0)), z, x_0), is_masked)
        return _expect(log_weights, fit)

    divergence = _divergence(posterior, prior, num_nodes)
    if num_steps is None:
        return _integrate(model, x_0, term, num_times) - divergence
    bound = -divergence
    grid = resolve_grid(num_steps, time_grid)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        u = reveal_probability(model, t, s)
        for is_masked, probability in _masks_at(model, t, x_0.shape[1]):
            bound = bound + probability * u * term(x_0, is_masked, t)
    return bound


def _integrate(model: Any, x_0: Tensor, term: _Term, num_times: int) -> Tensor:
    """Integral of ``w(t) E_q term dt``, in the variable ``m = 1 - alpha_t``, where ``w dt = dm / m``."""
    points, weights = np.polynomial.legendre.leggauss(num_times)
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for masked, weight in zip((points + 1) / 2, weights / 2, strict=True):
        t = model.process.schedule.time_of(torch.tensor(masked, dtype=torch.float64))
        for is_masked in all_masks(x_0.shape[1])[1:]:
            n = int(is_masked.sum())
            density = masked ** (n - 1) * (1 - masked) ** (x_0.shape[1] - n)
            total += weight * density * term(x_0, is_masked, t)
    return total


def _masks_at(model: Any, t: Tensor, dim: int) -> list[tuple[Tensor, Tensor]]:
    """The non-empty sets of masked positions at time ``t``, with their probabilities."""
    alpha = model.process.schedule.alpha(t)
    return [
        (is_masked, (1 - alpha) ** is_masked.sum() * alpha ** (~is_masked).sum()) for is_masked in all_masks(dim)[1:]
    ]


def _explain(
    model: Any, guide: Any, x_0: Tensor, is_masked: Tensor, target: Tensor, t: Tensor, num_nodes: int | None
) -> tuple[Tensor, Tensor]:
    """``E_r log p(x_S | x_t, z)`` and ``KL(r || p)``, where ``r`` reads and explains the target ``S``."""
    mask_id, times = model.process.mask_id, t.expand(len(x_0))
    x_t = x_0.masked_fill(is_masked, mask_id)
    x_s = x_0.masked_fill(is_masked & ~target, mask_id)
    posterior = guide.recognition(x_s, target.expand(x_0.shape), times)
    z, log_weights = distribution_nodes(posterior, num_nodes)
    fit = _select_sum(token_scores(model, x_t, times, z, x_0), target)
    return _expect(log_weights, fit), _divergence(posterior, model.prior(x_t, times), num_nodes)


def _divergence(posterior: Distribution, prior: Distribution, num_nodes: int | None) -> Tensor:
    """``KL(r || p)``; exact also for two normals, whose log-ratio is quadratic."""
    z, log_weights = distribution_nodes(posterior, num_nodes)
    return _expect(log_weights, (posterior.log_prob(z) - prior.log_prob(z)).double())


def _expect(log_weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sum over nodes; nodes of weight zero do not count, whatever their value."""
    return torch.where(log_weights > -torch.inf, log_weights.exp() * values, 0.0).sum(0)


def _prior_scores(
    model: Any, x_0: Tensor, is_masked: Tensor, t: Tensor, num_nodes: int | None
) -> tuple[Tensor, Tensor]:
    x_t, times = x_0.masked_fill(is_masked, model.process.mask_id), t.expand(len(x_0))
    z, log_weights = latent_nodes(model, x_t, times, num_nodes)
    return token_scores(model, x_t, times, z, x_0), log_weights


def _select_sum(scores: Tensor, where: Flags | Tensor) -> Tensor:
    """Sum over the positions of one set; selected first, so that nothing elsewhere matters."""
    return scores[..., where].sum(-1)
