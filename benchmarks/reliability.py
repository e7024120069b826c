"""Faults injected into training programs: what survives, what it costs, and what a person is told.

The program is ``reliability_program.py``: a small VADD on scikit-learn's digits, with dropout, a moving average, a
learning-rate and a KL schedule, and a snapshot every 10 of 240 updates. A fault counts as survived if all its checks
hold; the checks that failed are listed. Seconds to recover run from starting the program again to its first new update,
Python's imports included. Run ``python benchmarks/reliability.py``; ``--smoke`` does a handful.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vadd.data import load_digits_tokens
from vadd.errors import CheckpointError
from vadd.recipes import get_recipe
from vadd.reporting import write_report
from vadd.training import Snapshots, load_checkpoint, read_metrics, warmup_cosine
from vadd.training.manifest import MANIFEST, read_manifest, write_manifest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = ROOT / "benchmarks" / "reliability_program.py"
SAVE_EVERY, NUM_UPDATES = 10, 240

sys.path.insert(0, str(ROOT / "benchmarks"))
from reliability_program import make_pair, make_trainer  # noqa: E402


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


def sigkill(lab: Lab, tries: int, in_saves: int, at_start: int = 0) -> Fault:
    """One run, killed again and again."""
    fault = Fault(
        "SIGKILL at random moments",
        f"All visible snapshots can be read; the program, started again, goes on from the newest, at most {SAVE_EVERY} "
        "updates before the kill, and ends with the weights of the undisturbed run, bit for bit, and each metric once.",
    )
    kinds = ["save"] * in_saves + ["start"] * at_start + ["update"] * (tries - in_saves - at_start)
    lab.random.shuffle(kinds)
    folder, block, before = lab.folder("killed"), lab.num_updates // tries, 0
    pending: list[dict[str, bool]] = []
    for i, kind in enumerate(kinds):
        step = block * i + lab.random.randint(1, max(1, block - 2))
        settings: dict[str, Any] = {}
        if kind == "save":
            call, after = lab.random.randint(1, lab.calls), lab.random.random() < 0.5
            settings = {"kill_save": step, "kill_call": call, "kill_after": after}
        elif kind == "update":
            settings = {"kill_update": step, "delay": lab.random.random() * 2 * lab.update_seconds}
        else:  # when the trainer was built and the snapshot taken up
            settings = {"kill_update": 1, "delay": 0.0}
        done = lab.run(folder, **settings)
        if i and done.recovery is not None:
            fault.seconds.append(done.recovery)
        steps, is_whole = whole(folder)
        reached = max([before, *done.steps("update")])
        pending.append(
            {
                "it_was_killed": done.code == -signal.SIGKILL,
                "all_visible_snapshots_can_be_read": is_whole,
                "it_went_on_from_the_newest": done.resumed_at in (None, before),
                "at_most_save_every_updates_are_lost": reached - max(steps, default=0) <= SAVE_EVERY,
            }
        )
        before = max(steps, default=0)
    done, checks = lab.again(folder)
    checks["it_went_on_from_the_newest"] = done.resumed_at == before
    fault.seconds += [] if done.recovery is None else [done.recovery]
    for found in pending:
        fault.add(None, None, **found, **{f"in_the_end_{name}": holds for name, holds in checks.items()})
    values = [
        {k: v for k, v in read_metrics(path).items() if k != "sequences_per_second"} for path in (folder, lab.plain)
    ]
    fault.notes = {"kills": dict(Counter(kinds)), "metrics_have_equal_values": values[0] == values[1]}
    return fault


def signals(lab: Lab, tries: int) -> Iterator[Fault]:
    """Asked to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        fault = Fault(
            number.name,
            f"Saved at the update of the signal, exit code {128 + number}, told in one line; started again it goes on "
            "there and ends with the weights of the undisturbed run, bit for bit.",
        )
        for _ in range(tries):
            folder = lab.folder("signal")
            step = lab.random.randint(1, lab.num_updates * 2 // 3)
            done = lab.run(folder, at=(step, lambda pid, number=number: os.kill(pid, number)))
            reached = max(done.steps("update"), default=0)
            words = f"interrupted by signal {int(number)} at update {reached} of {lab.num_updates}: saved to FOLDER"
            again, checks = lab.again(folder)
            fault.add(
                again.recovery,
                last_words(done),
                exit_code=done.code == 128 + number,
                words=words in done.said and "Traceback" not in done.said,
                it_went_on_there=again.resumed_at == reached > 0,
                **checks,
            )
        yield fault


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


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of that size at ``folder``, if this user may make one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    can_mount = False
    if sys.platform == "linux" and os.geteuid() == 0:
        can_mount = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield can_mount
    finally:
        if can_mount:
            subprocess.run(["umount", str(folder)], check=True)


def full_disk(lab: Lab) -> Iterator[Fault]:
    """No room for a snapshot."""
    size = sum(path.stat().st_size for path in newest(lab.interrupted()).rglob("*") if path.is_file())
    fault = Fault("disk full while saving", INTACT.format(then="after room was made"))
    for share in (0.0, 0.1, 0.5, 0.95):  # of a snapshot still fits
        disk = lab.folder("disk")
        with small_disk(disk, 64) as can_mount:
            if not can_mount:
                break
            folder, ballast = disk / "run", disk / "ballast"
            shutil.copytree(lab.interrupted(), folder)
            usage = os.statvfs(disk)
            ballast.write_bytes(bytes(usage.f_bavail * usage.f_frsize - int(share * size)))
            obstructed(lab, fault, folder, "No space left", {}, ballast.unlink)
    yield fault
    fault = Fault("file size limit while saving", INTACT.format(then="without the limit"))
    for share in (0.05, 0.3, 0.7):
        limit = {"max_file_size": int(share * size)}
        obstructed(lab, fault, lab.interrupted(), "cannot save the snapshot", limit, lambda: None)
    yield fault


def unwritable(lab: Lab) -> Iterator[Fault]:
    """A folder that cannot be written."""
    fault = Fault("folder of snapshots below a file", INTACT.format(then="after the file was removed"))
    folder = lab.folder("file") / "run"
    folder.parent.touch()
    obstructed(lab, fault, folder, "", {}, folder.parent.unlink)
    folder = lab.interrupted()
    (folder / "snapshots").rename(folder / "aside")
    (folder / "snapshots").touch()

    def put_back() -> None:
        (folder / "snapshots").unlink()
        (folder / "aside").rename(folder / "snapshots")

    obstructed(lab, fault, folder, "snapshots", {}, put_back)
    yield fault
    fault = Fault("read-only folder", INTACT.format(then="after it was made writable"))
    disk = lab.folder("disk")
    with small_disk(disk, 64) as can_mount:
        folder = disk / "run"
        shutil.copytree(lab.interrupted(), folder)
        if can_mount:
            remount = ["mount", "-o", "remount,{}", str(disk)]
            subprocess.run([part.format("ro") for part in remount], check=True)
            undo: Callable[[], Any] = lambda: subprocess.run([part.format("rw") for part in remount], check=True)  # noqa: E731
            obstructed(lab, fault, folder, "Read-only", {}, undo)
        elif os.geteuid() != 0:
            folder.chmod(0o500)
            (folder / "snapshots").chmod(0o500)
            undo = lambda: [path.chmod(0o700) for path in (folder, folder / "snapshots")]  # noqa: E731
            obstructed(lab, fault, folder, "ermission", {}, undo)
    yield fault


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


def dying_reader(lab: Lab, tries: int) -> Fault:
    """The process that reads the data ends."""
    fault = Fault(
        "a data loader's worker dies",
        "An error that says so and names the snapshot of the last update; started again, it goes on there and ends "
        "with the weights of the undisturbed run, bit for bit.",
    )
    for _ in range(tries):
        folder = lab.folder("reader")
        rows = lab.random.randint(8 * 32, (lab.num_updates - 2) * 32)
        done = lab.run(folder, reader_dies_after=rows)
        reached = max(done.steps("update"), default=0)
        named = has_error(done, "DataError", "died (exit code 13)", f"step-{reached:010d}")
        again, checks = lab.again(folder)
        fault.add(again.recovery, last_words(done), error=named, saved=again.resumed_at == reached > 0, **checks)
    return fault


def dying_process(lab: Lab, ranks: tuple[int, ...], restarts: tuple[int, ...]) -> Fault:
    """One of two processes is killed."""
    fault = Fault(
        "one of two processes killed (gloo)",
        "All end with an error within a minute; started again with two processes or with one, the run goes on and ends "
        "with the weights of an undisturbed run of one process to 1e-10 (float64, no dropout).",
    )
    settings = {"float64": True, "dropout": 0.0, "num_updates": min(lab.num_updates, 60)}
    lab.run(lab.folder("one"), **settings)
    expected = load_file(lab.root / "out")
    seconds, differences = [], []
    for rank in ranks:
        killed, step = lab.folder("two"), lab.random.randint(SAVE_EVERY + 1, settings["num_updates"] - 2)
        done = lab.run(killed, num=2, kill_update=step, delay=0.0, kill_rank=rank, **settings)
        last = max((line["time"] for line in done.events if line["event"] == "update"), default=done.started)
        seconds.append(done.ended - last)
        steps, is_whole = whole(killed)
        for num in restarts:
            folder = lab.folder("two")
            shutil.copytree(killed, folder)
            again = lab.run(folder, num=num, **settings)
            found = lab.result()
            error = max(float((found[k] - expected[k]).abs().max()) for k in ("weights", "average")) if found else 1.0
            differences.append(error)
            fault.add(
                again.recovery,
                f"process {rank} was killed: {words_of_torchrun(done)}",
                all_ended_within_a_minute=done.code != 0 and seconds[-1] < 60,
                all_visible_snapshots_can_be_read=is_whole,
                it_went_on_from_the_newest=again.resumed_at == max(steps) > 0,
                it_came_to_its_end=again.code == 0,
                the_weights_agree=error < 1e-10,
            )
    fault.notes = {"seconds_until_all_had_ended": seconds, "largest_difference": max(differences)}
    return fault


def words_of_torchrun(done: Ended) -> str:
    """What torchrun says of the killed process, and the other one of the connection."""
    lines = [line.strip() for line in done.said.splitlines()]
    found = [next((line for line in lines if part in line), "") for part in ("Signal 9", "RuntimeError")]
    words = "; ".join(re.sub(r"\[/\S*\] |\[127\S* |^traceback *: ", "", line) for line in found if line)
    return re.sub(r"PID \d+", "PID ...", words)


def memory(lab: Lab, updates: tuple[int, int]) -> Fault:
    """Resident memory over a long run."""
    fault = Fault("a long run", "The resident memory grows by less than 8 MiB between the two updates.")
    done = lab.run(lab.folder("long"), num_updates=updates[1], resident_at=list(updates), save_every=100)
    used = {line["step"]: line["bytes"] for line in done.events if line["event"] == "resident"}
    fault.add(None, None, it_came_to_its_end=done.code == 0, memory=used[updates[1]] - used[updates[0]] < 8 * 2**20)
    fault.notes = {"resident_bytes": {str(step): value for step, value in used.items()}}
    return fault


def timed(function: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one thread on the processor, which other programs leave alone, and by the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}


def trainer_cost(repeats: int, num_updates: int, hidden_size: int, batch_size: int) -> dict[str, Any]:
    """Seconds an update of the Trainer and of a loop written by hand, in turns."""
    tokens = load_digits_tokens().train

    def by_trainer() -> dict[str, float]:
        trainer = make_trainer(
            None, num_updates=num_updates, save_every=None, hidden_size=hidden_size, batch_size=batch_size, data=tokens
        )
        return timed(trainer.fit)

    def by_hand() -> dict[str, float]:
        model, guide = make_pair(hidden_size)
        pair, recipe = torch.nn.ModuleList([model, guide]), get_recipe()
        average = AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        parameters = [p for p in pair.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        scheduler, kl_weight = warmup_cosine(num_updates, 10)(optimizer), recipe.kl_schedule(num_updates)
        objective = recipe.objective(model.process)
        loss_fn = objective(model, guide)
        pair.train()

        def fit() -> None:
            for step in range(num_updates):
                if step == 1:
                    model.process.validate_args = False  # as the Trainer does
                objective.kl_weight = kl_weight(step)
                loss = loss_fn(tokens[torch.randint(len(tokens), (batch_size,))])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                average.update_parameters(pair)

        return timed(fit)

    by_trainer(), by_hand()  # what is set up at the first call
    pairs = []
    for i in range(repeats):
        turns = [("trainer", by_trainer), ("by_hand", by_hand)]
        pairs.append({name: run() for name, run in (turns if i % 2 else reversed(turns))})
    cost: dict[str, Any] = {
        "hidden_size": hidden_size,
        "batch_size": batch_size,
        "updates": num_updates,
        "repeats": repeats,
    }
    for clock in ("processor", "clock"):
        ratios = [pair["trainer"][clock] / pair["by_hand"][clock] for pair in pairs]
        cost[clock] = {
            "seconds_an_update": {
                name: statistics.median(pair[name][clock] for pair in pairs) / num_updates
                for name in ("trainer", "by_hand")
            },
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    return cost


def faults(lab: Lab, is_smoke: bool) -> Iterator[Fault]:
    """All faults, one after the other."""
    if is_smoke:
        yield sigkill(lab, 2, in_saves=1)
        yield from bad_snapshots(lab, flips=1, cuts=0)
        yield from list(nan_gradients(lab, 1))[1:]
        return
    yield sigkill(lab, 20, in_saves=8, at_start=2)
    yield from signals(lab, 3)
    yield from full_disk(lab)
    yield from unwritable(lab)
    yield from bad_snapshots(lab, flips=20, cuts=4)
    yield from hostile_snapshots(lab)
    yield from nan_gradients(lab, 2)
    yield dying_reader(lab, 3)
    yield dying_process(lab, (0, 1), (2, 1))
    yield memory(lab, (500, 2000))


def main(argv: list[str] | None = None) -> int:
    """Inject the faults and write the JSON file; the number of tries not survived is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the JSON file; default benchmarks/results")
    parser.add_argument("--smoke", action="store_true", help="a handful of faults, to see that everything runs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = args.out or (ROOT / "outputs" / "benchmarks" if args.smoke else RESULTS)
    with tempfile.TemporaryDirectory() as root:
        lab = Lab(Path(root), num_updates=40 if args.smoke else NUM_UPDATES, seed=args.seed)
        found = []
        for fault in faults(lab, args.smoke):
            report = fault.report()
            found.append(report)
            wait = report["seconds_to_recover"]
            shown = "" if wait is None else f", {wait['median']:.1f} s to recover (at most {wait['max']:.1f})"
            print(f"{fault.name}: {fault.survived} of {fault.tried}{shown}", *fault.failures, sep="\n  ", flush=True)
        size = sum(path.stat().st_size for path in newest(lab.plain).rglob("*") if path.is_file())
        sizes = ((64, 32),) if args.smoke else ((64, 32), (256, 128))
        results = {
            "program": {
                "updates": lab.num_updates,
                "save_every": SAVE_EVERY,
                "seconds_an_update": lab.update_seconds,
                "parameters": len(lab.weights["weights"]) if lab.weights else 0,
            },
            "faults": found,
            "snapshot": {
                "bytes": size,
                "seconds": {"median": statistics.median(lab.saves), "max": max(lab.saves)},
                "saves": len(lab.saves),
            },
            "trainer": [trainer_cost(1 if args.smoke else 5, 10 if args.smoke else 200, *s) for s in sizes],
        }
    for cost in results["trainer"]:
        ratios = [f"{cost[clock]['ratio']['median']:.2f} {clock}" for clock in ("processor", "clock")]
        print(f"Trainer against a loop by hand, {cost['hidden_size']} wide: {', '.join(ratios)}")
    path = write_report("reliability", results, seed=args.seed, folder=folder)
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}")
    return sum(report["tried"] - report["survived"] for report in found)


if __name__ == "__main__":
    sys.exit(main())
