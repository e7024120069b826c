"""Pictures of samples and of training. Needs matplotlib, which is imported when a picture is made."""

from vadd.plotting.curves import training_curves
from vadd.plotting.densities import density_grid
from vadd.plotting.images import image_grid

__all__ = ["density_grid", "image_grid", "training_curves"]
