"""Samplers of the reverse process."""

from vadd.samplers.ancestral import ancestral_step, sample
from vadd.samplers.latent_policy import LatentPolicy, fresh_latents, null_latents, shared_latents
from vadd.samplers.time_grid import TimeGrid, cosine_grid, uniform_grid

__all__ = [
    "LatentPolicy",
    "TimeGrid",
    "ancestral_step",
    "cosine_grid",
    "fresh_latents",
    "null_latents",
    "sample",
    "shared_latents",
    "uniform_grid",
]
