"""Faults inside of snapshots, which are damaged or hostile, and gradients that are not finite."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from reliability_lab import (
    Fault,
    Lab,
    has_error,
    last_words,
    newest,
    obstructed,
    require,
    same,
    whole,
)
from safetensors.torch import load_file

from vadd.errors import CheckpointError
from vadd.training import load_checkpoint
from vadd.training.manifest import MANIFEST, read_manifest, write_manifest

SKIPPED = (
    "Told by a warning; the program goes on from the snapshot before it and ends with the weights of the undisturbed "
    "run, bit for bit."
)


def damaged(lab: Lab, fault: Fault, damage: Callable[[Path], Any], **more: Callable[[], bool]) -> None:
    """A run whose newest snapshot was damaged."""
    folder = lab.interrupted()
    steps, _ = whole(folder)
    damage(newest(folder))
    done, ends = lab.again(folder)
    told = next((line for line in done.said.splitlines() if "DamagedSnapshotWarning" in line), None)
    words = None if told is None else told.partition("DamagedSnapshotWarning: ")[2]
    where = done.resumed_at == steps[0]
    checks = {name: check() for name, check in more.items()}
    fault.add(
        done.recovery, words, it_is_told=words is not None, it_went_on_from_the_one_before=where, **checks, **ends
    )


def flip(lab: Lab, snapshot: Path, index: int) -> None:
    """Flip one random bit; the files take turns."""
    files = sorted(path for path in snapshot.rglob("*") if path.is_file())
    path = files[index % len(files)]
    data = bytearray(path.read_bytes())
    data[lab.random.randrange(len(data))] ^= 1 << lab.random.randrange(8)
    path.write_bytes(data)


def truncate(lab: Lab, snapshot: Path, index: int) -> None:
    """Cut a file at a random length."""
    files = sorted(path for path in snapshot.rglob("*") if path.is_file())
    path = files[index % len(files)]
    os.truncate(path, lab.random.randrange(path.stat().st_size))


def bad_snapshots(lab: Lab, flips: int, cuts: int) -> Iterator[Fault]:
    """The newest snapshot is not what it was."""
    for name, damage, tries in (("truncated", truncate, cuts), ("one bit flipped", flip, flips)):
        fault = Fault(f"newest snapshot: {name}", SKIPPED)
        for index in range(tries):
            damaged(lab, fault, lambda path, index=index, damage=damage: damage(lab, path, index))
        if tries:
            yield fault


class Payload:
    """Executes a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def reseal(snapshot: Path) -> None:
    """A manifest that agrees with the files, as an attacker would write it."""
    old = json.loads((snapshot / MANIFEST).read_text())
    (snapshot / MANIFEST).unlink()
    write_manifest(
        snapshot, {k: v for k, v in old.items() if k not in ("files", "sha256", "format_version", "versions")}
    )
    read_manifest(snapshot)


def hostile_snapshots(lab: Lab) -> Iterator[Fault]:
    """The newest snapshot is another run's, or was made to do harm."""
    fault = Fault(
        "newest snapshot: of another architecture",
        "An error that says so, nothing is removed; started again without that snapshot, it ends with the weights of "
        "the undisturbed run, bit for bit.",
    )
    folder, foreign = lab.interrupted(), lab.folder("foreign")
    lab.run(foreign, hidden_size=32, kill_update=lab.middle, delay=0.0)
    target = newest(folder)
    shutil.rmtree(target)
    shutil.copytree(newest(foreign), target)
    obstructed(lab, fault, folder, "is of another model", {}, lambda: shutil.rmtree(target))
    yield fault

    canary = lab.root / "canary"
    fault = Fault("newest snapshot: a malicious pickle as its state", "Never executed. " + SKIPPED)

    def is_harmless() -> bool:
        return not canary.exists()

    def spoil(snapshot: Path, is_resealed: bool) -> None:
        torch.save(Payload(canary), snapshot / "state.safetensors")
        if is_resealed:
            reseal(snapshot)

    for is_resealed in (False, True):
        damaged(lab, fault, lambda path, sealed=is_resealed: spoil(path, sealed), it_was_not_executed=is_harmless)
    yield fault

    fault = Fault(
        "a malicious pickle as a snapshot's model weights", "Never executed; loading it is a CheckpointError."
    )
    for is_resealed in (False, True):
        snapshot = newest(lab.interrupted())
        torch.save(Payload(canary), next((snapshot / "model").glob("*.safetensors")))
        if is_resealed:
            reseal(snapshot)
        words = None
        try:
            load_checkpoint(snapshot / "model")
        except CheckpointError as error:
            words = str(error).replace(str(snapshot), "FOLDER/snapshots/" + snapshot.name)
        fault.add(None, words, it_is_an_error=words is not None, it_was_not_executed=is_harmless())
    torch.save(Payload(canary), lab.root / "payload")
    torch.load(lab.root / "payload", weights_only=False)
    require(canary.exists(), "the pickle does nothing, so that the test means nothing.")
    canary.unlink()
    yield fault


def nan_gradients(lab: Lab, tries: int) -> Iterator[Fault]:
    """Gradients that are not finite."""
    fault = Fault(
        'NaN gradients, on_nonfinite="skip"',
        "Every one is skipped and counted; weights stay finite; a run killed behind them ends with the same weights "
        "and the same count, bit for bit.",
    )
    for _ in range(tries):
        poison = sorted(lab.random.sample(range(1, lab.middle), 5))
        settings = {"on_nonfinite": "skip", "poison": poison}
        done = lab.run(lab.folder("skip"), **settings)
        expected = lab.result()
        folder = lab.folder("skip")
        lab.run(folder, kill_update=lab.middle, delay=0.0, **settings)
        again = lab.run(folder, **settings)
        found = lab.result()
        fault.add(
            again.recovery,
            counted=done.code == 0 and expected is not None and expected["skipped"].tolist() == [len(poison)],
            finite=expected is not None and all(bool(value.isfinite().all()) for value in expected.values()),
            the_killed_run_ends_alike=same(found, expected),
        )
    yield fault
    fault = Fault(
        'NaN gradient, on_nonfinite="stop"',
        "An error that names the update and the file with its batch; started again without the NaN, it ends with the "
        "weights of the undisturbed run, bit for bit.",
    )
    for _ in range(tries):
        folder, step = lab.folder("stop"), lab.random.randint(2, lab.num_updates - 1)
        done = lab.run(folder, poison=[step])
        path = folder / f"nonfinite-{step}.safetensors"
        has_batch = path.exists() and load_file(path)["x_0"].shape == (32, 64)
        again, checks = lab.again(folder)
        named = has_error(done, "NonFiniteError", f"update {step} stopped", path.name)
        fault.add(again.recovery, last_words(done), it_is_an_error=named, the_batch_is_saved=has_batch, **checks)
    yield fault
