"""Snapshots: exact, the newest whole one found after any kill, full disk or flipped bit, and nothing executed."""

import contextlib
import copy
import errno
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import vadd.training.snapshots as snapshots_module
from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.errors import CheckpointError, ConfigError
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.training import load_checkpoint
from vadd.training.manifest import write_manifest
from vadd.training.snapshots import DamagedSnapshotWarning, Snapshots
from vadd.training.tree import pack

VOCAB, LENGTH, LATENT = 3, 2, 1
SIZE = {"hidden_size": 4, "depth": 1, "modulation_size": 2}
STATE, MANIFEST = "state.safetensors", "manifest.json"


def make_pair(prior=None):
    model = VADDModel(
        MLPDenoiser(VOCAB, LENGTH, LATENT, **SIZE),
        prior or StandardNormalPrior(LATENT),
        MaskingProcess(LinearSchedule(), VOCAB),
    )
    return model, RecognitionGuide(MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE))


PAIR = make_pair()


def state_of(step):
    """Another state for each step, known without keeping it."""
    weights = torch.randn(50, generator=torch.Generator().manual_seed(step))
    return {"optimizer": {"state": {0: {"exp_avg": weights, "step": torch.tensor(float(step))}}}, "betas": (0.9, step)}


def save(snapshots, step, *, state=None, pair=PAIR, averaged=None, metadata=None, score=None):
    state = state_of(max(step, 0)) if state is None else state
    model, guide = pair
    return snapshots.save(
        step, state, model=model, guide=guide, averaged=averaged, metadata=metadata or {"run": step}, score=score
    )


