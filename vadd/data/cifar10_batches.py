"""The batch files of CIFAR-10: pickles, read only if they are the original ones."""

import hashlib
import io
import lzma
import os
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vadd.errors import DataError

__all__ = ["FOLDER", "Images", "holds_batches", "read_archive", "read_folder"]

#: Images of shape ``(num, 3, 32, 32)`` and labels of shape ``(num,)``.
Images = tuple[np.ndarray, np.ndarray]

FOLDER = "cifar-10-batches-py"

# The md5 sums of the originals, those in torchvision.datasets.CIFAR10.
_TRAIN = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
_TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}

_NUM_ROWS = 10_000
_MAX_BYTES = 40_000_000  # of a batch file; the originals have 31 million
_REPLACE = "put the original there"


def holds_batches(folder: Path) -> bool:
    """Whether any of the batch files lies in the folder itself."""
    return any(os.path.exists(folder / name) for name in (*_TRAIN, *_TEST))


def read_folder(folder: Path, train: bool) -> Images:
    """Images from the batch files of a folder.

    Raises:
        DataError: if a file is missing or not the original.
        OSError: if one cannot be read.
    """
    batches = []
    for name, md5 in (_TRAIN if train else _TEST).items():
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{name} is missing in it; {_REPLACE}") from error
        batches.append(_parse(name, content, md5))
    return _join(batches)


def read_archive(path: Path, train: bool) -> Images:
    """Images from a tar file, compressed or not, whose members lie in the folder ``cifar-10-batches-py``.

    Raises:
        DataError: if the archive is damaged or truncated, or a member is missing or not the original.
        OSError: if it cannot be read.
    """
    wanted = {f"{FOLDER}/{name}": (name, md5) for name, md5 in (_TRAIN if train else _TEST).items()}
    found: dict[str, Images] = {}
    try:
        with tarfile.open(path, "r|*") as archive:  # one pass: nothing is unpacked twice
            for member in archive:
                name, md5 = wanted.get(member.name.removeprefix("./"), ("", ""))
                file = archive.extractfile(member) if name and member.size <= _MAX_BYTES else None
                if file is not None:
                    found[name] = _parse(name, file.read(), md5)
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(f"damaged or truncated ({type(error).__name__}: {error}); {_REPLACE}") from error
    missing = [name for name, _ in wanted.values() if name not in found]
    if missing:
        raise DataError(f"it lacks {', '.join(missing)}; {_REPLACE}")
    return _join([found[name] for name, _ in wanted.values()])


def _parse(name: str, content: bytes, md5: str) -> Images:
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise DataError(f"{name} is damaged or not the original: its md5 is {actual}, expected {md5}; {_REPLACE}")
    # The bytes that were checked, not the file again.
    entry: Any = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    return entry[b"data"].reshape(_NUM_ROWS, 3, 32, 32), np.array(entry[b"labels"], dtype=np.uint8)


def _join(batches: list[Images]) -> Images:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("numpy", "dtype"):
            return _dtype
        if (module_name, global_name) == ("numpy", "ndarray"):
            return np.ndarray
        if global_name == "_reconstruct" and module_name in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        raise DataError(f"a batch file refers to {module_name}.{global_name}, which no original does; {_REPLACE}")


def _dtype(name: Any, align: int = 0, copy: int = 0) -> np.dtype:
    # Old pickles hold 0 and 1, which new versions of numpy complain of.
    return np.dtype(name.decode() if isinstance(name, bytes) else name, bool(align), bool(copy))
