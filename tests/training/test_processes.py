"""Runs as programs: several processes, kills, compiled networks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("worker.py")


def environment():
    """No type checks at run time, one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(out, *, num=1, check=True, **settings):
    """Weights of a run in ``num`` processes."""
    arguments = [str(WORKER), str(out), json.dumps(settings)]
    if num > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = ["--nnodes", "1", "--nproc-per-node", str(num), "--master-addr", "127.0.0.1"]
        arguments = ["-m", "torch.distributed.run", *address, "--master-port", str(port), *arguments]
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(out)
    return done


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run of one process that nobody disturbs."""
    return run(tmp_path_factory.mktemp("reference") / "weights", float64=True, validates=True)


def test_two_processes_make_the_updates_of_one(tmp_path, reference):
    two = run(tmp_path / "weights", num=2, float64=True, validates=True)
    assert reference["weights"].dtype == torch.float64
    for name in ("weights", "average", "grad_norm", "score"):
        torch.testing.assert_close(two[name], reference[name], rtol=1e-10, atol=1e-10, msg=name)


def test_a_snapshot_of_two_processes_goes_on_in_one_with_parts(tmp_path, reference):
    folder = str(tmp_path / "run")
    killed = run(tmp_path / "none", num=2, check=False, float64=True, folder=folder, save_every=2, killed_at=3)
    assert killed.returncode != 0
    assert not (tmp_path / "none").exists()
    resumed = run(tmp_path / "weights", float64=True, folder=folder, accumulate=4)
    for name in ("weights", "average", "grad_norm"):
        torch.testing.assert_close(resumed[name], reference[name], rtol=1e-10, atol=1e-10, msg=name)


def test_where_one_of_two_processes_dies_the_other_ends(tmp_path):
    start = time.monotonic()
    killed = run(tmp_path / "weights", num=2, check=False, num_updates=10_000, killed_at=3, killed_rank=1)
    assert killed.returncode != 0
    assert time.monotonic() - start < 240
    assert "Signal 9 (SIGKILL)" in killed.stderr


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    plain = run(tmp_path / "plain", num_updates=12, dropout=0.3)
    folder = str(tmp_path / "run")
    for killed_at in (5, 9):
        killed = run(
            tmp_path / "none",
            check=False,
            num_updates=12,
            dropout=0.3,
            folder=folder,
            save_every=2,
            killed_at=killed_at,
        )
        assert killed.returncode == -signal.SIGKILL
    again = run(tmp_path / "again", num_updates=12, dropout=0.3, folder=folder)
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


def test_a_terminated_program_saves_and_says_so(tmp_path):
    folder = tmp_path / "run"
    arguments = [str(WORKER), str(tmp_path / "none"), json.dumps({"num_updates": 10**6, "folder": str(folder)})]
    process = subprocess.Popen([sys.executable, *arguments], env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted by signal 15" in said
    assert list((folder / "snapshots").iterdir())


@pytest.mark.slow
def test_compiled_networks_train_alike(tmp_path):
    plain, compiled = (run(tmp_path / name, compile=name == "compiled") for name in ("plain", "compiled"))
    torch.testing.assert_close(compiled["weights"], plain["weights"], rtol=1e-4, atol=1e-5)
    assert not torch.equal(compiled["weights"], plain["weights"])  # other kernels round otherwise
