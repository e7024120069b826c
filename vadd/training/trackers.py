"""Metrics to files and to trackers of Accelerate."""

import csv
import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vadd._checks import require_integer
from vadd.errors import CheckpointError, ConfigError, DataError, DomainError
from vadd.storage.files import write_text

__all__ = ["csv_tracker", "drop_later_rows", "read_metrics", "resolve_trackers", "start_trackers"]

_FILE = "metrics.csv"
_HEADER = ["step", "name", "value"]
# What has to be installed for a tracker that Accelerate brings: any of these packages, and how to get it.
_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'vadd[tensorboard]'"),
    "wandb": (("wandb",), "pip install wandb"),
}


def resolve_trackers(trackers: Sequence[Any] | None, folder: str | Path | None) -> list[Any]:
    """What ``Accelerator(log_with=..., project_dir=folder)`` takes, for names of trackers.

    Args:
        trackers: ``"csv"`` (:func:`csv_tracker`), ``"tensorboard"``, ``"wandb"``, or trackers of Accelerate of your
            own, which are passed on; None is ``"csv"`` where there is a folder.
        folder: of the run; None if none of the trackers writes there.

    Raises:
        ConfigError: on an unknown or repeated name, a missing package, or a missing folder.
    """
    if trackers is None:
        trackers = () if folder is None else ("csv",)
    general_tracker = _general_tracker() if trackers else None
    resolved: list[Any] = []
    for tracker in trackers:
        if general_tracker is not None and isinstance(tracker, general_tracker):
            resolved.append(tracker)
            continue
        if tracker not in ("csv", *_PACKAGES):
            raise ConfigError(
                f"trackers are 'csv', {', '.join(map(repr, _PACKAGES))} or trackers of Accelerate, got {tracker!r}."
            )
        if list(trackers).count(tracker) > 1:
            raise ConfigError(f"trackers names {tracker!r} more than once: everything would be written twice.")
        packages, remedy = _PACKAGES.get(tracker, ((), ""))
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise ConfigError(f"the tracker {tracker!r} needs the package {packages[0]}: {remedy}.")
        if tracker != "wandb" and folder is None:
            raise ConfigError(f"the tracker {tracker!r} writes to the folder of the run: give folder.")
        resolved.append(csv_tracker(folder) if tracker == "csv" and folder is not None else tracker)
    return resolved


def start_trackers(
    accelerator: Any, step: int = 0, *, project: str = "vadd", config: Mapping[str, Any] | None = None
) -> None:
    """Start the trackers of an Accelerator at a step, in every process.

    What an interrupted run wrote of later steps goes: rows of ``metrics.csv`` are dropped, and TensorBoard is told to
    hide them. A tracker of your own is told by its method ``resume_at(step)``, where it has one. Trackers that ran
    before are finished first.

    Args:
        accelerator: made with ``log_with=resolve_trackers(...)``.
        step: number of updates that are done.
        project: folder of TensorBoard's files within that of the run, and the project of W&B.
        config: noted by the trackers that note such; values other than numbers, strings and flags as their ``repr``.
    """
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()
    if accelerator.is_main_process:
        for tracker in accelerator.log_with:
            if hasattr(tracker, "resume_at"):
                tracker.resume_at(step)
    plain = {k: v if isinstance(v, bool | int | float | str) else repr(v) for k, v in (config or {}).items()}
    # Of events from this step on, those that were written before the start are hidden.
    accelerator.init_trackers(project, plain or None, {"tensorboard": {"purge_step": step + 1}} if step else {})


def csv_tracker(folder: str | Path) -> Any:
    """A tracker of Accelerate that appends each metric as a row ``step,name,value`` to ``<folder>/metrics.csv``.

    Every log is on file when it returns, and a name may appear at any time. ``tracker.resume_at(step)`` is
    :func:`drop_later_rows`.

    Raises:
        ConfigError: if Accelerate is not installed.
    """

    class CSVTracker(_general_tracker()):
        name = "csv"
        requires_logging_directory = False
        main_process_only = True

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

        @property
        def tracker(self) -> Path:
            return self.folder / _FILE

        def resume_at(self, step: int) -> None:
            drop_later_rows(self.folder, step)

        def log(self, values: Mapping[str, float], step: int | None = None, **kwargs: Any) -> None:
            if _is_main_process():
                _append(self.tracker, values, step)

    return CSVTracker(Path(folder))


def drop_later_rows(folder: str | Path, step: int) -> None:
    """Before a run goes on from ``step``, drop what it wrote after that, and a half-written last line.

    The file is replaced in one step. A run that starts from step 0 keeps nothing.

    Raises:
        DataError: if the file is damaged elsewhere.
        CheckpointError: if it cannot be written.
    """
    require_integer("step", step, minimum=0)
    path = Path(folder) / _FILE
    if path.exists():
        kept = [row for row in _read_rows(path) if 0 < step and row[0] <= step]
        with _writing(path):
            write_text(path, _as_csv([_HEADER, *((at, name, repr(value)) for at, name, value in kept)]))


def read_metrics(folder: str | Path) -> dict[str, dict[str, list[Any]]]:
    """The metrics of a run, ``{name: {"step": [...], "value": [...]}}`` in the order written; also while it goes on.

    Raises:
        DataError: if ``<folder>/metrics.csv`` is missing or damaged. A last line that is being written is left out.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise DataError(f"there are no metrics in {path}: the run needs trackers=('csv',) and a folder.")
    metrics: dict[str, dict[str, list[Any]]] = {}
    for step, name, value in _read_rows(path):
        columns = metrics.setdefault(name, {"step": [], "value": []})
        columns["step"].append(step)
        columns["value"].append(value)
    return metrics


def _append(path: Path, values: Mapping[str, float], step: int | None) -> None:
    require_integer("step", step, minimum=0)
    rows: list[list[Any]] = []
    for name, value in values.items():
        if not isinstance(name, str) or not name or set(name) & set("\r\n"):
            raise ConfigError(f"the name of a metric must be text in one line, got {name!r}.")
        try:
            rows.append([step, name, repr(float(value))])
        except (TypeError, ValueError) as error:
            raise DomainError(f"metric {name!r} must be a number, got {value!r}.") from error
    # In one piece: a reader finds whole lines, but for a kill within the system's write.
    with _writing(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(_as_csv(rows if file.tell() else [_HEADER, *rows]))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write the metrics to {path}: {error}. Make room there, or choose a folder that can be written; "
            "the snapshots are as they were."
        ) from error


def _as_csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read_rows(path: Path) -> list[tuple[int, str, float]]:
    """All complete rows of the file."""
    data = path.read_bytes()
    rows: list[tuple[int, str, float]] = []
    number = 0
    try:
        # Cut as bytes: the last line may end within a character.
        lines = data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]
        for number, cells in enumerate(csv.reader(lines), start=1):
            if number == 1 and cells == _HEADER:
                continue
            step, name, value = cells
            rows.append((int(step), name, float(value)))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}, line {number}, is no row step,name,value: {error}. Remove the line.") from error
    return rows


def _general_tracker() -> Any:
    try:
        from accelerate.tracking import GeneralTracker
    except ImportError as error:
        raise ConfigError("trackers need the package accelerate: pip install 'vadd[training]'.") from error
    return GeneralTracker


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
