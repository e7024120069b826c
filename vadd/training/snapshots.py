"""Snapshots of a training run: what it needs to go on, safe from being killed, full disks and flipped bits."""

import contextlib
import itertools
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from vadd.errors import CheckpointError, ConfigError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.storage.files import make_durable, save_tensors, sync_folder
from vadd.training.checkpoint import save_checkpoint
from vadd.training.manifest import read_file, read_manifest, verify_file, write_manifest
from vadd.training.tree import pack, unpack

__all__ = ["DamagedSnapshotWarning", "Snapshot", "Snapshots"]

_STATE = "state.safetensors"
_MODEL = "model"
_NAME = re.compile(r"step-(\d{10,})(\.new)?")
_HIDDEN = re.compile(r"\.step-\d{10,}(\.new)?\.(partial|removed)(-\d+)?")


class DamagedSnapshotWarning(UserWarning):
    """A snapshot that cannot be read was skipped; the run goes on from an earlier one."""


class Snapshot(NamedTuple):
    """What was saved at a step.

    State and metadata are as they were given, tensors on the CPU. ``folder / "model"`` is the pair to sample from, for
    :func:`~vadd.training.load_checkpoint`.
    """

    step: int
    state: Any
    metadata: dict[str, Any]
    folder: Path
    score: float | None


class Snapshots:
    """Keeps the states of one training run in a folder, one sub-folder a step (``step-0000001000``).

    A snapshot becomes visible in one step, when all its files are on the disk, and disappears in one step: a process
    that is killed at any moment leaves whole snapshots behind, the newest one among them. What it had begun is cleaned
    up at the next :meth:`save`. Only one process may save into a folder.

    A snapshot consists of ``state.safetensors`` (the tensors of the state), ``model/`` (the pair to sample from) and
    ``manifest.json`` (everything else, with a hash of every file and of itself). Reading it executes nothing.

    Args:
        folder: created at the first save, if missing.
        keep_last: how many of the newest snapshots are kept.
        keep_best: keep the one of the lowest score, too. Scores that are not finite are never the best.

    While saving, there is one snapshot more than are kept. Snapshots that cannot be read do not count, and are left for
    you to look at and remove.

    Raises:
        ConfigError: if ``keep_last`` is not a positive integer.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2, keep_best: bool = True):
        if type(keep_last) is not int or keep_last < 1:
            raise ConfigError(f"keep_last must be a positive integer, got {keep_last!r}: a run goes on from the last.")
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_best = keep_best
        self._damaged: set[Path] = set()  # found while loading: only the hashes tell

    def save(
        self,
        step: int,
        state: Any,
        *,
        model: VADDModel,
        guide: RecognitionGuide,
        averaged: tuple[VADDModel, RecognitionGuide] | None,
        metadata: dict[str, Any],
        score: float | None = None,
    ) -> Path:
        """Save a snapshot, then remove those that are not to be kept. One of the same step is replaced.

        Args:
            step: updates done.
            state: what :func:`~vadd.training.tree.pack` takes; with the weights of the pair in training.
            model, guide: the pair in training.
            averaged: the pair to sample from, where that is another one.
            metadata: as the state, but without tensors.
            score: lower is better.

        Returns:
            Folder of the snapshot; it is on the disk.

        Raises:
            ConfigError: if step, state, metadata or score cannot be stored. Nothing was written.
            CheckpointError: if the folder cannot be written; the earlier snapshots are as they were. Or if older ones
                cannot be removed after this one was saved.
        """
        content, tensors = _describe(step, state, metadata, score)
        final = self.folder / f"step-{step:010d}"
        try:
            _make_folder(self.folder)
            self._clean()
            partial = _hidden(final, "partial")
            try:
                partial.mkdir()
                save_tensors(tensors, partial / _STATE)
                make_durable(partial / _STATE)
                notes = {"step": step, "averaged": averaged is not None}
                save_checkpoint(partial / _MODEL, *(averaged or (model, guide)), notes=notes)
                write_manifest(partial, content)
                self._show(partial, final)
            finally:  # nothing is there under this name if all went well
                shutil.rmtree(partial, ignore_errors=True)
        except (OSError, SafetensorError, CheckpointError) as error:
            raise CheckpointError(
                f"cannot save the snapshot of step {step} in {self.folder}: {error}. Make room there, or choose a "
                "folder that can be written; the earlier snapshots are as they were."
            ) from error
        self._damaged.discard(final)
        try:
            self._rotate(final)
        except OSError as error:
            raise CheckpointError(
                f"the snapshot {final} is saved, but older ones cannot be removed: {error}. Remove them by hand."
            ) from error
        return final

    def load_latest(self) -> Snapshot | None:
        """Newest snapshot that can be read, None where there are none.

        Warns:
            DamagedSnapshotWarning: for each newer one that cannot be read.

        Raises:
            CheckpointError: if there are snapshots, but none can be read.
        """
        problems: list[str] = []
        for folder in reversed(self._visible()):
            try:
                snapshot = self.load(folder)
            except CheckpointError as error:
                self._damaged.add(folder)
                problems.append(f"{folder.name} cannot be read: {error}")
                continue
            for problem in problems:
                warnings.warn(f"{problem} Going on from {folder.name}.", DamagedSnapshotWarning, stacklevel=2)
            return snapshot
        if problems:
            raise CheckpointError(
                f"none of the snapshots in {self.folder} can be read; restore one from a copy, or choose an empty "
                "folder to start anew.\n" + "\n".join(problems)
            )
        return None

    def load(self, folder: str | Path) -> Snapshot:
        """Read a snapshot; every byte of it is verified.

        Raises:
            CheckpointError: if it is no snapshot, is damaged, or of another format.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name in manifest["files"].keys() - {_STATE}:
            verify_file(folder, name, manifest)
        try:
            tensors = load(read_file(folder, _STATE, manifest))
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder / _STATE} cannot be read as tensors: {error!r}") from error
        try:
            state = unpack(manifest["state"], tensors)
            metadata, score = unpack(manifest["metadata"], {}), unpack(manifest["score"], {})
        except CheckpointError as error:
            raise CheckpointError(f"the manifest of {folder} is damaged: {error}") from error
        return Snapshot(manifest["step"], state, metadata, folder, score)

    @property
    def best(self) -> Path | None:
        """Folder of the snapshot of the lowest score among those that are there; None where none has one."""
        return _best(self._readable())

    def _visible(self) -> list[Path]:
        """Folders that bear a snapshot's name, the newest last."""
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"the folder of snapshots {self.folder} cannot be read: {error}.") from error
        found = [match for name in names if (match := _NAME.fullmatch(name))]
        found.sort(key=lambda match: (int(match[1]), match[2] is not None))
        return [self.folder / match[0] for match in found]

    def _readable(self) -> list[tuple[Path, dict[str, Any]]]:
        """Snapshots that seem whole, with their manifests, the newest last."""
        found = []
        for folder in self._visible():
            with contextlib.suppress(CheckpointError):
                if folder not in self._damaged:
                    found.append((folder, read_manifest(folder)))
        return found

    def _show(self, partial: Path, final: Path) -> None:
        # Where the step has a snapshot, both are there for a moment.
        target = final.with_name(final.name + ".new") if os.path.lexists(final) else final
        os.rename(partial, target)
        sync_folder(self.folder)
        if target != final:
            self._settle(target)

    def _settle(self, new: Path) -> None:
        """Let a second snapshot of a step take the place of the first."""
        final = new.with_suffix("")
        if os.path.lexists(final):
            _remove(final)
        os.rename(new, final)
        sync_folder(self.folder)
        self._damaged.discard(final)

    def _clean(self) -> None:
        """Finish, or remove, what an earlier process began before it was killed."""
        for path in sorted(self.folder.iterdir()):
            if _HIDDEN.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        whole = [path for path, _ in self._readable()]
        for path in self._visible():
            if path.suffix == ".new" and (path in whole or path.with_suffix("") not in whole):
                self._settle(path)
            elif path.suffix == ".new":
                _remove(path)

    def _rotate(self, saved: Path) -> None:
        readable = self._readable()
        kept = {saved, *(path for path, _ in readable[-self.keep_last :])}
        if self.keep_best:
            kept.add(_best(readable) or saved)
        for path, _ in readable:
            if path not in kept:
                _remove(path)


