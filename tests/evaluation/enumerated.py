"""Expected values of the importance-weighted estimators, by enumeration of everything that they draw.

The expectation of a log-mean over ``K`` draws is a sum over ``K``-tuples of the latent's atoms, or of quadrature
nodes where it is normal. Masks, revealed sets, and whole trajectories are enumerated as well. Nothing here uses
the code that it is compared with: only the networks and the schedule of a model are called.
"""

import itertools
import math

import numpy as np
import torch

from vadd import RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition
from vadd.backbones.base import Denoiser, Recognition
from vadd.priors import LatentPrior
from vadd.samplers.time_grid import resolve_grid
from vadd.testing import (
    AtomPrior,
    TabularRecognition,
    all_masks,
    all_sequences,
    exact_log_likelihood,
    exact_posterior_recognition,
)
from vadd.testing.oracle import distribution_nodes

ATOMS = [-1.0, 0.5, 2.0]
NODES = 40  # for a normal latent: off by less than 1e-3
NUM_TIMES = 8  # more than enough for networks that do not read the time


def guide_for(model, *, explains="masked", scale=1.0, seed=11, is_exact=False):
    """A recognition model of the family that fits the model's prior: random, or the exact posterior."""
    if not model.has_latent:
        return RecognitionGuide(EmptyRecognition(), explains=explains)
    if is_exact:
        return RecognitionGuide(exact_posterior_recognition(model), explains=explains)
    atoms = model.prior.atoms.tolist() if isinstance(model.prior, AtomPrior) else None
    sizes = (model.process.vocab_size, model.denoiser.num_tokens)
    return RecognitionGuide(TabularRecognition(*sizes, atoms=atoms, scale=scale, seed=seed), explains=explains)


def sequences_of(model):
    return all_sequences(model.process.vocab_size, model.denoiser.num_tokens)


