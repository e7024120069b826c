"""Bounds on the log-likelihood and diagnostics of the latent."""

from vadd.evaluation.bounds import JumpCosts, jump_costs, log_likelihood_bound
from vadd.evaluation.diagnostics import LatentDiagnosis, diagnose_latent
from vadd.evaluation.gating import GateCosts, GateFit, fit_gate
from vadd.evaluation.grid import OptimizedGrid, optimize_grid
from vadd.evaluation.result import BoundResult, NotABoundError
from vadd.evaluation.traversals import LatentPages, latent_pages

__all__ = [
    "BoundResult",
    "GateCosts",
    "GateFit",
    "JumpCosts",
    "LatentDiagnosis",
    "LatentPages",
    "NotABoundError",
    "OptimizedGrid",
    "diagnose_latent",
    "fit_gate",
    "jump_costs",
    "latent_pages",
    "log_likelihood_bound",
    "optimize_grid",
]