def _describe(
    step: int, state: Any, metadata: dict[str, Any], score: float | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Content of the manifest, and the tensors."""
    if type(step) is not int or step < 0:
        raise ConfigError(f"step must be an integer of at least 0, got {step!r}.")
    if score is not None and type(score) not in (int, float):
        raise ConfigError(f"score must be a number or None, got {score!r} of type {type(score).__name__}.")
    if type(metadata) is not dict:
        raise ConfigError(f"metadata must be a dict, got {type(metadata).__name__}.")
    structure, tensors = pack(state)
    packed, none = pack(metadata, "metadata")
    if none:
        raise ConfigError("metadata must hold no tensors: put them into the state, or convert them by .tolist().")
    content = {
        "step": step,
        "score": None if score is None else pack(float(score))[0],
        "metadata": packed,
        "state": structure,
    }
    return content, tensors


def _best(readable: list[tuple[Path, dict[str, Any]]]) -> Path | None:
    scored = [(manifest["score"], path) for path, manifest in readable if isinstance(manifest["score"], float)]
    return min(scored)[1] if scored else None  # a number that is not finite is packed as something else


def _make_folder(folder: Path) -> None:
    missing = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _remove(folder: Path) -> None:
    """Remove a snapshot so that no half of it is ever visible; what cannot be removed now waits for the next save."""
    hidden = _hidden(folder, "removed")
    os.rename(folder, hidden)
    sync_folder(folder.parent)
    shutil.rmtree(hidden, ignore_errors=True)


def _hidden(folder: Path, what: str) -> Path:
    """A free name that is no snapshot's. One may be taken by a leftover that could not be removed."""
    names = (f".{folder.name}.{what}{f'-{i}' if i else ''}" for i in itertools.count())
    return next(path for name in names if not os.path.lexists(path := folder.with_name(name)))
