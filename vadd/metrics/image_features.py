"""Distances between sets of images, under the names that their feature networks allow."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Integer
from torch import Tensor

from vadd.errors import ConfigError
from vadd.metrics.frechet import frechet_distance
from vadd.metrics.kernel import kernel_distance

__all__ = ["ImageDistances", "ImageFeatures", "image_distances"]


@runtime_checkable
class ImageFeatures(Protocol):
    """A network whose features tell images apart: :class:`InceptionFeatures`, :class:`ImageClassifier` or your own.

    Attributes:
        frechet_name: what a Fréchet distance in these features may be called.
        kernel_name: what a kernel distance may be called.
    """

    frechet_name: str
    kernel_name: str

    def features(self, tokens: Integer[Tensor, "num dim"]) -> Float[Tensor, "num columns"]:
        """One row of features an image."""
        ...


@dataclass(frozen=True)
class ImageDistances:
    """Fréchet and kernel distance, with the names to give them.

    Attributes:
        frechet: squared Fréchet distance, at least 0.
        kernel: unbiased squared kernel distance; about 0 between alike sets, and below by chance.
        frechet_name, kernel_name: "FID" and "KID" for the Inception network's features, and for no others.
        num_real, num_fake: images compared. Fréchet distances compare at equal numbers only.
    """

    frechet: float
    kernel: float
    frechet_name: str
    kernel_name: str
    num_real: int
    num_fake: int

    def as_dict(self) -> dict[str, float]:
        """The distances by name, for tables and reports."""
        return {self.frechet_name: self.frechet, self.kernel_name: self.kernel}

    def __str__(self) -> str:
        return (
            f"{self.frechet_name} {self.frechet:.4g}, {self.kernel_name} {self.kernel:.4g} "
            f"({self.num_fake} images against {self.num_real})"
        )


def image_distances(
    network: ImageFeatures, real: Integer[Tensor, "num_real dim"], fake: Integer[Tensor, "num_fake dim"]
) -> ImageDistances:
    """Compare samples with data. Give the distance between two real sets of these sizes beside it.

    Args:
        network: makes the features.
        real: tokens of data.
        fake: tokens of samples.

    Raises:
        ConfigError: if ``network`` makes no features.
        ShapeError, DtypeError, DomainError, NonFiniteError: on images or features that are not as expected.
    """
    if not isinstance(network, ImageFeatures):
        raise ConfigError(
            f"network must have a method features and the attributes frechet_name and kernel_name, got "
            f"{type(network).__name__}."
        )
    a, b = network.features(real), network.features(fake)
    return ImageDistances(
        frechet_distance(a, b), kernel_distance(a, b), network.frechet_name, network.kernel_name, len(real), len(fake)
    )
