"""Where faults are injected: programs that run and end, what they leave, and whether it is whole."""

import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from vadd.errors import CheckpointError
from vadd.training import Snapshots, read_metrics

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "benchmarks" / "reliability_program.py"
SAVE_EVERY = 10


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    said: str
    events: list[dict[str, Any]]
    started: float
    ended: float

    def steps(self, event: str) -> list[int]:
        return [line["step"] for line in self.events if line["event"] == event]

    @property
    def recovery(self) -> float | None:
        """Seconds from the start of the program to its first update."""
        return next((line["time"] - self.started for line in self.events if line["event"] == "update"), None)

    @property
    def resumed_at(self) -> int | None:
        return next(iter(self.steps("start")), None)


@dataclass
class Fault:
    """The tries of one fault."""

    name: str
    survived_means: str
    tried: int = 0
    survived: int = 0
    seconds: list[float] = field(default_factory=list)
    message: str | None = None
    failures: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, recovery: float | None = None, message: str | None = None, **checks: bool) -> None:
        """One try, survived if all checks hold."""
        self.tried += 1
        self.survived += all(checks.values())
        self.failures += [f"try {self.tried}: {name.replace('_', ' ')}" for name, holds in checks.items() if not holds]
        self.message = self.message or message
        if recovery is not None:
            self.seconds.append(recovery)

    def report(self) -> dict[str, Any]:
        seconds = {"median": statistics.median(self.seconds), "max": max(self.seconds)} if self.seconds else None
        return {
            "fault": self.name,
            "survived_means": self.survived_means,
            "tried": self.tried,
            "survived": self.survived,
            "seconds_to_recover": seconds,
            "message": self.message and self.message[:500] + ("" if len(self.message) <= 500 else " ..."),
            "failures": self.failures,
            **self.notes,
        }


class Lab:
    """Runs programs in a folder of its own, and knows how the undisturbed one ends."""

    def __init__(self, root: Path, *, num_updates: int, seed: int) -> None:
        self.root, self.num_updates, self.random = root, num_updates, random.Random(seed)
        self.count = 0
        self.plain = root / "plain"
        done = self.run(self.plain)
        require(done.code == 0, done.said)
        self.weights = self.result()
        saves = [line for line in done.events if line["event"] == "save"]
        self.calls = saves[-1]["calls"]
        self.saves = [line["seconds"] for line in saves]
        times = [line["time"] for line in done.events if line["event"] == "update"]
        self.update_seconds = statistics.median(b - a for a, b in zip(times, times[1:], strict=False))

    def folder(self, name: str) -> Path:
        """A folder that is not there yet."""
        self.count += 1
        return self.root / f"{name}-{self.count}"

    def run(
        self, folder: Path, *, num: int = 1, at: tuple[int, Callable[[int], Any]] | None = None, **settings: Any
    ) -> Ended:
        """One program from start to end.

        Args:
            folder: of the run.
            num: processes.
            at: an update, and what to do with the process's id when it is done.
            **settings: of the program.
        """
        log, said, out = self.root / "log", self.root / "said", self.root / "out"
        for path in (log, said, out):
            path.unlink(missing_ok=True)
        settings = {"num_updates": self.num_updates, "save_every": SAVE_EVERY, **settings}
        arguments = [str(PROGRAM), json.dumps({"folder": str(folder), "log": str(log), "out": str(out), **settings})]
        if num > 1:
            address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
            arguments = ["-m", "torch.distributed.run", "--nproc-per-node", str(num), *address, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        started = time.time()
        with said.open("w") as output:
            process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=output, stderr=output)
            try:
                if at is not None:
                    while (
                        process.poll() is None
                        and max(Ended(0, "", read_log(log), 0, 0).steps("update"), default=0) < at[0]
                    ):
                        time.sleep(0.005)
                    if process.poll() is None:
                        at[1](process.pid)
                code = process.wait(timeout=600)
            finally:
                if process.poll() is None:
                    process.kill()
        return Ended(code, said.read_text().replace(str(folder), "FOLDER"), read_log(log), started, time.time())

    def result(self) -> dict[str, Tensor] | None:
        """Weights of the last program, None where it did not come to the end."""
        path = self.root / "out"
        return load_file(path) if path.exists() else None

    def is_equal(self) -> bool:
        """Whether the last program ended with the weights of the undisturbed one, bit for bit."""
        return same(self.result(), self.weights)

    def again(self, folder: Path) -> tuple[Ended, dict[str, bool]]:
        """Start again, undisturbed; the program and the checks of its end."""
        done = self.run(folder)
        return done, {
            "the_program_came_to_its_end": done.code == 0,
            "the_weights_are_those_of_the_undisturbed_run": self.is_equal(),
            "every_metric_is_there_once": has_all_metrics(folder, self.plain),
        }

    def interrupted(self) -> Path:
        """A run that was killed in the middle, with two snapshots or more; copied from one that is made once."""
        made = self.root / "interrupted"
        if not made.exists():
            self.run(made, kill_update=self.middle, delay=0.0)
            require(len(Snapshots(made / "snapshots")._visible()) == 2, "the run was to be killed between saves.")
        folder = self.folder("copy")
        shutil.copytree(made, folder)
        return folder

    @property
    def middle(self) -> int:
        """An update in the middle that is no multiple of SAVE_EVERY."""
        return self.num_updates // 2 // SAVE_EVERY * SAVE_EVERY + 5


