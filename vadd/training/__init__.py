"""A training loop that survives, checkpoints, a monitor of the latent, and priors fitted after training."""

from vadd.training.aggregate import AggregateFit, fit_aggregate_prior
from vadd.training.callbacks import Callback, ProgressBar, SamplePictures, WatchLatent
from vadd.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vadd.training.config import TrainerConfig
from vadd.training.monitor import LatentCollapseWarning, LatentMonitor
from vadd.training.result import TrainingResult
from vadd.training.schedules import warmup_constant, warmup_cosine
from vadd.training.snapshots import DamagedSnapshotWarning, Snapshot, Snapshots
from vadd.training.trackers import read_metrics
from vadd.training.trainer import Trainer
from vadd.training.validation import BoundValidation
from vadd.training.warm_start import start_from_mdm

__all__ = [
    "AggregateFit",
    "BoundValidation",
    "Callback",
    "Checkpoint",
    "DamagedSnapshotWarning",
    "LatentCollapseWarning",
    "LatentMonitor",
    "ProgressBar",
    "SamplePictures",
    "Snapshot",
    "Snapshots",
    "Trainer",
    "TrainerConfig",
    "TrainingResult",
    "WatchLatent",
    "fit_aggregate_prior",
    "load_checkpoint",
    "read_metrics",
    "save_checkpoint",
    "start_from_mdm",
    "warmup_constant",
    "warmup_cosine",
]
