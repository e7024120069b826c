"""Checkpoints, a monitor of the latent, and priors fitted after training."""

from vadd.training.aggregate import AggregateFit, fit_aggregate_prior
from vadd.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vadd.training.monitor import LatentCollapseWarning, LatentMonitor

__all__ = [
    "AggregateFit",
    "Checkpoint",
    "LatentCollapseWarning",
    "LatentMonitor",
    "fit_aggregate_prior",
    "load_checkpoint",
    "save_checkpoint",
]
