"""The laws that a bound's estimator obeys, as checks that raise ``AssertionError``.

Estimates of many copies of the same sequences are compared with an exact value. The standard error treats the
copies as independent; they are stratified, which only makes the true error smaller. With at least 1,000 copies
a deviation of ``THRESHOLD`` standard errors has probability below 1e-11 by the normal approximation, so that
all comparisons together stay below 1e-6. ``check_mean`` asserts its power: an error of ``EFFECT`` of the value is
caught with probability 0.999.
"""

import torch

from vadd.evaluation import log_likelihood_bound

THRESHOLD, POWER_MARGIN, EFFECT = 7.0, 3.1, 0.04


def estimates(model, guide, x_0, *, copies=2000, seed=0, **options):
    """Estimated log-probabilities, shape ``(copies, batch)``."""
    options.setdefault("rows_per_call", 8192)
    flags = {name: options.pop(name).repeat(copies, 1) for name in list(options) if name.startswith("is_")}
    result = log_likelihood_bound(model, guide, x_0.repeat(copies, 1), seed=seed, **options, **flags)
    return -result.nats_per_sequence.reshape(copies, -1)


def check_mean(draws, expected, effect=EFFECT):
    """The mean over copies is the expected value: pooled over sequences, with unequal weights."""
    weights = torch.linspace(0.5, 1.5, draws.shape[1]) / draws.shape[1]
    pooled, exact = draws @ weights, expected @ weights
    error = pooled.std() / len(pooled) ** 0.5
    assert (THRESHOLD + POWER_MARGIN) * error < effect * abs(exact), "too few draws for the stated power"
    deviation = abs(pooled.mean() - exact)
    assert deviation < THRESHOLD * error + 1e-9, f"off by {deviation / error:.1f} standard errors"


def check_never_above(draws, log_likelihood):
    """No sequence's mean lies above its log-probability, but for noise."""
    error = draws.std(0) / len(draws) ** 0.5
    excess = draws.mean(0) - log_likelihood - THRESHOLD * error
    assert (excess < 1e-9).all(), f"above the log-likelihood by {excess.max():.3g} beyond noise"
