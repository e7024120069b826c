"""MNIST through torchvision: from real files where VADD_DATA names them, and every way in which files can be wrong."""

import gzip
import hashlib
import shutil
import struct

import jaxtyping
import pytest
import torch

from vadd.data import load_mnist_tokens
from vadd.errors import ConfigError, DataError

pytest.importorskip("torchvision")


def test_reads_the_real_test_images(data_root):
    data = load_mnist_tokens(data_root, train=False)
    assert data.tokens.shape == (10_000, 784)
    assert data.image_shape == (28, 28)
    assert data.tokens.unique().tolist() == [0, 1]
    assert data.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_reduction_averages_squares(data_root):
    raw = data_root / "mnist" / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    pixels = torch.tensor(list(gzip.open(raw).read()[16 : 16 + 784 * 20]), dtype=torch.float64)
    squares = pixels.reshape(20, 14, 2, 14, 2).mean((2, 4)) / 255
    data = load_mnist_tokens(data_root, train=False, side=14)
    assert data.tokens.shape == (10_000, 196)
    assert torch.equal(data.tokens[:20], (squares >= 0.5).long().flatten(1))
    more_ink = load_mnist_tokens(data_root, train=False, side=14, threshold=0.25)
    assert bool((more_ink.tokens >= data.tokens).all())
    assert more_ink.tokens.sum() > data.tokens.sum()


def test_leaves_a_read_only_folder_as_it_was(data_root):
    raw = data_root / "mnist" / "MNIST" / "raw"
    before = sorted(path.name for path in raw.iterdir())
    load_mnist_tokens(data_root, train=False, side=7)
    assert sorted(path.name for path in raw.iterdir()) == before


def test_damaged_archive_is_named(data_root, tmp_path):
    copy = tmp_path / "MNIST" / "raw"
    shutil.copytree(data_root / "mnist" / "MNIST" / "raw", copy)
    archive = copy / "t10k-images-idx3-ubyte.gz"
    archive.chmod(0o644)
    archive.write_bytes(archive.read_bytes()[:-1000])
    (tmp_path / "MNIST").chmod(0o755)
    for path in copy.iterdir():
        if not path.name.startswith("t10k-images") and not path.name.endswith(".gz"):
            path.unlink()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz is damaged"):
        load_mnist_tokens(tmp_path, train=False)


def test_damaged_unpacked_file_is_an_error(data_root, tmp_path):
    copy = tmp_path / "MNIST" / "raw"
    copy.mkdir(parents=True)
    for archive in (data_root / "mnist" / "MNIST" / "raw").glob("*.gz"):
        (copy / archive.stem).write_bytes(gzip.open(archive).read()[:-1000])
    with pytest.raises(DataError, match="cannot load MNIST"):
        load_mnist_tokens(tmp_path, train=False)


def write_small(folder, unpacked):
    """Four images for each split, in files of MNIST's names and form, and their md5 sums by the archive's name."""
    pixels = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8)
    contents = {
        "images-idx3": struct.pack(">4i", 2051, 4, 28, 28) + bytes(pixels.flatten().tolist()),
        "labels-idx1": struct.pack(">2i", 2049, 4) + bytes([3, 1, 4, 1]),
    }
    sums = []
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, content in contents.items():
            name = f"{part}-{kind}-ubyte"
            packed = gzip.compress(content)
            (folder / (name if unpacked else f"{name}.gz")).write_bytes(content if unpacked else packed)
            sums.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    return pixels, sums


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("where", ["", "mnist", "MNIST/raw", "mnist/MNIST/raw"])
def test_root_may_be_the_folder_of_the_files_or_one_above_it(monkeypatch, tmp_path, where, unpacked):
    pixels, sums = write_small(tmp_path / "set" / where, unpacked)
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", sums)
    before = sorted(tmp_path.rglob("*"))
    data = load_mnist_tokens(tmp_path / "set", train=False)
    assert torch.equal(data.images, (pixels.float() / 255 >= 0.5).long())
    assert data.labels.tolist() == [3, 1, 4, 1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_as_root_is_refused_before_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda *args, **options: pytest.fail("tried to download"))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.touch()
    with pytest.raises(DataError, match=r"root must be a folder, got the file .*-ubyte.gz"):
        load_mnist_tokens(path, train=True, download=True)


def test_a_failed_download_leaves_no_new_folder(monkeypatch, tmp_path):
    def fail(*args, **options):
        raise RuntimeError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    for root in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(DataError, match="no route to host"):
            load_mnist_tokens(root, train=True, download=True)
    assert list(tmp_path.iterdir()) == []


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no MNIST in .*download=True"):
        load_mnist_tokens(tmp_path, train=True)


def test_missing_rights_to_the_folder_are_named(monkeypatch, tmp_path):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(DataError, match=r"no permission to read or write .*MNIST/raw; change its rights"):
        load_mnist_tokens(tmp_path, train=False)


def test_missing_rights_to_an_archive_are_named(monkeypatch, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, kind in (
        ("train", "images-idx3"),
        ("train", "labels-idx1"),
        ("t10k", "images-idx3"),
        ("t10k", "labels-idx1"),
    ):
        (raw / f"{part}-{kind}-ubyte.gz").touch()

    def refuse(path, md5):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", refuse)
    with pytest.raises(DataError, match=r"no permission to read or write .*t10k-images-idx3-ubyte.gz"):
        load_mnist_tokens(tmp_path, train=False)


@pytest.mark.parametrize("side", [0, 13, 56, True])
def test_side_must_divide_28(tmp_path, side):
    with pytest.raises(ConfigError, match="side must divide 28"):
        load_mnist_tokens(tmp_path, train=True, side=side)


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_threshold_must_be_a_share(tmp_path, threshold):
    with pytest.raises(ConfigError, match="threshold must lie"):
        load_mnist_tokens(tmp_path, train=True, threshold=threshold)


def test_padding_adds_paper_around_the_image(data_root):
    plain, padded = (load_mnist_tokens(data_root, train=False, pad=pad) for pad in (0, 2))
    assert padded.image_shape == (32, 32)
    assert torch.equal(padded.images[:, 2:-2, 2:-2], plain.images)
    assert padded.tokens.sum() == plain.tokens.sum()


@pytest.mark.parametrize("pad", [-1, 1.5, True])
def test_padding_must_be_a_number_of_pixels(monkeypatch, tmp_path, pad):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="pad must be"):
        load_mnist_tokens(tmp_path, train=True, pad=pad)