def expected_log_mean(sources, num_latents):
    """``E log 1/K sum_k ratio_k exp(scores_k)``, the ``K`` draws divided equally between the sources.

    A source is its nodes' log-weights, scores and log-ratios of densities: nodes first, then the batch;
    scores may have further axes.
    """
    slots = [source for source in sources for _ in range(num_latents // len(sources))]
    index = all_sequences(len(slots[0][0]), num_latents)
    extra = [1] * (slots[0][1].ndim - slots[0][0].ndim)
    log_probability = sum(log_w[index[:, k]] for k, (log_w, _, _) in enumerate(slots))
    values = [(scores + ratio.reshape(*ratio.shape, *extra))[index[:, k]] for k, (_, scores, ratio) in enumerate(slots)]
    log_mean = torch.stack(values).logsumexp(0) - math.log(num_latents)
    return (log_probability.exp().reshape(*log_probability.shape, *extra) * log_mean).sum(0)


def _sources(model, prior, posterior, proposal, score):
    """Where draws come from: nodes with their log-weights, scores, and log-ratios ``p(z) / q(z)``."""
    if not model.has_latent:
        z, log_w = distribution_nodes(prior)
        return [(log_w, score(z), torch.zeros_like(log_w))]
    log_q = {
        "guide": posterior.log_prob,
        "prior": prior.log_prob,
        "mixture": lambda z: torch.logaddexp(posterior.log_prob(z), prior.log_prob(z)) - math.log(2),
    }[proposal]
    sources = []
    for source in {"guide": [posterior], "prior": [prior], "mixture": [posterior, prior]}[proposal]:
        z, log_w = distribution_nodes(source, NODES)
        sources.append((log_w, score(z), prior.log_prob(z) - log_q(z)))
    return sources


@torch.no_grad()
def _jump(model, guide, x_0, is_masked, shown, t, proposal):
    mask_id, times = model.process.mask_id, torch.full((len(x_0),), float(t))
    x_t = x_0.masked_fill(is_masked, mask_id)
    if guide.explains == "masked":
        tokens, target = x_0, is_masked
    else:
        tokens, target = x_0.masked_fill(is_masked & ~shown, mask_id), shown
    posterior = guide.recognition(tokens, target.expand(x_0.shape), times)
    return _sources(model, model.prior(x_t, times), posterior, proposal, lambda z: _scores(model, x_t, times, z, x_0))


def _scores(model, x_t, times, z, x_0):
    log_mu = model.denoise(x_t, times, z).logits.log_softmax(-1)
    log_mu = log_mu.reshape(-1, *log_mu.shape[-3:])
    return log_mu.gather(-1, x_0.expand(log_mu.shape[:-1])[..., None])[..., 0]


def _select(sources, reduce):
    return [(log_w, reduce(scores), ratio) for log_w, scores, ratio in sources]


def joint_value(model, guide, x_0, is_masked, shown, t, num_latents=1, proposal="guide"):
    """Expected estimate of the log-probability of the tokens of ``shown`` together."""
    sources = _jump(model, guide, x_0, is_masked, shown, t, proposal)
    return expected_log_mean(_select(sources, lambda scores: scores[..., shown].sum(-1)), num_latents)


def marginal_value(model, guide, x_0, is_masked, t, num_latents=1, proposal="prior"):
    """The same for each masked token apart, summed."""
    sources = _jump(model, guide, x_0, is_masked, is_masked, t, proposal)
    return expected_log_mean(_select(sources, lambda scores: scores[..., is_masked]), num_latents).sum(-1)


def jumps_of(model, num_steps, time_grid=None):
    """Times ``t`` and ``s`` with the mask probabilities at them."""
    grid = resolve_grid(num_steps, time_grid)
    masked = model.process.schedule.mask_probability(grid)
    return list(zip(grid[:-1], grid[1:], masked[:-1], masked[1:], strict=True))


def jump_value(model, guide, x_0, jump, num_latents=1, proposal="guide"):
    """Expected cost of one jump: a sum over what is masked and what is revealed."""
    t, _, m_t, m_s = jump
    total, dim = torch.zeros(len(x_0)), x_0.shape[1]
    for is_masked, shown in itertools.product(all_masks(dim)[1:], repeat=2):
        if (shown & ~is_masked).any():
            continue
        hidden, kept = (is_masked & ~shown).sum(), (~is_masked).sum()
        chance = (m_t - m_s) ** shown.sum() * m_s**hidden * (1 - m_t) ** kept
        total += chance * joint_value(model, guide, x_0, is_masked, shown, t, num_latents, proposal)
    return total


def finite_step_value(model, guide, x_0, num_steps, time_grid=None, **options):
    return sum(jump_value(model, guide, x_0, jump, **options) for jump in jumps_of(model, num_steps, time_grid))


def by_count_value(model, x_0, term, count=None):
    r"""``sum_n 1/n E_{|M|=n} term(M, t)`` with ``1-alpha_t ~ Beta(n, N-n+1)``.

    With a count ``E_{|M|=count} term(M, t)`` at the one time whose mask probability is the share masked.
    """
    dim = x_0.shape[1]
    if count is not None:
        t = model.process.schedule.time_of(torch.tensor(count / dim))
        terms = [term(is_masked, t) for is_masked in all_masks(dim) if int(is_masked.sum()) == count]
        return torch.stack(terms).mean(0)
    points, weights = np.polynomial.legendre.leggauss(NUM_TIMES)
    total = torch.zeros(len(x_0))
    for is_masked in all_masks(dim)[1:]:
        n = int(is_masked.sum())
        # w(t) dt = dm / m: the density below is that of all sets at once, its integral 1 / (n choose(N, n)).
        for masked, weight in zip((points + 1) / 2, weights / 2, strict=True):
            t = model.process.schedule.time_of(torch.tensor(masked))
            density = masked ** (n - 1) * (1 - masked) ** (dim - n)
            total += weight * density * term(is_masked, t)
    return total


def value_of(model, guide, x_0, bound, *, num_steps=None, time_grid=None, num_latents=1, proposal=None, count=None):
    """Expected value of ``-log_likelihood_bound`` with the same options."""
    options = {
        "num_latents": num_latents,
        "proposal": proposal or ("prior" if bound == "marginal" else "guide"),
    }
    if bound == "finite-step":
        return finite_step_value(model, guide, x_0, num_steps, time_grid, **options)
    if bound == "shared-latent":
        return shared_value(model, guide, x_0, num_steps, time_grid, **options)

    def term(is_masked, t):
        if bound == "marginal":
            return marginal_value(model, guide, x_0, is_masked, t, **options)
        if bound == "continuous":
            ((log_w, scores, ratio),) = _jump(model, guide, x_0, is_masked, is_masked, t, "guide")
            return (log_w.exp() * (scores[..., is_masked].sum(-1) + is_masked.sum() * ratio)).sum(0)
        return joint_value(model, guide, x_0, is_masked, is_masked, t, **options)

    return by_count_value(model, x_0, term, count if bound == "conditional" else None)


def trajectories(model, dim, num_steps, time_grid=None):
    """Ways to reveal ``dim`` positions: a list of ``(t, masked set, revealed set)``, and its probability.

    Infinitely many steps (None) reveal one position at a time in any order; networks must not read ``t``.
    """
    if num_steps is None:
        orders = list(itertools.permutations(range(dim)))
        for order in orders:
            steps = []
            for j, i in enumerate(order):
                is_masked, shown = torch.zeros(dim, dtype=torch.bool), torch.zeros(dim, dtype=torch.bool)
                is_masked[list(order[j:])], shown[i] = True, True
                steps.append((0.5, is_masked, shown))
            yield steps, 1 / len(orders)
        return
    jumps = jumps_of(model, num_steps, time_grid)
    for choice in itertools.product(range(num_steps), repeat=dim):
        revealed_at = torch.tensor(choice)
        steps = [(jumps[j][0], revealed_at >= j, revealed_at == j) for j in sorted(set(choice))]
        yield steps, math.prod(float(jumps[j][2] - jumps[j][3]) for j in choice)


@torch.no_grad()
def _start(model, guide, x_0, proposal, score):
    ones, everywhere = torch.ones(len(x_0)), torch.ones_like(x_0, dtype=torch.bool)
    prior = model.prior(torch.full_like(x_0, model.process.mask_id), ones)
    return _sources(model, prior, guide.recognition(x_0, everywhere, ones), proposal, score)


@torch.no_grad()
def _trajectory_scores(model, x_0, z, steps):
    total = 0.0
    for t, is_masked, shown in steps:
        x_t, times = x_0.masked_fill(is_masked, model.process.mask_id), torch.full((len(x_0),), float(t))
        total = total + _scores(model, x_t, times, z, x_0)[..., shown].sum(-1)
    return total


def shared_value(model, guide, x_0, num_steps, time_grid=None, *, num_latents=1, proposal="guide"):
    """Latents and trajectories are drawn together: each pair is a node."""
    paths = list(trajectories(model, x_0.shape[1], num_steps, time_grid))
    log_chance = torch.tensor([math.log(probability) for _, probability in paths])

    def score(z):
        return torch.stack([_trajectory_scores(model, x_0, z, steps) for steps, _ in paths])

    sources = [
        (
            (log_chance[:, None, None] + log_w).flatten(0, 1),
            scores.flatten(0, 1),
            ratio.expand(scores.shape).flatten(0, 1),
        )
        for log_w, scores, ratio in _start(model, guide, x_0, proposal, score)
    ]
    return expected_log_mean(sources, num_latents)


def infinite_log_likelihood(model, x_0, latents="fresh"):
    """Log-probability of the sampler in infinitely many steps, for networks that do not read ``t``."""
    guide, parts = guide_for(model), []
    for steps, probability in trajectories(model, x_0.shape[1], None):
        if latents == "shared":
            score = lambda z, steps=steps: _trajectory_scores(model, x_0, z, steps)  # noqa: E731
            ((log_w, scores, _),) = _start(model, guide, x_0, "prior", score)
            value = (log_w + scores).logsumexp(0)
        else:
            value = 0.0
            for t, is_masked, shown in steps:
                ((log_w, scores, _),) = _jump(model, guide, x_0, is_masked, shown, t, "prior")
                value = value + (log_w + scores[..., shown].sum(-1)).logsumexp(0)
        parts.append(value + math.log(probability))
    return torch.stack(parts).logsumexp(0)


def exact_log_likelihood_of(model, x_0, bound, num_steps, time_grid=None):
    """Log-probability of the sampler that a bound names."""
    latents = "shared" if bound == "shared-latent" else "fresh"
    if num_steps is None:
        return infinite_log_likelihood(model, x_0, latents)
    return exact_log_likelihood(model, x_0, num_steps=num_steps, time_grid=time_grid, latents=latents)


class _PinnedDenoiser(Denoiser):
    def __init__(self, whole):
        super().__init__()
        self.whole, self.vocab_size = whole, whole.model.process.vocab_size
        self.latent_shape, self.num_tokens = whole.model.latent_shape, int(whole.is_free.sum())

    def forward(self, x_t, t, z, **options):
        logits = self.whole.model.denoiser(self.whole.fill(x_t), t, z, **self.whole.options(x_t))
        return logits[:, self.whole.is_free]


class _PinnedPrior(LatentPrior):
    def __init__(self, whole):
        super().__init__()
        self.whole, self.latent_shape = whole, whole.model.latent_shape

    def forward(self, x_t, t, **options):
        return self.whole.model.prior(self.whole.fill(x_t), t, **self.whole.options(x_t))


class _PinnedRecognition(Recognition):
    def __init__(self, whole, guide):
        super().__init__()
        self.whole, self.recognition, self.latent_shape = whole, guide.recognition, guide.latent_shape

    def forward(self, tokens, target, t, **options):
        where = self.whole.is_free.expand(len(tokens), -1).clone()
        where[:, self.whole.is_free] = target
        return self.recognition(self.whole.fill(tokens), where, t, **self.whole.options(tokens))


class Pinned:
    """A model of whole sequences as one of the free tokens alone, given the others.

    Args:
        model, guide: the pair of whole sequences.
        template: tokens at the given positions, shape ``(dim,)``.
        is_frozen, is_padding: those positions, shape ``(dim,)``.
    """

    def __init__(self, model, guide, template, is_frozen, is_padding):
        self.model, self.template, self.is_padding = model, template, is_padding
        self.is_free = ~(is_frozen | is_padding)
        self.pinned = VADDModel(_PinnedDenoiser(self), _PinnedPrior(self), model.process)
        self.guide = RecognitionGuide(_PinnedRecognition(self, guide), explains=guide.explains)

    def fill(self, tokens):
        whole = self.template.repeat(len(tokens), 1)
        whole[:, self.is_free] = tokens
        return whole

    def options(self, tokens):
        return {"is_padding": self.is_padding.expand(len(tokens), -1)} if self.is_padding.any() else {}
