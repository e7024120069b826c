"""The statically binarized MNIST of the literature on likelihoods."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from vadd.data.images import ImageTokens, make_image_tokens
from vadd.errors import ConfigError, DataError

__all__ = ["load_binarized_mnist"]

_SIDE = 28
_DIM = _SIDE**2
_PACKED = "binarized_mnist_packed.npz"
# For each split: its name in the files, number of images, and the sha256 of the images' bits, packed row by row.
_SPLITS = {
    "train": ("train", 50_000, "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906"),
    "validation": ("valid", 10_000, "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d"),
    "test": ("test", 10_000, "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2"),
}


def load_binarized_mnist(root: str | Path, split: Literal["train", "validation", "test"] = "train") -> ImageTokens:
    """Load the fixed Bernoulli sample of MNIST that published likelihoods refer to; 28x28, 0 for paper, 1 for ink.

    Args:
        root: folder that holds ``binarized_mnist_{train,valid,test}.amat`` (text, one image a line), or
            ``binarized_mnist_packed.npz`` with arrays ``train``, ``valid`` and ``test`` of ``numpy.packbits`` rows,
            directly or in a folder ``binarized_mnist``.
        split: 50,000 training, 10,000 validation or 10,000 test images. They have no labels.

    Raises:
        ConfigError: on an unknown split.
        DataError: if there is no file, it cannot be read, or its images are not the original ones.

    References:
        Larochelle and Murray, "The neural autoregressive distribution estimator", AISTATS 2011; the sample is that of
        Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
    """
    if split not in _SPLITS:
        raise ConfigError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}.")
    name, num, sha256 = _SPLITS[split]
    path = Path(root)
    try:
        path, read = _find(path, name)
        packed = read(path, name)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Check its rights, or put the original there.") from error
    if packed.dtype != np.uint8 or packed.shape != (num, _DIM // 8):
        raise DataError(
            f"{path} must hold {num} images of {_DIM} pixels, got {packed.dtype} of shape {packed.shape} (8 pixels a "
            "byte); put the original there."
        )
    if hashlib.sha256(packed.tobytes()).hexdigest() != sha256:
        raise DataError(
            f"{path} holds other images than the published ones: likelihoods would compare with no others. Put the "
            "original there, or make tokens of your own binarization with make_image_tokens."
        )
    images = np.unpackbits(packed, axis=1).reshape(num, _SIDE, _SIDE)
    return make_image_tokens(images, num_levels=2)


def _find(root: Path, name: str) -> tuple[Path, Callable[[Path, str], np.ndarray]]:
    for folder in (root, root / "binarized_mnist"):
        for path, read in ((folder / _PACKED, _read_packed), (folder / f"binarized_mnist_{name}.amat", _read_text)):
            if path.is_file():
                return path, read
    raise DataError(
        f"no binarized MNIST: looked in {root} and {root / 'binarized_mnist'} for binarized_mnist_{name}.amat and "
        f"{_PACKED}. Point root to the folder that holds one of them."
    )


def _read_packed(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def _read_text(path: Path, name: str) -> np.ndarray:
    symbols = np.fromfile(path, np.uint8)
    symbols = symbols[(symbols != ord(" ")) & (symbols != ord("\r"))]
    if len(symbols) % (_DIM + 1):
        raise ValueError(f"its lines are not all of {_DIM} digits; is it complete?")
    lines = symbols.reshape(-1, _DIM + 1)
    bits = lines[:, :-1] - ord("0")
    if not ((lines[:, -1] == ord("\n")).all() and (bits <= 1).all()):
        raise ValueError(f"every line must hold {_DIM} times 0 or 1")
    return np.packbits(bits, axis=1)
