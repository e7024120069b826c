"""Bounds on the log-likelihood and diagnostics of the latent."""

from vadd.evaluation.bounds import JumpCosts, jump_costs, log_likelihood_bound
from vadd.evaluation.diagnostics import LatentDiagnosis, diagnose_latent
from vadd.evaluation.documents import document_bound
from vadd.evaluation.gating import GateCosts, GateFit, fit_gate
from vadd.evaluation.grid import OptimizedGrid, optimize_grid
from vadd.evaluation.perplexity import Estimate, Perplexity, perplexities
from vadd.evaluation.result import BoundResult, NotABoundError
from vadd.evaluation.traversals import LatentPages, latent_pages

__all__ = [
    "BoundResult",
    "Estimate",
    "GateCosts",
    "GateFit",
    "JumpCosts",
    "LatentDiagnosis",
    "LatentPages",
    "NotABoundError",
    "OptimizedGrid",
    "Perplexity",
    "diagnose_latent",
    "document_bound",
    "fit_gate",
    "jump_costs",
    "latent_pages",
    "log_likelihood_bound",
    "optimize_grid",
    "perplexities",
]
