"""CIFAR-10 from every form of it, and what is said where nothing works. Small batches stand in for the real ones."""

import hashlib
import io
import pickle
import tarfile
import urllib.error
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from vadd.data import cifar10, cifar10_batches, load_cifar10_tokens
from vadd.errors import ConfigError, DataError

ROWS = 4


def pickled(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (ROWS, 3072), dtype=np.uint8)
    return pickle.dumps(
        {b"data": data, b"labels": generator.integers(0, 10, ROWS).tolist()}, protocol=3
    )  # with the bytes of Python 2 files


@pytest.fixture
def batches(monkeypatch) -> dict[str, bytes]:
    """Contents of the batch files, which pass for the original ones."""
    train = {f"data_batch_{k}": pickled(k) for k in range(1, 6)}
    test = {"test_batch": pickled(6)}
    for name, files in (("_TRAIN", train), ("_TEST", test)):
        sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
        monkeypatch.setattr(cifar10_batches, name, sums)
    monkeypatch.setattr(cifar10_batches, "_NUM_ROWS", ROWS)
    return {**train, **test}


def images_of(batches, names) -> torch.Tensor:
    data = np.concatenate([pickle.loads(batches[name])[b"data"] for name in names])
    return torch.as_tensor(data).reshape(-1, 3, 32, 32).permute(0, 2, 3, 1)


def write_folder(root: Path, batches) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, batches, mode: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in [("readme.html", b"..."), *reversed(batches.items())]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


FORMS = {
    "folder": lambda root, batches: write_folder(root, batches),
    "gz": lambda root, batches: write_archive(root / "cifar-10-python.tar.gz", batches, "w:gz"),
    "xz": lambda root, batches: write_archive(root / "cifar-10-batches-py.tar.xz", batches, "w:xz"),
}


