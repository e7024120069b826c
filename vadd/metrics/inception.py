"""The features that the FID is defined by."""

import pickle
from pathlib import Path

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from vadd.errors import ConfigError, DataError
from vadd.metrics.pixels import check_images, to_uint8
from vadd.storage.files import sha256

__all__ = ["InceptionFeatures"]

_FILE = "weights-inception-2015-12-05-6726825d.pth"
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FILE}"
_SHA256_START = "6726825d"  # as the file's name says, after torch.hub's convention
_INSTALL = "FID needs torchmetrics and torch-fidelity: pip install 'vadd[metrics]'."


class InceptionFeatures:
    """The 2,048 pooled features of the Inception network of 2015, through torchmetrics.

    A Fréchet distance in them is a FID, a kernel distance a KID. Published values depend on the number of images
    (often 50,000), the reference set and the file format of the images as well: state them. Nothing is downloaded.

    Args:
        image_shape: ``(height, width)`` or ``(height, width, channels)`` with 1 or 3 channels; grey is shown to the
            network as colour.
        num_levels: number of levels of the tokens.
        weights: file of the network's weights; default where torch-fidelity keeps it,
            ``checkpoints/weights-inception-2015-12-05-6726825d.pth`` under ``torch.hub.get_dir()``.
        device: where the network runs.
        batch_size: images that run together.

    Raises:
        ConfigError: if the packages are missing, or on sizes out of range.
        DataError: if the weights are missing or are others; it names the file and its address.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv
        1706.08500; Bińkowski et al., arXiv 1801.01401.
    """

    frechet_name = "FID"
    kernel_name = "KID"

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_levels: int,
        *,
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
    ) -> None:
        if len(image_shape) not in (2, 3) or image_shape[2:] not in ((), (1,), (3,)) or batch_size < 1:
            raise ConfigError(
                "expected images of shape (height, width), (height, width, 1) or (height, width, 3) and batch_size of "
                f"at least 1, got {tuple(image_shape)} and {batch_size}."
            )
        self.image_shape, self.num_levels = tuple(image_shape), num_levels
        self.device, self.batch_size = device, batch_size
        path = Path(torch.hub.get_dir()) / "checkpoints" / _FILE if weights is None else Path(weights)
        try:
            import torch_fidelity  # noqa: F401 - without it torchmetrics has no network
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError as error:
            raise ConfigError(_INSTALL) from error
        _verify(path)
        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(path))
        self._network = metric.inception.to(device).eval()

    @torch.no_grad()
    def features(self, tokens: Integer[Tensor, "num dim"]) -> Float[Tensor, "num columns"]:
        """One row of features an image, on the device of ``tokens``.

        Raises:
            ShapeError, DtypeError, DomainError: if tokens are no levels of such images.
        """
        check_images(tokens, self.image_shape, self.num_levels)
        return torch.cat([self._run(part).to(tokens.device).flatten(1) for part in tokens.split(self.batch_size)])

    def _run(self, tokens: Tensor) -> Tensor:
        images = to_uint8(tokens, self.image_shape, self.num_levels)
        images = images.reshape(*images.shape[:3], -1).movedim(-1, 1)  # (num, channels, height, width)
        return self._network(images.expand(-1, 3, -1, -1).to(self.device))


def _verify(path: Path) -> None:
    """Raise unless this is the file of the original weights, and loading it can execute nothing."""
    remedy = f"download {_URL} and place it at {path}, or name the file with weights="
    try:
        digest = sha256(path)
        if not digest.startswith(_SHA256_START):
            raise DataError(
                f"{path} does not hold the weights of the FID's network: its sha256 begins with {digest[:8]}, expected "
                f"{_SHA256_START}; {remedy}."
            )
        torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"the weights of the FID's network are missing: no file {path}; {remedy}.") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}; {remedy}.") from error
