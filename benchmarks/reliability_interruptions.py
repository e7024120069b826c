"""Faults from outside: killed and signalled programs, disks that are full or refuse, readers and processes that die."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reliability_lab import (
    INTACT,
    SAVE_EVERY,
    Ended,
    Fault,
    Lab,
    has_error,
    last_words,
    newest,
    obstructed,
    whole,
)
from safetensors.torch import load_file

from vadd.training import read_metrics


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
