"""Samplers of the reverse process."""

from vadd.samplers.ancestral import AncestralSampler
from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.first_hitting import FirstHittingSampler
from vadd.samplers.gate import LatentGate
from vadd.samplers.latents import LatentBlocks, LatentPolicy, PosteriorLatents
from vadd.samplers.ordered import ConfidenceSampler, EntropyBoundedSampler
from vadd.samplers.remasking import PredictorCorrectorSampler, RemaskingSampler
from vadd.samplers.run import SamplerRun
from vadd.samplers.sampling import infill, sample
from vadd.samplers.shaping import Shaping
from vadd.samplers.static import StaticSampler
from vadd.samplers.time_grid import TimeGrid, cosine_grid, uniform_grid
from vadd.samplers.trajectory import Trajectory

__all__ = [
    "AncestralSampler",
    "ConfidenceSampler",
    "EntropyBoundedSampler",
    "FirstHittingSampler",
    "Jump",
    "LatentBlocks",
    "LatentGate",
    "LatentPolicy",
    "PosteriorLatents",
    "PredictorCorrectorSampler",
    "RemaskingSampler",
    "Sampler",
    "SamplerRun",
    "SamplerState",
    "Shaping",
    "StaticSampler",
    "TimeGrid",
    "Trajectory",
    "cosine_grid",
    "infill",
    "sample",
    "uniform_grid",
]