def same(a, b):
    (a_json, a_tensors), (b_json, b_tensors) = pack(a), pack(b)
    return repr(a_json) == repr(b_json) and all(
        value.dtype == b_tensors[name].dtype and torch.equal(value, b_tensors[name])
        for name, value in a_tensors.items()
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def step_names(*steps):
    return [f"step-{step:010d}" for step in steps]


def assert_whole(folder, steps):
    """The newest snapshot is of one of these steps and as it was saved; none that can be seen is damaged."""
    found = Snapshots(folder).load_latest()
    assert found.step in steps
    for name in names(folder):
        if name.startswith("step-"):
            snapshot = Snapshots(folder).load(folder / name)
            assert same(snapshot.state, state_of(snapshot.step))
            assert snapshot.metadata == {"run": snapshot.step}
            load_checkpoint(snapshot.folder / "model")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Without a power failure, which tests cannot have, it makes no difference."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Round trips


def test_a_snapshot_comes_back_as_it_was(tmp_path):
    metadata = {"config": {"betas": (0.9, 0.99)}, "figures": {1: float("inf")}}
    path = save(Snapshots(tmp_path / "a" / "b"), 1000, metadata=metadata, score=1.5)
    assert path == tmp_path / "a" / "b" / "step-0000001000"
    assert names(path) == [MANIFEST, "model", STATE]
    found = Snapshots(tmp_path / "a" / "b").load_latest()
    assert (found.step, found.folder, found.score) == (1000, path, 1.5)
    assert same(found.state, state_of(1000))
    assert found.metadata == metadata
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["versions"].keys() == {"vadd", "torch", "python"}
    assert len(manifest["files"]) == 3


@pytest.mark.parametrize("score", [None, float("inf"), float("nan")])
def test_scores_come_back(tmp_path, score):
    save(Snapshots(tmp_path), 1, score=score)
    assert repr(Snapshots(tmp_path).load_latest().score) == repr(score)
    assert Snapshots(tmp_path).best is None


def test_a_state_without_tensors_is_a_state(tmp_path):
    save(Snapshots(tmp_path), 0, state={"step": 0})
    assert Snapshots(tmp_path).load_latest().state == {"step": 0}


def test_without_snapshots_there_is_none(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert Snapshots(folder).load_latest() is None
        assert Snapshots(folder).best is None


def test_a_snapshot_that_was_moved_can_be_read(tmp_path):
    path = save(Snapshots(tmp_path), 3)
    path.rename(tmp_path / "keep")
    assert same(Snapshots(tmp_path).load(tmp_path / "keep").state, state_of(3))
    assert Snapshots(tmp_path).load_latest() is None


@pytest.mark.parametrize("average", [False, True])
def test_the_pair_to_sample_from_lies_beside_the_state(tmp_path, average):
    averaged = copy.deepcopy(PAIR)
    with torch.no_grad():
        for p in averaged[0].parameters():
            p.add_(1)
    path = save(Snapshots(tmp_path), 3, averaged=averaged if average else None)
    loaded = load_checkpoint(path / "model")
    expected = averaged if average else PAIR
    for part, stored in zip(expected, loaded[:2], strict=True):
        assert all(torch.equal(value, stored.state_dict()[key]) for key, value in part.state_dict().items())
    assert loaded.notes == {"step": 3, "averaged": average}


class Unregistered(LatentPrior):
    def __init__(self):
        super().__init__()
        self.latent_shape = torch.Size([LATENT])
        self.loc = nn.Parameter(torch.randn(LATENT))

    def forward(self, x_t, t, **options):
        return torch.distributions.Independent(torch.distributions.Normal(self.loc.expand(len(x_t), -1), 1.0), 1)


def test_parts_of_unregistered_classes_can_be_saved(tmp_path):
    model, guide = make_pair(Unregistered())
    path = save(Snapshots(tmp_path), 1, pair=(model, guide))
    assert same(Snapshots(tmp_path).load_latest().state, state_of(1))
    prior = Unregistered()
    load_checkpoint(path / "model", prior=prior)
    assert torch.equal(prior.loc, model.prior.loc)


# What is kept


def test_the_last_and_the_best_are_kept(tmp_path):
    snapshots = Snapshots(tmp_path, keep_last=2)
    kept = []
    for step, score in enumerate([3.0, 1.0, float("nan"), None, 2.0, 0.5, 1.0, -float("inf"), 0.5]):
        save(snapshots, step, score=score)
        kept.append(([int(name[5:]) for name in names(tmp_path)], int(snapshots.best.name[5:])))
    assert kept == [
        ([0], 0),
        ([0, 1], 1),
        ([1, 2], 1),
        ([1, 2, 3], 1),
        ([1, 3, 4], 1),
        ([4, 5], 5),
        ([5, 6], 5),
        ([5, 6, 7], 5),
        ([5, 7, 8], 5),
    ]
    assert Snapshots(tmp_path).best == tmp_path / "step-0000000005"


def test_the_best_is_not_kept_unless_asked_for(tmp_path):
    snapshots = Snapshots(tmp_path, keep_last=1, keep_best=False)
    for step in range(3):
        path = save(snapshots, step, score=float(step))
    assert names(tmp_path) == [path.name] == step_names(2)
    assert snapshots.best == path


def test_steps_are_ordered_as_numbers(tmp_path):
    snapshots = Snapshots(tmp_path, keep_last=3)
    for step in (10**10, 5, 10**11):
        save(snapshots, step)
    assert snapshots.load_latest().step == 10**11


def test_what_was_just_saved_is_kept_though_later_steps_are_there(tmp_path):
    snapshots = Snapshots(tmp_path, keep_last=1, keep_best=False)
    save(snapshots, 9)
    path = save(snapshots, 4)
    assert names(tmp_path) == step_names(4, 9)
    assert same(snapshots.load(path).state, state_of(4))


def test_a_step_is_replaced(tmp_path):
    snapshots = Snapshots(tmp_path)
    save(snapshots, 1, score=1.0)
    save(snapshots, 1, state={"other": 1}, score=2.0)
    assert names(tmp_path) == step_names(1)
    assert snapshots.load_latest().state == {"other": 1}
    assert snapshots.load_latest().score == 2.0


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    for name in (".step-1.partial", "step-1", "notes", ".step-0000000001", "step-0000000001.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-0000000009").write_text("a file")
    before = names(tmp_path)
    snapshots = Snapshots(tmp_path, keep_last=1)
    for step in (1, 2):
        save(snapshots, step)
    assert names(tmp_path) == sorted([*before, *step_names(2)])
    assert snapshots.load_latest().step == 2


# Killed


@pytest.mark.parametrize("step", [3, 4])
def test_every_file_is_on_the_disk_once_before_it_can_be_seen(tmp_path, two, step, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    events, replace, rename = [], os.replace, os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append((a, b)), replace(a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append((a, b)), rename(a, b)))
    path = save(Snapshots(folder), step, score=2.0)
    partial = folder / f".{path.name}.partial"
    shown = next(i for i, event in enumerate(events) if isinstance(event, tuple) and event[0] == partial)
    before = events[:shown]
    renamed = {b: a for a, b in (event for event in before if isinstance(event, tuple))}
    for file in files_of(path):
        written = renamed.get(partial / file, partial / file)
        assert before.count(written) == 1
        # Then the name it has, and that of its folder.
        assert (partial / file).parent in before[before.index(written) :]
    assert partial in before
    assert {event for event in events[shown:] if isinstance(event, Path)} == {folder}
    # Each change of what can be seen is followed by waiting for it.
    for now, then in itertools.pairwise(events[shown:]):
        if isinstance(now, tuple):
            assert then == folder


class Killed(BaseException):
    """Not an Exception: nothing may clean up after it."""


CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


@contextlib.contextmanager
def interrupted(at, interrupt, *, late=False, calls=CALLS):
    """Call ``interrupt`` before (or after) the ``at``-th change of the file system. Yields the calls made."""
    made = []

    def wrapped(name, call):
        def wrapper(*args, **kwargs):
            made.append(name)
            if len(made) == at and not late:
                interrupt(*args)
            result = call(*args, **kwargs)
            if len(made) >= at and late:
                interrupt(*args)
            return result

        return wrapper

    def half(tensors, path):
        snapshots_save_tensors(tensors, path)
        if len(made) + 1 == at:
            os.truncate(path, path.stat().st_size // 2)

    snapshots_save_tensors = snapshots_module.save_tensors
    with pytest.MonkeyPatch.context() as patch:
        for name in calls:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        patch.setattr(snapshots_module, "save_tensors", wrapped("save_tensors", half))
        yield made


class Death:
    """Once dead, a process changes nothing any more."""

    def __call__(self, *args, **kwargs):
        for name in CALLS:
            setattr(os, name, self)
        raise Killed


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with snapshots of steps 1, the best, and 2, 3, as three kept ones."""
    folder = tmp_path_factory.mktemp("two")
    snapshots = Snapshots(folder, keep_last=2)
    for step, score in ((1, 0.0), (2, 1.0), (3, 1.0)):
        save(snapshots, step, score=score)
    assert names(folder) == step_names(1, 2, 3)
    return folder


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", [3, 4])
def test_killed_at_any_change_of_the_file_system_nothing_is_lost(tmp_path, two, step, late):
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        shutil.copytree(two, folder)
        try:
            with interrupted(at, Death(), late=late) as made:
                save(Snapshots(folder), step, score=2.0)
        except Killed:
            assert len(made) >= at
        else:
            break
        assert_whole(folder, {3, step})
        assert Snapshots(folder).best.name == step_names(1)[0]
        # The next process cleans up, and saves as if nothing had been.
        save(Snapshots(folder), step, score=2.0)
        assert names(folder) == step_names(*{3: (1, 2, 3), 4: (1, 3, 4)}[step])
        assert_whole(folder, {step})
        shutil.rmtree(folder)
    assert at > 15
    assert {"fsync", "rename", "replace", "save_tensors", "mkdir", "unlink", "rmdir"} <= set(made)


def test_killed_again_while_cleaning_up_nothing_is_lost(tmp_path, two):
    for first, second in itertools.product(range(1, 26, 3), repeat=2):
        folder = tmp_path / f"{first}-{second}"
        shutil.copytree(two, folder)
        for at in (first, second):
            with contextlib.suppress(Killed), interrupted(at, Death()):
                save(Snapshots(folder), 3, score=2.0)
            assert_whole(folder, {3})
        shutil.rmtree(folder)


KILLED_FOR_REAL = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from test_snapshots import assert_whole, save
from vadd.training.snapshots import Snapshots

warnings.simplefilter("error", UserWarning)
folder, random_times, done = Path(sys.argv[1]), random.Random(0), 0
for _ in range(12):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        snapshots, step = Snapshots(folder, keep_last=1), done
        while True:
            step += step == done or random.randrange(2)  # some steps anew
            save(snapshots, step)
            os.write(writer, step.to_bytes(8, "big"))
    os.close(writer)
    said = os.read(reader, 8)  # one save is done: it runs
    time.sleep(random_times.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reader, 8192):
        said += data
    os.close(reader)
    done = int.from_bytes(said[-8:], "big")
    assert_whole(folder, {done, done + 1})
    done = Snapshots(folder).load_latest().step
print("done", done)
"""


def test_processes_killed_by_the_system_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_FOR_REAL, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.removeprefix("done ")) >= 12


# Failing


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", [3, 4])
def test_an_error_at_any_change_of_the_file_system_loses_nothing(tmp_path, two, step):
    messages = []
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        shutil.copytree(two, folder)
        try:
            with interrupted(at, no_space) as made:
                save(Snapshots(folder), step, score=2.0)
        except CheckpointError as error:
            messages.append(str(error).replace(str(folder), "FOLDER"))
        if len(made) < at:
            break
        assert_whole(folder, {3, step})
        assert not any(name.endswith(".partial") for name in names(folder))
        save(Snapshots(folder), step, score=2.0)
        assert names(folder) == step_names(*{3: (1, 2, 3), 4: (1, 3, 4)}[step])
        shutil.rmtree(folder)
    assert len(messages) > 12
    for message in messages:
        assert os.strerror(errno.ENOSPC) in message
        assert re.match(
            f"cannot save the snapshot of step {step} in FOLDER: .* Make room there, .* earlier snapshots are as they"
            f"|the snapshot FOLDER/{step_names(step)[0]} is saved, but older ones cannot be removed",
            message,
        )


@pytest.mark.parametrize("room", [0, 200, 700, 2500])
def test_a_full_disk_loses_nothing(tmp_path, two, room):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    sizes = sorted(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert room < sizes[-1]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # Python ignores the signal: writing fails
    try:
        with pytest.raises(CheckpointError, match=f"snapshot of step 4 in {folder}: .*too large.* Make room"):
            save(Snapshots(folder), 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(folder) == step_names(1, 2, 3)
    assert_whole(folder, {3})


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=f"step 1 in {folder}: .* choose a folder that can be written"):
            save(Snapshots(folder), 1)
        with pytest.raises(CheckpointError, match=f"{folder} cannot be read"):
            Snapshots(folder).load_latest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save(Snapshots(tmp_path), 1)
    tmp_path.chmod(0o700)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "run"
    snapshots = Snapshots(folder)
    for match, options in {
        r"^state\.a is of type set": {"state": {"a": {1}}},
        r"^metadata\.a is of type set": {"metadata": {"a": {1}}},
        "^metadata must hold no tensors": {"metadata": {"a": torch.ones(1)}},
        "^step must be an integer of at least 0, got -1": {"step": -1},
        "^step must be an integer of at least 0, got True": {"step": True, "state": {}},
    }.items():
        with pytest.raises(ConfigError, match=match):
            save(snapshots, **{"step": 1, **options})
    assert not folder.exists()


@pytest.mark.parametrize("keep_last", [0, -1, True])
def test_at_least_one_is_kept(tmp_path, keep_last):
    with pytest.raises(ConfigError, match=f"keep_last must be a positive integer, got {keep_last}"):
        Snapshots(tmp_path, keep_last=keep_last)


def test_a_pair_that_cannot_be_stored_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConfigError("another network")

    monkeypatch.setattr(snapshots_module, "save_checkpoint", refuse)
    with pytest.raises(ConfigError, match="another network"):
        save(Snapshots(tmp_path), 1)
    assert names(tmp_path) == []


# Damaged


FILES = [MANIFEST, STATE, "model/checkpoint.json", "model/weights"]


@pytest.fixture
def saved(tmp_path):
    return save(Snapshots(tmp_path / "run"), 1, score=0.5)


def file_in(folder, name):
    (path,) = folder.glob(f"{name}*")
    return path


def refused(path, folder):
    with pytest.raises(CheckpointError, match=re.escape(path.name)) as caught:
        Snapshots(folder.parent).load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(saved, name):
    path = file_in(saved, name)
    data = path.read_bytes()
    # All of the manifest; elsewhere the head, the end and a share of the rest.
    positions = [i for i in range(len(data)) if name == MANIFEST or i < 20 or i >= len(data) - 8 or i % 37 == 0]
    for i in positions:
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        refused(path, saved)
    path.write_bytes(data)
    Snapshots(saved.parent).load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_length_is_found(saved, name):
    path = file_in(saved, name)
    data = path.read_bytes()
    for other in (b"", data[:1], data[: len(data) // 2], data[:-1], data + b"\n", data + b"\0", data * 2):
        path.write_bytes(other)
        refused(path, saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(saved, name):
    path = file_in(saved, name)
    path.unlink()
    assert "missing" in refused(path, saved)
    path.mkdir()
    refused(path, saved)


def test_what_is_no_snapshot_is_refused(tmp_path):
    for folder in (tmp_path / "missing", tmp_path, Path(__file__)):
        with pytest.raises(CheckpointError, match=f"no snapshot in {folder}"):
            Snapshots(tmp_path).load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{}", '{"format_version": 1}', '{"a": NaN}', "1" * 5000, "\0"])
def test_other_json_is_refused(saved, text):
    (saved / MANIFEST).write_text(text)
    refused(saved / MANIFEST, saved)


def test_a_manifest_of_the_same_content_in_other_bytes_is_refused(saved):
    path = saved / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert "damaged" in refused(path, saved)


def test_another_format_is_refused_with_what_to_do(saved):
    path = saved / MANIFEST
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert re.search("has format version 2, this .* reads 1; load it with the version", refused(path, saved))


def reseal(folder, **changes):
    """A manifest that fits the files as they are, with other content."""
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).unlink()
    for name in ("format_version", "files", "sha256"):
        del content[name]
    write_manifest(folder, {**content, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": "1"},
        {"score": "a"},
        {"score": {"$tensor": "0"}},
        {"metadata": []},
        {"metadata": {"$tensor": "0"}},
        {"versions": None},
        {"state": {"$tensor": "7"}},
        {"state": {"$other": "7"}},
        {"state": 1},
        {"state": json.loads("[" * 100 + "]" * 100)},
    ],
    ids=str,
)
def test_hostile_content_is_refused(saved, changes):
    reseal(saved, **changes)
    with pytest.raises(CheckpointError, match="damaged"):
        Snapshots(saved.parent).load(saved)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [STATE, "model/weights", MANIFEST])
@pytest.mark.parametrize("sealed", [False, True])
def test_nothing_stored_is_executed(saved, tmp_path, name, sealed):
    harm = tmp_path / "harm"
    data = pickle.dumps(Payload(harm))
    pickle.loads(data)
    harm.unlink()  # it works
    file_in(saved, name).write_bytes(data)
    if sealed and name != MANIFEST:
        reseal(saved)
    if sealed and name == "model/weights":  # not read here, but by load_checkpoint
        Snapshots(saved.parent).load(saved)
        with pytest.raises(CheckpointError):
            load_checkpoint(saved / "model")
    else:
        refused(file_in(saved, name), saved)
    assert not harm.exists()


def test_damaged_ones_are_skipped_with_a_warning(tmp_path, two):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    flipped = folder / step_names(3)[0] / STATE
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\x55")
    snapshots = Snapshots(folder, keep_last=1)
    with pytest.warns(DamagedSnapshotWarning) as caught:
        assert snapshots.load_latest().step == 2
    (warning,) = caught
    message = str(warning.message)
    assert str(flipped) in message
    assert "sha256 differs" in message
    assert f"Going on from {step_names(2)[0]}" in message
    # The damaged one counts for nothing, is not removed, and is replaced when the run is there again.
    save(snapshots, 2, score=1.0)
    assert names(folder) == step_names(1, 2, 3)
    save(snapshots, 3, score=1.0)
    assert names(folder) == step_names(1, 3)
    assert_whole(folder, {3})
    assert snapshots.best.name == step_names(1)[0]
    save(snapshots, 4, score=1.0)
    assert names(folder) == step_names(1, 4)


def test_if_all_are_damaged_they_are_listed(tmp_path, two):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    (folder / step_names(3)[0] / MANIFEST).unlink()
    for step, name in ((2, STATE), (1, "model/checkpoint.json")):
        os.truncate(folder / step_names(step)[0] / name, 3)
    with pytest.raises(CheckpointError, match="none of the snapshots .* choose an empty folder") as caught:
        Snapshots(folder).load_latest()
    _, *lines = str(caught.value).splitlines()
    for line, step, name in zip(lines, (3, 2, 1), (MANIFEST, STATE, "checkpoint.json"), strict=True):
        assert line.startswith(f"step-{step:010d} cannot be read")
        assert name in line


def test_the_whole_one_of_two_of_a_step_is_kept(tmp_path, two):
    for damaged, other in (("step-0000000003.new", "step-0000000003"), ("step-0000000003", "step-0000000003.new")):
        folder = tmp_path / damaged
        shutil.copytree(two, folder)
        shutil.copytree(folder / "step-0000000003", folder / "step-0000000003.new")
        path = folder / damaged / STATE
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")
        snapshots = Snapshots(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedSnapshotWarning)
            assert snapshots.load_latest().folder.name == other
        with contextlib.suppress(CheckpointError), interrupted(1, no_space, calls=()):
            save(snapshots, 4)
        assert names(folder) == step_names(1, 2, 3)
        assert_whole(folder, {3})


def test_files_of_a_snapshot_have_the_permissions_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        folder = save(Snapshots(tmp_path), 1)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640}, modes
