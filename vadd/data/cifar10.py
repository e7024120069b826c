"""CIFAR-10 as tokens, from whatever form of it there is."""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vadd._checks import is_integer
from vadd.data.cifar10_batches import FOLDER, Images, holds_batches, read_archive, read_folder
from vadd.data.folders import new_folder
from vadd.data.images import ImageTokens, make_image_tokens
from vadd.errors import ConfigError, DataError

__all__ = ["load_cifar10_tokens"]

_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.xz")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
_SUBSET = "cifar10_subset.npz"
_COUNT = {True: 50_000, False: 10_000}  # by train
_SUBSET_COUNT = {True: 10_000, False: 2_000}
_COMMON = 2_000  # so many images at its beginning are those of the whole set
_NUM_CLASSES = 10


def load_cifar10_tokens(
    root: str | Path, *, train: bool, num: int | None = None, subset: bool = False, download: bool = False
) -> ImageTokens:
    """Load CIFAR-10: images of 32x32 pixels with 3 channels (red, green, blue) of 256 levels, as ``uint8`` tokens.

    Looked for, in ``root`` and in a folder ``cifar10`` there: the folder ``cifar-10-batches-py``, or its files
    ``data_batch_1`` and so on, the archives ``cifar-10-python.tar.gz`` (as torchvision keeps it and the folder) and
    ``cifar-10-batches-py.tar.xz``, and the first images in ``cifar10_subset.npz``. Archives are read where they lie;
    nothing is unpacked, and folders may be read-only. The batch files are pickles: a file is read only if its md5 is
    the original's (the sums that torchvision checks), and even then nothing but arrays is built from it.

    Args:
        root: folder, or one of these archives or ``cifar10_subset.npz`` itself.
        train: the 50,000 training images, or the 10,000 test images.
        num: the first so many alone.
        subset: whether to read ``cifar10_subset.npz``, 2,000 images of each training batch or the first 2,000 test
            images. Without it that file serves only for ``num`` up to 2,000, where it holds the same images.
        download: fetch ``cifar-10-python.tar.gz`` into ``root`` (170 MB, through torchvision) where nothing else works.

    Returns:
        Images and their labels 0 to 9; :meth:`ImageTokens.dataset <vadd.data.ImageTokens.dataset>` gives them to the
        Trainer.

    Raises:
        ConfigError: if ``num`` is out of range.
        DataError: if nothing that works was found; it says what was looked for, and what is wrong with what was found.

    References:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    largest = (_SUBSET_COUNT if subset else _COUNT)[train]
    if num is not None and not (is_integer(num) and num <= largest):
        raise ConfigError(f"num must lie between 1 and {largest}, got {num!r}.")
    root = Path(root)
    if os.path.isfile(root):
        return _load_file(root, train, num, subset)
    problems: list[str] = []
    for path, read in _sources(root, num, subset):
        try:
            if path.stat():  # unlike exists(), it says so where there are no rights
                return _as_tokens(*read(path, train), num)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (DataError, OSError) as error:
            problems.append(f"{path}: {_text(error)}")
    if download and not subset:
        try:
            return _as_tokens(*read_archive(_fetch(root), train), num)
        except (DataError, OSError) as error:
            problems.append(f"download into {root}: {_text(error)}")
    raise DataError(_message(root, problems, subset, download))


def _load_file(path: Path, train: bool, num: int | None, subset: bool) -> ImageTokens:
    """Images of the one file that ``root`` is; nothing else is looked for, and nothing downloaded."""
    is_small = path.suffix == ".npz"
    if not is_small and not path.name.endswith(_TAR):
        raise DataError(
            f"root must be a folder, {', '.join(_ARCHIVES)} or {_SUBSET}, got the file {path}. Point root to one of "
            "these archives, or to the folder that holds one."
        )
    if subset and not is_small:
        raise DataError(f"subset=True reads {_SUBSET}, and root is {path}: point root to that file, or drop subset.")
    if is_small and not subset and (num is None or num > _COMMON):
        raise DataError(
            f"{path} has but a part of CIFAR-10: pass subset=True for its images, or num of at most {_COMMON}, or "
            "point root to an archive of the whole set."
        )
    try:
        return _as_tokens(*(_read_subset if is_small else read_archive)(path, train), num)
    except (DataError, OSError) as error:
        raise DataError(f"no usable CIFAR-10 in {path}: {_text(error)}.") from error


def _sources(root: Path, num: int | None, subset: bool) -> list[tuple[Path, Callable[[Path, bool], Images]]]:
    """What to look for, in this order, with the function that reads it."""
    folders = (root, root / "cifar10")
    small = [(folder / _SUBSET, _read_subset) for folder in folders]
    if subset:
        return small
    whole = [(folder / FOLDER, read_folder) for folder in folders]
    whole += [(folder, read_folder) for folder in folders if holds_batches(folder)]
    packed = [(folder / name, read_archive) for name in _ARCHIVES for folder in folders]
    # The small file first where it holds the same images: reading an archive takes half a minute.
    return [*whole, *(small if num is not None and num <= _COMMON else []), *packed]


def _read_subset(path: Path, train: bool) -> Images:
    names = ("x_train", "y_train") if train else ("x_test", "y_test")
    expected = ((_SUBSET_COUNT[train], 3, 32, 32), (_SUBSET_COUNT[train],))
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = (arrays[name] for name in names)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"damaged, or not the file it is named after ({error}); put the original there") from error
    if (images.shape, labels.shape) != expected or {images.dtype, labels.dtype} != {np.dtype(np.uint8)}:
        raise DataError(
            f"expected uint8 arrays {names[0]} and {names[1]} of shapes {expected[0]} and {expected[1]}, got "
            f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}; put the original there"
        )
    return images, labels


def _as_tokens(images: np.ndarray, labels: np.ndarray, num: int | None) -> ImageTokens:
    if labels.max() >= _NUM_CLASSES:
        raise DataError(f"labels must lie in [0, {_NUM_CLASSES}), got up to {labels.max()}; put the original there")
    return make_image_tokens(images[:num], labels[:num], num_levels=256, channels="first", dtype=torch.uint8)


def _fetch(root: Path) -> Path:
    """The archive, downloaded and checked by torchvision."""
    try:
        from torchvision.datasets import CIFAR10, utils
    except ImportError as error:
        raise DataError("a download needs torchvision: pip install 'vadd[images]'") from error
    with new_folder(root):
        try:
            utils.download_url(CIFAR10.url, str(root), CIFAR10.filename, CIFAR10.tgz_md5)
        except PermissionError:
            raise
        except Exception as error:  # the network's errors are of many kinds
            raise DataError(
                f"{type(error).__name__}: {error} (can {CIFAR10.url} be reached from here? If not, copy the file there)"
            ) from error
    return root / CIFAR10.filename


def _text(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read or write it; change its rights or copy it to a folder of yours"
    return str(error)


def _message(root: Path, problems: list[str], subset: bool, download: bool) -> str:
    wanted = _SUBSET if subset else f"{FOLDER}/, {_ARCHIVES[0]}, {_ARCHIVES[1]} (or {_SUBSET} for num up to {_COMMON})"
    lines = [f"no usable CIFAR-10: looked in {root} and {root / 'cifar10'} for {wanted}."]
    lines += [f"- {problem}." for problem in problems]
    if not root.is_dir():
        lines.append(f"- {root} is no folder, or cannot be entered.")
    elif not problems:
        lines.append("- none of them is there.")
    smalls = [folder / _SUBSET for folder in (root, root / "cifar10")]
    broken = [path for path in smalls for text in problems if text.startswith(f"{path}:")]
    others = [path for path in smalls if path not in broken and os.access(path, os.R_OK)]
    if others and not subset:
        lines.append(f"{others[0]} is there: pass subset=True for its images, or num of at most {_COMMON}.")
    remedy = "Point root to the folder that holds one of these"
    lines.append(f"{remedy}." if download or subset else f"{remedy}, or pass download=True where there is a network.")
    return "\n".join(lines)
