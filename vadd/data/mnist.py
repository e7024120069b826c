"""MNIST, binarized at a threshold, as tokens: read from the original archives through torchvision."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vadd._checks import is_integer
from vadd.data.folders import new_folder
from vadd.data.images import ImageTokens, make_image_tokens
from vadd.errors import ConfigError, DataError

__all__ = ["load_mnist_tokens"]

_SIDE = 28
_FILES = [f"{part}-{kind}-ubyte" for part in ("t10k", "train") for kind in ("images-idx3", "labels-idx1")]


def load_mnist_tokens(
    root: str | Path,
    *,
    train: bool,
    side: int = _SIDE,
    threshold: float = 0.5,
    pad: int = 0,
    download: bool = False,
) -> ImageTokens:
    """Load MNIST, reduce it by averaging squares of pixels, and binarize at a threshold.

    Args:
        root: folder with torchvision's layout, ``MNIST/raw/*-ubyte`` or the archives ``*-ubyte.gz``,
            directly or in a folder ``mnist``; or the folder that holds these files itself.
        train: the 60,000 training images, or the 10,000 test images.
        side: height and width, a divisor of 28.
        threshold: a reduced pixel is ink where its mean grey level, between 0 and 1, is at least this.
        pad: pixels of paper added on each side; 2 makes 32x32 of 28x28.
        download: fetch the archives into ``root`` where they are missing.

    Raises:
        ConfigError: on a side, a threshold or a pad out of range.
        DataError: if torchvision or the files are missing, or the files are damaged or may not be read.

    References:
        LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998.
    """
    if not is_integer(side) or _SIDE % side:
        raise ConfigError(f"side must divide {_SIDE}, got {side!r}.")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must lie in (0, 1], got {threshold}.")
    if not is_integer(pad, 0):
        raise ConfigError(f"pad must be a number of pixels, at least 0, got {pad!r}.")
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise DataError("MNIST needs torchvision: pip install 'vadd[images]'.") from error
    try:
        with _readable_root(Path(root), download) as folder:
            # Fetches nothing where the archives are there, and unpacks them.
            data = MNIST(str(folder), train=train, download=True)
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"cannot load MNIST from {root}: no permission to read or write {error.filename}; change its rights, or "
            "copy the files to a folder of yours."
        ) from error
    except Exception as error:  # torchvision raises what its parsers meet
        raise DataError(
            f"cannot load MNIST from {root}: {error}. Remove the damaged file and place the original there, "
            "or call with download=True where the network can be reached."
        ) from error
    squares = data.data.float().div(255).unfold(1, _SIDE // side, _SIDE // side).unfold(2, _SIDE // side, _SIDE // side)
    is_ink = squares.mean((-1, -2)) >= threshold
    return make_image_tokens(is_ink, data.targets, num_levels=2, pad=pad)


@contextmanager
def _readable_root(root: Path, download: bool) -> Iterator[Path]:
    """A root that torchvision can unpack into: files that lie elsewhere, or may be read-only, are copied first."""
    if os.path.isfile(root):
        raise DataError(
            f"root must be a folder, got the file {root}. Point root to the folder that holds all of MNIST."
        )
    for folder in (root, root / "mnist"):
        for raw in (folder / "MNIST" / "raw", folder):
            names = _names(raw)
            if names.issuperset(_FILES):
                if raw != folder:
                    yield folder
                    return
                files = [raw / name for name in _FILES]
            elif names.issuperset(f"{name}.gz" for name in _FILES):
                files = [raw / f"{name}.gz" for name in _FILES]
                _verify(files)
            else:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                target = Path(scratch) / "MNIST" / "raw"
                target.mkdir(parents=True)
                for file in files:
                    shutil.copy(file, target)
                yield Path(scratch)
            return
    if not download:
        raise DataError(
            f"no MNIST in {root}: expected the four files *-ubyte, or their archives *-ubyte.gz, there or in its "
            "MNIST/raw, where torchvision keeps them. Point root to them, or call with download=True."
        )
    with new_folder(root / "MNIST" / "raw"):
        yield root


def _names(folder: Path) -> set[str]:
    """Of what is in a folder; unlike ``glob`` it says so where there are no rights."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _verify(archives: list[Path]) -> None:
    """Raise a DataError unless the archives have the contents that torchvision knows; it would replace others."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity

    expected = dict(MNIST.resources)
    for archive in archives:
        if not check_integrity(str(archive), expected.get(archive.name)):
            raise DataError(f"{archive} is damaged or not the original: its md5 differs. Replace or remove it.")