def require(holds: bool, message: str) -> None:
    """The benchmark itself cannot go on."""
    if not holds:
        raise SystemExit(f"reliability.py: {message}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Whole lines."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def same(found: dict[str, Tensor] | None, expected: dict[str, Tensor] | None) -> bool:
    return found is not None and expected is not None and all(torch.equal(found[k], v) for k, v in expected.items())


def has_all_metrics(folder: Path, plain: Path) -> bool:
    """Whether every pair of step and name of the undisturbed run is there, and none twice."""
    try:
        counts, expected = (
            Counter((step, name) for name, m in read_metrics(path).items() for step in m["step"])
            for path in (folder, plain)
        )
    except Exception:
        return False
    return counts == expected and set(counts.values()) == {1}


def whole(folder: Path) -> tuple[list[int], bool]:
    """Steps of the visible snapshots, and whether each of them can be read."""
    snapshots = Snapshots(folder / "snapshots")
    visible = snapshots._visible()
    try:
        return [snapshots.load(path).step for path in visible], True
    except CheckpointError:
        return [], False


def newest(folder: Path) -> Path:
    return Snapshots(folder / "snapshots")._visible()[-1]


def last_words(done: Ended) -> str:
    """The error, or the last line, that the program left on the terminal."""
    said = [line for line in done.said.strip().splitlines() if line.strip()]
    starts = [i for i, line in enumerate(said) if re.match(r"[\w.]*(Error|Interrupt)\b", line)]
    return re.sub(r"\s+", " ", " ".join(said[starts[-1] :] if starts else said[-1:]))


def has_error(done: Ended, kind: str, *parts: str) -> bool:
    """Whether the program ended by an error of vadd with these words."""
    words = last_words(done)
    return done.code == 1 and words.startswith(f"vadd.errors.{kind}") and all(part in words for part in parts)


def digest(folder: Path) -> dict[str, bytes]:
    """Content of the visible snapshots."""
    if not (folder / "snapshots").is_dir():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for snapshot in Snapshots(folder / "snapshots")._visible()
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }


INTACT = (
    "A clear error; the earlier snapshots are as they were, byte for byte; started again {then}, it goes on and ends "
    "with the weights of the undisturbed run, bit for bit."
)


def obstructed(
    lab: Lab, fault: Fault, folder: Path, words: str, settings: dict[str, Any], clear: Callable[[], Any]
) -> None:
    """A run that cannot write, and then can."""
    before = digest(folder)
    done = lab.run(folder, **settings)
    intact = all(digest(folder).get(name) == data for name, data in before.items())
    clear()
    again, checks = lab.again(folder)
    fault.add(
        again.recovery,
        last_words(done),
        it_ended_by_an_error_that_names_it=done.code == 1 and words in last_words(done) and "vadd.errors" in done.said,
        the_earlier_snapshots_are_intact=intact,
        **checks,
    )
