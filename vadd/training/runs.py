"""The folder of a training run: its snapshots, and judging its pair."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadd._checks import require_kind
from vadd._modes import evaluating
from vadd.errors import CheckpointError, ConfigError
from vadd.storage.pair import check_pair
from vadd.training.parts import describe_objective
from vadd.training.snapshots import Snapshot, Snapshots
from vadd.training.trackers import start_trackers
from vadd.training.tree import pack
from vadd.training.validation import BoundValidation

if TYPE_CHECKING:
    from vadd.training.trainer import Trainer

__all__ = ["Run"]

#: Settings that decide what an update draws and does: a run cannot go on with others.
_FIXED = ("batch_size", "seed", "ema_decay", "precision", "learning_rate", "betas", "weight_decay", "clip_norm")


class Run:
    """Saves a trainer's state to its folder, and takes it up again."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.snapshots: Snapshots | None = None
        self.saved_at: int | None = None
        self.judged_at: int | None = None
        self.score: float | None = None  # at the latest validation
        self.best_score = math.inf
        self._path: Path | None = None
        if trainer.folder is not None:
            config = trainer.config
            folder = trainer.folder / "snapshots"
            self.snapshots = Snapshots(folder, keep_last=config.keep_last, keep_best=config.keep_best)

    def start(self, resume: bool) -> None:
        """Go on from the latest snapshot, where there is one, and open the trackers.

        Raises:
            ConfigError: if the folder holds a run that is not to be resumed, or the state or the pair cannot be stored.
            CheckpointError: as :meth:`restore`, or if no snapshot can be read.
        """
        trainer = self.trainer
        found = None if self.snapshots is None else self.snapshots.load_latest()
        if found is not None and trainer.step == 0:
            if not resume:
                raise ConfigError(
                    f"{trainer.folder} holds a run at update {found.step}: resume it or use another folder."
                )
            self.restore(found)
        if self.snapshots is not None:  # what cannot be stored is better known now
            pack({"scheduler": self._of_scheduler(), "callbacks": self._of_callbacks()})
            trainer.gather()
            check_pair(*trainer.averaged)
        if trainer.accelerator.log_with:
            start_trackers(trainer.accelerator, trainer.step, config=trainer.config.to_json())

    def finish(self) -> None:
        """Save what was not, and close the trackers."""
        self.save()
        for tracker in self.trainer.accelerator.trackers:
            tracker.finish()

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        """When an error ends training, what was done is saved, and callbacks are told: they may hold something open."""
        try:
            yield
        except BaseException as error:
            self._rescue(error)
            for callback in self.trainer.callbacks:
                callback.on_end(self.trainer, "error")
            raise

    def _rescue(self, error: BaseException) -> None:
        """Save, and note in the error whether that was done."""
        trainer = self.trainer
        # What is no Exception, such as a second Ctrl-C, ends the program at once. What could not be saved, cannot now.
        if trainer.step == 0 or not isinstance(error, Exception) or isinstance(error, CheckpointError):
            return
        saved = "not saved, as "
        if self.snapshots is None:
            saved += "there is no folder"
        elif trainer.processes.num > 1:
            saved += "other processes may go on, and would not take part"
        elif not trainer.is_whole:
            saved += f"update {trainer.step + 1} is half made"
        else:
            try:
                saved = f"saved to {self.save()}"
            except Exception as second:  # not to hide the first
                saved += f"that failed, too: {second}"
        error.add_note(f"training ended after update {trainer.step}: {saved}.")

    def save(self) -> Path | None:
        """Write a snapshot in the main process, unless there is a folder and one of this update."""
        trainer = self.trainer
        if self.snapshots is None or self.saved_at == trainer.step:
            return self._path
        state = self.state()  # all processes together
        trainer.gather()
        if trainer.is_main:
            model, guide = trainer.averaged
            self._path = self.snapshots.save(
                trainer.step,
                state,
                model=model,
                guide=guide,
                averaged=None if trainer.config.ema_decay is None else (model, guide),
                metadata=self._metadata(),
                score=self.score if self.judged_at == trainer.step else None,
            )
            for callback in trainer.callbacks:
                callback.on_save(trainer, self._path)
        trainer.processes.wait()
        self.saved_at = trainer.step
        return self._path

    def _metadata(self) -> dict[str, Any]:
        """What a person wants to know of a snapshot; versions and step are in its manifest anyhow."""
        trainer = self.trainer
        return {
            "config": trainer.config.to_json(),
            "objective": describe_objective(trainer.objective),
            "num_processes": trainer.processes.num,
            "sequences_read": trainer.step * trainer.config.batch_size,
            "num_rows": trainer.feed.num_rows,
            "epoch": trainer.feed.epoch(trainer.step),
            "metrics": trainer.metrics,
            "judged_at": self.judged_at,
        }

    def state(self) -> dict[str, Any]:
        """All that the updates to come depend on."""
        trainer = self.trainer
        return {
            **trainer.weights.state(trainer.optimizer),
            "scheduler": self._of_scheduler(),
            "scaler": trainer.scaler.state_dict(),
            "best_score": self.best_score,
            "skipped": [trainer.skipped, trainer.skipped_in_a_row],
            "callbacks": self._of_callbacks(),
            "data": trainer.feed.position,
        }

    def _of_scheduler(self) -> dict[str, Any] | None:
        return None if self.trainer.scheduler is None else self.trainer.scheduler.state_dict()

    def _of_callbacks(self) -> list[Any]:
        return [[type(callback).__name__, callback.state_dict()] for callback in self.trainer.callbacks]

    def restore(self, found: Snapshot) -> None:
        """Take up a snapshot.

        Raises:
            CheckpointError: if it is of another model or of a run with other settings.
        """
        trainer, state = self.trainer, found.state
        try:
            theirs, num = found.metadata["config"], found.metadata["num_rows"]
        except KeyError as error:
            raise CheckpointError(f"the snapshot {found.folder} is not of a Trainer: it lacks {error}.") from error
        ours = trainer.config.to_json()
        other = [
            f"{name} {theirs.get(name)!r}, now {ours[name]!r}" for name in _FIXED if theirs.get(name) != ours[name]
        ]
        own = trainer.feed.num_rows
        if num != own:
            other.append(f"{'a stream' if num is None else f'{num} rows'} of data, now {own or 'a stream'}")
        was = found.metadata.get("objective", {})  # early snapshots do not tell
        other += [
            f"an objective of {name} {was[name]}, now {value}"
            for name, value in describe_objective(trainer.objective).items()
            if was.get(name, value) != value
        ]
        if (state["scheduler"] is None) != (trainer.scheduler is None):
            other.append("no schedule, now with one" if trainer.scheduler else "a schedule, now without one")
        if other:
            raise CheckpointError(
                f"the run in {trainer.folder} was made with {'; '.join(other)}: it cannot go on with other settings. "
                "Use the same ones, or another folder."
            )
        if found.step > trainer.config.num_updates:
            raise CheckpointError(
                f"the run in {trainer.folder} is at update {found.step}, beyond num_updates="
                f"{trainer.config.num_updates}: raise it, or use another folder."
            )
        try:
            trainer.weights.load(state, trainer.optimizer)
            if trainer.scheduler is not None:
                trainer.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the snapshot {found.folder} is of another model, optimizer or schedule: {error}. Build the same "
                "ones, or use another folder."
            ) from error
        trainer.feed.restore(state.get("data"))
        trainer.scaler.load_state_dict(state["scaler"])
        trainer.skipped, trainer.skipped_in_a_row = state["skipped"]
        self.best_score = state["best_score"]
        trainer.step = self.saved_at = found.step
        self.score, self.judged_at = found.score, found.metadata.get("judged_at", found.step)  # absent in early ones
        self._path = found.folder
        self._restore_callbacks(state["callbacks"])

    def _restore_callbacks(self, states: list[Any]) -> None:
        left = list(states)
        for callback in self.trainer.callbacks:
            match = next((item for item in left if item[0] == type(callback).__name__), None)
            if match is not None:
                left.remove(match)
                callback.load_state_dict(match[1])

    def judge(self) -> dict[str, float]:
        """Metrics of the averaged pair."""
        trainer, validation = self.trainer, self.trainer.validation
        if validation is None:
            raise ConfigError("validate needs a validation: Trainer(..., validation=BoundValidation(heldout)).")
        trainer.gather()
        model, guide = trainer.averaged
        start = time.perf_counter()
        processes = trainer.processes
        with evaluating(model, guide):
            if isinstance(validation, BoundValidation):
                values = validation(model, guide, process_index=processes.rank, num_processes=processes.num)
                metrics = validation.reduce(trainer.accelerator, values)
            else:
                metrics = processes.from_main(validation(model, guide) if processes.is_main else None)
        require_kind("what validation returns", metrics, Mapping, 'for example {"validation/score": score}')
        metrics = {name: float(value) for name, value in metrics.items()}
        metrics["validation/seconds"] = time.perf_counter() - start
        self.judged_at, self.saved_at = trainer.step, None  # a snapshot from before has no score
        self.score = metrics.get(getattr(validation, "score", "validation/score"))
        return metrics

    def keep_if_best(self) -> None:
        """Save the pair where its score is the best so far."""
        if self.score is not None and self.score < self.best_score:
            self.best_score = self.score
            if self.trainer.config.keep_best:
                self.save()