@pytest.mark.parametrize("where", ["", "cifar10"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_images_in_order(batches, tmp_path, form, where):
    FORMS[form](tmp_path / where, batches)
    before = sorted(tmp_path.rglob("*"))
    for train, names in ((True, [f"data_batch_{k}" for k in range(1, 6)]), (False, ["test_batch"])):
        data = load_cifar10_tokens(tmp_path, train=train)
        assert (data.image_shape, data.num_levels, data.tokens.dtype) == ((32, 32, 3), 256, torch.uint8)
        assert torch.equal(data.images, images_of(batches, names))
        assert data.labels.tolist() == [n for name in names for n in pickle.loads(batches[name])[b"labels"]]
    assert len(load_cifar10_tokens(tmp_path, train=True, num=7)) == 7
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked beside the files


@pytest.mark.parametrize("form", FORMS)
def test_root_may_be_the_archive_or_the_folder_of_batches_itself(batches, tmp_path, form):
    path = FORMS[form](tmp_path, batches)
    for train, names in ((True, [f"data_batch_{k}" for k in range(1, 6)]), (False, ["test_batch"])):
        for root in (path, str(path)):
            assert torch.equal(load_cifar10_tokens(root, train=train).images, images_of(batches, names))
    assert len(load_cifar10_tokens(path, train=True, num=7, download=True)) == 7


def test_real_subset_has_the_first_images(data_root):
    first = load_cifar10_tokens(data_root, train=False, num=50)
    subset = load_cifar10_tokens(data_root, train=False, subset=True)
    assert subset.tokens.shape == (2000, 3072)
    assert torch.equal(subset.tokens[:50], first.tokens)
    assert first.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
    sky = subset.images[subset.labels == 0].double()  # aeroplanes
    assert sky[..., 2].mean() > sky[..., 0].mean() + 5  # blue is the last channel


@pytest.mark.slow
def test_real_archive_holds_the_images_of_the_subset(data_root):
    data = load_cifar10_tokens(data_root, train=True)
    subset = load_cifar10_tokens(data_root, train=True, subset=True)
    rows = [row for batch in range(5) for row in range(batch * 10_000, batch * 10_000 + 2000)]
    assert torch.equal(data.tokens[rows], subset.tokens)
    assert torch.equal(data.labels[rows], subset.labels)
    assert data.labels.bincount().tolist() == [5000] * 10


def test_sums_are_those_that_torchvision_checks():
    datasets = pytest.importorskip("torchvision.datasets")
    assert dict(datasets.CIFAR10.train_list) == cifar10_batches._TRAIN
    assert dict(datasets.CIFAR10.test_list) == cifar10_batches._TEST
    assert datasets.CIFAR10.base_folder == cifar10_batches.FOLDER
    assert datasets.CIFAR10.filename == cifar10._ARCHIVES[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_another_hash_is_never_unpickled(monkeypatch, batches, tmp_path, form):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    FORMS[form](tmp_path, {**batches, "test_batch": pickle.dumps(Trap())})
    with pytest.raises(DataError, match="test_batch is damaged or not the original: its md5 is"):
        load_cifar10_tokens(tmp_path, train=False)


def test_even_with_the_right_hash_only_arrays_are_built(monkeypatch, tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("unpickled",)

    content = pickle.dumps(Trap())
    monkeypatch.setattr(cifar10_batches, "_TEST", {"test_batch": hashlib.md5(content).hexdigest()})
    write_folder(tmp_path, {"test_batch": content})
    with pytest.raises(DataError, match="print, which no original does"):
        load_cifar10_tokens(tmp_path, train=False)


@pytest.mark.parametrize("form", ["gz", "xz"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_truncated_archives_are_named(batches, tmp_path, form, share):
    path = FORMS[form](tmp_path, batches)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"{path.name}: (damaged or truncated|it lacks data_batch_1)"):
        load_cifar10_tokens(tmp_path, train=True)


@pytest.mark.parametrize("form", FORMS)
def test_missing_batches_are_named(batches, tmp_path, form):
    del batches["data_batch_3"]
    FORMS[form](tmp_path, batches)
    with pytest.raises(DataError, match=r"(lacks data_batch_3|data_batch_3 is missing)"):
        load_cifar10_tokens(tmp_path, train=True)


def test_a_damaged_form_does_not_hide_an_intact_one(batches, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    FORMS["xz"](tmp_path, batches)
    assert len(load_cifar10_tokens(tmp_path, train=False)) == ROWS


def test_a_damaged_subset_is_not_recommended(tmp_path):
    (tmp_path / "cifar10_subset.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar10_subset.npz: damaged") as caught:
        load_cifar10_tokens(tmp_path, train=True, num=100)
    assert "subset=True" not in str(caught.value)


def test_an_empty_or_missing_folder_says_what_was_looked_for(tmp_path):
    for root, what in ((tmp_path, "none of them is there"), (tmp_path / "no", "is no folder")):
        with pytest.raises(DataError, match=what) as caught:
            load_cifar10_tokens(root, train=True)
        for name in ("cifar-10-batches-py/", "cifar-10-python.tar.gz", "cifar-10-batches-py.tar.xz", "download=True"):
            assert name in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_missing_rights_are_named(monkeypatch, batches, tmp_path, form):
    path = FORMS[form](tmp_path, batches)
    stat = Path.stat

    def refuse(self, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DataError, match=rf"{path.name}: no permission"):
        load_cifar10_tokens(tmp_path, train=False)


def test_failed_downloads_say_why(monkeypatch, tmp_path):
    utils = pytest.importorskip("torchvision.datasets.utils")
    for error, message in (
        (urllib.error.URLError("no route to host"), "no route to host.*cs.toronto.edu.*reached from here"),
        (RuntimeError("File not found or corrupted."), "corrupted"),
        (PermissionError(13, "Permission denied"), "no permission"),
    ):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(utils, "download_url", fail)
        for root in (tmp_path, tmp_path / "a" / "b"):
            with pytest.raises(DataError, match=f"download into .*{message}"):
                load_cifar10_tokens(root, train=True, download=True)
        assert list(tmp_path.iterdir()) == []  # no new folder stays, and the old one does


def test_a_download_is_read(monkeypatch, batches, tmp_path):
    utils = pytest.importorskip("torchvision.datasets.utils")

    def fetch(url, root, filename, md5):
        assert md5 == "c58f30108f718f92721af3b95e74349a"
        write_archive(Path(root) / filename, batches, "w:gz")

    monkeypatch.setattr(utils, "download_url", fetch)
    assert len(load_cifar10_tokens(tmp_path / "new", train=False, download=True)) == ROWS
    assert len(load_cifar10_tokens(tmp_path / "new", train=False)) == ROWS


def write_subset(path: Path, rows: int = 2000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_test=np.zeros((rows, 3, 32, 32), np.uint8), y_test=np.zeros(rows, np.uint8))
    return path


def test_the_subset_stands_in_for_the_whole_only_where_it_is_the_same(tmp_path):
    write_subset(tmp_path / "cifar10_subset.npz")
    assert len(load_cifar10_tokens(tmp_path, train=False, num=2000)) == 2000
    assert len(load_cifar10_tokens(tmp_path, train=False, subset=True)) == 2000
    for num in (None, 2001):
        with pytest.raises(DataError, match="pass subset=True"):
            load_cifar10_tokens(tmp_path, train=False, num=num)


def test_root_may_be_the_subset_itself(tmp_path):
    path = write_subset(tmp_path / "cifar10_subset.npz")
    assert len(load_cifar10_tokens(path, train=False, subset=True)) == 2000
    assert len(load_cifar10_tokens(path, train=False, num=30)) == 30
    with pytest.raises(DataError, match=r"cifar10_subset.npz has but a part.*subset=True.*num of at most 2000"):
        load_cifar10_tokens(path, train=False, download=True)
    with pytest.raises(DataError, match=r"no usable CIFAR-10 in .*cifar10_subset.npz: .*x_train"):
        load_cifar10_tokens(path, train=True, subset=True)


@pytest.fixture
def no_download(monkeypatch):
    utils = pytest.importorskip("torchvision.datasets.utils")
    monkeypatch.setattr(utils, "download_url", lambda *args: pytest.fail("tried to download"))


@pytest.mark.parametrize("name", ["data_batch_1", "images.zip", "cifar-10-python.tar.gz.part"])
def test_any_other_file_is_refused_before_a_download(batches, no_download, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(batches["data_batch_1"])
    with pytest.raises(DataError, match=rf"root must be a folder, cifar-10-python.tar.gz.*got the file .*{name}"):
        load_cifar10_tokens(path, train=True, download=True)


@pytest.mark.parametrize("form", ["gz", "xz"])
def test_a_damaged_archive_given_as_root_is_named(batches, no_download, tmp_path, form):
    path = FORMS[form](tmp_path, batches)
    with pytest.raises(DataError, match=r"subset=True reads cifar10_subset.npz, and root is"):
        load_cifar10_tokens(path, train=True, subset=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"no usable CIFAR-10 in .*{path.name}: damaged or truncated") as caught:
        load_cifar10_tokens(path, train=True, download=True)
    assert "reached" not in str(caught.value)


def test_a_folder_below_a_file_does_not_blame_the_network(no_download, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="download into .*Not a directory") as caught:
        load_cifar10_tokens(tmp_path / "file" / "data", train=True, download=True)
    assert "reached" not in str(caught.value)


def test_damaged_subsets_are_an_error(tmp_path):
    path = write_subset(tmp_path / "cifar10_subset.npz", 10)
    with pytest.raises(DataError, match=r"expected uint8 arrays.*\(10,"):
        load_cifar10_tokens(tmp_path, train=False, subset=True)
    with pytest.raises(DataError, match="x_train"):
        load_cifar10_tokens(tmp_path, train=True, subset=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        load_cifar10_tokens(tmp_path, train=False, subset=True)


@pytest.mark.parametrize("num", [0, -1, 10_001, True, 2.0])
def test_numbers_out_of_range_are_an_error(monkeypatch, tmp_path, num):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="between 1 and 10000"):
        load_cifar10_tokens(tmp_path, train=False, num=num)
