"""Pictures of samples and of training. Needs matplotlib, which is imported when a picture is made."""

from vadd.plotting.curves import training_curves
from vadd.plotting.densities import density_grid
from vadd.plotting.images import image_grid
from vadd.plotting.latents import image_table, interpolation_page, latent_mask_page, traversal_page

__all__ = [
    "density_grid",
    "image_grid",
    "image_table",
    "interpolation_page",
    "latent_mask_page",
    "training_curves",
    "traversal_page",
]
