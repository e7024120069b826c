"""Checks for your own parts, and reference values by enumeration.

Hypothesis strategies are in ``vadd.testing.strategies``, which needs Hypothesis.
"""

from vadd.objectives import kl_mode
from vadd.testing.contracts import check_prior, check_schedule
from vadd.testing.contracts_network import check_denoiser, check_recognition
from vadd.testing.contracts_sampler import check_sampler
from vadd.testing.nodes import distribution_nodes, latent_nodes
from vadd.testing.oracle import (
    all_masks,
    all_sequences,
    exact_delbo,
    exact_finite_step_bound,
    exact_joint,
    exact_log_likelihood,
    exact_marginal_bound,
    exact_sampler_distribution,
    exact_shared_bound,
)
from vadd.testing.tiny import (
    AtomPrior,
    TabularDenoiser,
    TabularRecognition,
    exact_posterior_recognition,
    tiny_model,
)

__all__ = [
    "AtomPrior",
    "TabularDenoiser",
    "TabularRecognition",
    "all_masks",
    "all_sequences",
    "check_denoiser",
    "check_prior",
    "check_recognition",
    "check_sampler",
    "check_schedule",
    "distribution_nodes",
    "exact_delbo",
    "exact_finite_step_bound",
    "exact_joint",
    "exact_log_likelihood",
    "exact_marginal_bound",
    "exact_posterior_recognition",
    "exact_sampler_distribution",
    "exact_shared_bound",
    "kl_mode",
    "latent_nodes",
    "tiny_model",
]
