"""Bounds on the log-likelihood and diagnostics of the latent."""

from vadd.evaluation.bounds import JumpCosts, jump_costs, log_likelihood_bound
from vadd.evaluation.diagnostics import LatentDiagnosis, diagnose_latent
from vadd.evaluation.result import BoundResult, NotABoundError

__all__ = [
    "BoundResult",
    "JumpCosts",
    "LatentDiagnosis",
    "NotABoundError",
    "diagnose_latent",
    "jump_costs",
    "log_likelihood_bound",
]
