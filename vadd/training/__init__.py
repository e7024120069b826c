"""Checkpoints, and a monitor of the latent."""

from vadd.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vadd.training.monitor import LatentCollapseWarning, LatentMonitor

__all__ = ["Checkpoint", "LatentCollapseWarning", "LatentMonitor", "load_checkpoint", "save_checkpoint"]
