"""The training program that ``reliability.py`` disturbs: ``python reliability_program.py SETTINGS`` (JSON).

Settings: ``folder`` of the run, ``log`` (a file of JSON lines: what happened when), ``out`` (the final weights), and
those of :func:`make_trainer`. What is to go wrong:

- ``kill_update``, ``delay``, ``kill_rank``: SIGKILL so many seconds into an update;
- ``kill_save``, ``kill_call``, ``kill_after``: SIGKILL in the first save from an update on, before or after one of its
  calls that reach the disk;
- ``poison``: updates whose gradient is NaN;
- ``reader_dies_after``: rows after which the process that reads the data ends itself;
- ``max_file_size``: bytes beyond which no file may grow;
- ``resident_at``: updates at which the resident memory is noted.
"""

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vadd import MaskingProcess
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.data import load_digits_tokens
from vadd.recipes import Pair, get_recipe
from vadd.schedules import LinearSchedule
from vadd.training import Callback, Trainer, TrainerConfig, warmup_cosine

FAULTS = ("kill_update", "delay", "kill_rank", "kill_save", "kill_call", "kill_after", "poison", "max_file_size")


def make_pair(hidden_size: int = 64, dropout: float = 0.2, num_levels: int = 17, length: int = 64) -> Pair:
    """A small model of the digits and its guide, by the default recipe."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": hidden_size, "depth": 1, "embedding_size": 4}
    denoiser = MLPDenoiser(num_levels, length, 8, dropout=dropout, **size)
    recognition = MLPRecognition(num_levels, length, 8, dropout=dropout, **size)
    return get_recipe().pair(denoiser, recognition, MaskingProcess(LinearSchedule(), num_levels))


def make_trainer(
    folder: str | None,
    *,
    num_updates: int = 240,
    batch_size: int = 32,
    save_every: int | None = 10,
    hidden_size: int = 64,
    dropout: float = 0.2,
    data: Any = None,
    callbacks: Any = (),
    **config: Any,
) -> Trainer:
    """A trainer of it with an average, a learning-rate schedule and a KL schedule; ``config`` as of TrainerConfig."""
    model, guide = make_pair(hidden_size, dropout)
    recipe = get_recipe()
    return Trainer(
        model,
        guide,
        recipe.objective(model.process),
        load_digits_tokens().train if data is None else data,
        TrainerConfig(num_updates, batch_size, save_every=save_every, log_every=5, ema_decay=0.99, **config),
        schedule=warmup_cosine(num_updates, 10),
        kl_schedule=recipe.kl_schedule(num_updates),
        callbacks=callbacks,
        folder=folder,
        progress=False,
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """The weights in training and their average, each in one vector."""
    average = [p.detach().flatten() for part in trainer.averaged for p in part.parameters()]
    return {
        "weights": torch.cat([p.detach().flatten() for p in trainer.pair.parameters()]),
        "average": torch.cat(average),
    }


def die() -> None:
    """End as a machine does that goes down."""
    os.kill(os.getpid(), signal.SIGKILL)


class Log(Callback):
    """Writes what happens, line by line, and lets the process be killed within an update."""

    def __init__(self, path: str, *, kill_update: int | None, delay: float, resident_at: list[int]) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.kill_update, self.delay, self.resident_at = kill_update, delay, resident_at

    def write(self, event: str, step: int, **more: Any) -> None:
        line = {"event": event, "step": step, "time": time.time(), "rank": int(os.environ.get("RANK", 0)), **more}
        os.write(self.file, json.dumps(line).encode() + b"\n")

    def on_start(self, trainer: Trainer) -> None:
        self.write("start", trainer.step)
        self._arm(trainer.step)

    def on_step(self, trainer: Trainer) -> None:
        self.write("update", trainer.step)
        if trainer.step in self.resident_at:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.write("resident", trainer.step, bytes=pages * os.sysconf("SC_PAGE_SIZE"))
        self._arm(trainer.step)

    def _arm(self, step: int) -> None:
        if self.kill_update is not None and step >= self.kill_update - 1:
            threading.Timer(self.delay, die).start()
            self.kill_update = None


def watch_saves(trainer: Trainer, log: Log, *, at: int | None, call: int, after: bool) -> None:
    """Note how long saves take and how often they reach the disk; kill at one such call of the first from ``at`` on."""
    assert trainer.run.snapshots is not None
    save, state = trainer.run.snapshots.save, {"calls": 0, "is_fatal": False}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            state["calls"] += 1
            is_last = state["is_fatal"] and state["calls"] == call
            if is_last and not after:
                die()
            result = function(*args, **kwargs)
            if is_last:
                die()
            return result

        return wrapped

    def timed(step: int, *args: Any, **kwargs: Any) -> Path:
        state.update(calls=0, is_fatal=at is not None and step >= at)
        start = time.perf_counter()
        path = save(step, *args, **kwargs)
        log.write("save", step, seconds=time.perf_counter() - start, calls=state["calls"])
        return path

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, counted(getattr(os, name)))
    setattr(trainer.run.snapshots, "save", timed)  # noqa: B010


class DyingRows(torch.utils.data.Dataset):
    """The training digits, until the process that reads them ends itself."""

    def __init__(self, dies_after: int) -> None:
        self.tokens, self.left = load_digits_tokens().train, dies_after

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Tensor:
        if self.left == 0:
            os._exit(13)
        self.left -= 1
        return self.tokens[index]


def main(settings: dict[str, Any]) -> int:
    """Train; returns the exit code."""
    torch.set_num_threads(1)
    if settings.pop("float64", False):
        torch.set_default_dtype(torch.float64)
    resident_at, out = settings.pop("resident_at", []), settings.pop("out")
    reader_dies_after = settings.pop("reader_dies_after", None)
    if reader_dies_after is not None:
        settings.update(data=DyingRows(reader_dies_after), num_workers=1)
    faults = {name: settings.pop(name, None) for name in FAULTS}
    if faults["max_file_size"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["max_file_size"],) * 2)
    if int(os.environ.get("RANK", 0)) != (faults["kill_rank"] or 0):
        faults["kill_update"] = None
    log = Log(
        settings.pop("log"),
        kill_update=faults["kill_update"],
        delay=faults["delay"] or 0.0,
        resident_at=resident_at,
    )
    trainer = make_trainer(callbacks=[log], **settings)
    if trainer.folder is not None:
        watch_saves(trainer, log, at=faults["kill_save"], call=faults["kill_call"], after=bool(faults["kill_after"]))
    if faults["poison"]:
        parameter = next(iter(trainer.pair.parameters()))
        parameter.register_hook(lambda g: g * torch.nan if trainer.step + 1 in faults["poison"] else g)
    result = trainer.fit()
    if trainer.is_main and result.stopped == "finished":
        save_file({**weights(trainer), "skipped": torch.tensor([result.skipped])}, out)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
