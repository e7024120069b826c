"""Bounds on the log-likelihood and diagnostics of the latent."""

from vadd.evaluation.bounds import JumpCosts, jump_costs, log_likelihood_bound
from vadd.evaluation.diagnostics import LatentDiagnosis, diagnose_latent
from vadd.evaluation.gating import GateCosts, GateFit, fit_gate
from vadd.evaluation.grid import OptimizedGrid, optimize_grid
from vadd.evaluation.result import BoundResult, NotABoundError

__all__ = [
    "BoundResult",
    "GateCosts",
    "GateFit",
    "JumpCosts",
    "LatentDiagnosis",
    "NotABoundError",
    "OptimizedGrid",
    "diagnose_latent",
    "fit_gate",
    "jump_costs",
    "log_likelihood_bound",
    "optimize_grid",
]
