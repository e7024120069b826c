"""Statically binarized MNIST: the published images from either kind of file, and ways in which these can be wrong."""

import hashlib

import jaxtyping
import numpy as np
import pytest
import torch

from vadd.data import load_binarized_mnist
from vadd.errors import ConfigError, DataError


@pytest.fixture
def small(monkeypatch):
    """Three images stand in for each split: their bits."""
    bits = np.random.default_rng(0).integers(0, 2, (3, 784), dtype=np.uint8)
    sha256 = hashlib.sha256(np.packbits(bits, axis=1).tobytes()).hexdigest()
    splits = {"train": ("train", 3, sha256), "validation": ("valid", 3, sha256), "test": ("test", 3, sha256)}
    monkeypatch.setattr("vadd.data.binarized_mnist._SPLITS", splits)
    return bits


def write_text(path, bits, end="\n"):
    path.write_text("".join(" ".join(map(str, row)) + end for row in bits))


@pytest.mark.parametrize(("split", "num"), [("train", 50_000), ("validation", 10_000), ("test", 10_000)])
def test_reads_the_published_images(data_root, split, num):
    data = load_binarized_mnist(data_root, split)
    assert data.tokens.shape == (num, 784)
    assert (data.image_shape, data.num_levels, data.labels) == ((28, 28), 2, None)
    assert 0.1 < float(data.tokens.float().mean()) < 0.15
    frame = data.images[:, [0, -1]]  # as good as blank: rows are rows
    assert float(frame.float().mean()) < 1e-3


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_reads_the_text_files(small, tmp_path, split, end):
    write_text(tmp_path / f"binarized_mnist_{split[:5]}.amat", small, end)
    assert torch.equal(load_binarized_mnist(tmp_path, split).tokens, torch.as_tensor(small).long())


def test_reads_the_packed_file_in_the_folder_named_after_the_set(small, tmp_path):
    (tmp_path / "binarized_mnist").mkdir()
    packed = np.packbits(small, axis=1)
    np.savez_compressed(tmp_path / "binarized_mnist" / "binarized_mnist_packed.npz", test=packed)
    assert torch.equal(load_binarized_mnist(tmp_path, "test").tokens, torch.as_tensor(small).long())


def test_missing_rights_are_named(monkeypatch, tmp_path):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied.*Check its rights"):
        load_binarized_mnist(tmp_path)


def test_another_binarization_is_refused(small, tmp_path):
    write_text(tmp_path / "binarized_mnist_test.amat", 1 - small)
    with pytest.raises(DataError, match="other images than the published ones"):
        load_binarized_mnist(tmp_path, "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-100], "is it complete"),
        (lambda text: text[: len(text) // 3 * 2], "must hold 3 images"),
        (lambda text: text.replace("1", "2", 1), "0 or 1"),
        (lambda text: text.replace("\n", "0", 1).replace("1", "\n", 1), "0 or 1"),
        (lambda text: "", "must hold 3 images"),
    ],
)
def test_damaged_text_is_an_error(small, tmp_path, damage, message):
    path = tmp_path / "binarized_mnist_test.amat"
    write_text(path, small)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        load_binarized_mnist(tmp_path, "test")


def test_damaged_packed_files_are_an_error(small, tmp_path):
    path = tmp_path / "binarized_mnist_packed.npz"
    np.savez_compressed(path, train=np.packbits(small, axis=1))
    with pytest.raises(DataError, match="cannot be read.*test"):
        load_binarized_mnist(tmp_path, "test")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        load_binarized_mnist(tmp_path, "train")
    np.savez(path, train=np.array([{}], dtype=object))  # nothing is unpickled
    with pytest.raises(DataError, match="allow_pickle=False"):
        load_binarized_mnist(tmp_path, "train")


def test_missing_files_say_what_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(DataError, match="binarized_mnist_valid.amat and binarized_mnist_packed.npz"):
        load_binarized_mnist(tmp_path, "validation")
    with pytest.raises(ConfigError, match="train, validation, test"):
        load_binarized_mnist(tmp_path, "valid")
