"""Comparison of samples with an enumerated law, and laws of samplers that are Markov chains on partly masked sequences.

Every comparison is a chi-square test over all sequences, of 20,000 draws with a fixed seed, at a false-alarm rate of
1.5e-8; there are some 300 of them, together below 5e-6. Comparisons of 4,000 draws (posterior latents, candidates)
catch biases of 0.17, all others those named here. A wrong law is caught with probability 0.999 if its
probabilities differ from the right ones by :data:`SMALLEST_BIAS`, root mean square and relative, weighted by the
right probabilities: ``sum_x p(x) (q(x) / p(x) - 1)^2 = SMALLEST_BIAS^2``. ``test_the_comparison_catches_what_it_says``
checks that figure.
"""

import itertools

import torch
from scipy import stats

from vadd.testing import all_sequences, latent_nodes

VOCAB, LENGTH = 2, 3
DRAWS = 20_000
FALSE_ALARM = 1.5e-8
SMALLEST_BIAS = 0.075

_EXPECTED_PRECISION = 1e-9


def frequencies(x):
    place = VOCAB ** torch.arange(x.shape[1] - 1, -1, -1)
    return (x * place).sum(-1).bincount(minlength=VOCAB ** x.shape[1]).double()


def statistic(x, expected):
    """The chi-square statistic over possible sequences, and its degrees of freedom; impossible ones must not come."""
    observed, is_possible = frequencies(x), expected > 1e-12
    assert observed[~is_possible].sum() == 0
    observed, expected = observed[is_possible], len(x) * expected[is_possible]
    return float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1


def check_law(x, expected, *, not_law=None):
    """Samples have the law; ``not_law`` is another one that this comparison must be able to tell from it."""
    assert abs(float(expected.sum()) - 1) < _EXPECTED_PRECISION
    value, freedom = statistic(x, expected)
    threshold = stats.chi2.isf(FALSE_ALARM, freedom)
    assert value < threshold, f"chi-square {value:.1f} at {freedom} degrees of freedom, allowed {threshold:.1f}"
    if not_law is not None:
        is_possible = expected > 1e-12
        distance = float((len(x) * (not_law - expected)[is_possible] ** 2 / expected[is_possible]).sum())
        assert stats.ncx2.sf(threshold, freedom, distance) > 0.999, f"noncentrality {distance:.1f}"


# Chains: a transition maps a tuple of tokens, VOCAB where masked, to a dictionary of such with their probabilities.


def law_of(transitions, start=(VOCAB,) * LENGTH):
    """Probabilities of all sequences after the transitions, one after another."""
    law = {start: 1.0}
    for transition in transitions:
        after = {}
        for state, probability in law.items():
            for following, chance in transition(state).items():
                after[following] = after.get(following, 0.0) + probability * chance
        law = after
    return torch.tensor([law.get(tuple(x), 0.0) for x in all_sequences(VOCAB, LENGTH).tolist()], dtype=torch.float64)


def with_latents(model, transition, t):
    """The transition averaged over fresh latents; it takes a state and token probabilities ``(dim, V)``."""

    def averaged(state):
        x_t, times = torch.tensor([state]), torch.tensor([float(t(state) if callable(t) else t)], dtype=torch.float64)
        z, log_weights = latent_nodes(model, x_t, times)
        probabilities = model.denoise(x_t, times, z).logits[:, 0].double().softmax(-1).detach()
        total = {}
        for weight, given in zip(log_weights[:, 0].exp().tolist(), probabilities, strict=True):
            for following, chance in transition(state, given).items():
                total[following] = total.get(following, 0.0) + weight * chance
        return total

    return averaged


def independent(state, choices):
    """All combinations of what each position may become; ``choices`` are dictionaries from token to probability."""
    result = {}
    for tokens in itertools.product(*(choice.items() for choice in choices)):
        chance = 1.0
        for _, probability in tokens:
            chance *= probability
        key = tuple(token for token, _ in tokens)
        result[key] = result.get(key, 0.0) + chance
    return result


def reveal(state, probabilities, target):
    """Draw the tokens of the target positions, keep the others."""
    return independent(
        state,
        [dict(enumerate(probabilities[i].tolist())) if i in target else {token: 1.0} for i, token in enumerate(state)],
    )
