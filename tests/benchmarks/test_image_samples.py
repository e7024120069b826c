"""The picture of samples shows every model that was compared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("matplotlib")


def run(script, *options):
    arguments = [sys.executable, str(ROOT / script), *options, "--preset", "smoke", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("VADD_DATA"), reason="VADD_DATA names no folder with MNIST")
def test_models_of_finished_runs_are_drawn_side_by_side(tmp_path):
    from PIL import Image

    runs = str(tmp_path / "runs")
    done = run("benchmarks/binarized_mnist.py", "--no-equal-time", "--runs", runs, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    options = ["binarized_mnist", "--runs", runs, "--out", str(tmp_path / "pictures"), "--steps", "1", "2"]
    options += ["--models", "mdm", "paper", "default"]
    done = run("benchmarks/image_samples.py", *options)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "pictures" / "binarized_mnist_samples.png") as picture:
        assert picture.height > 500  # three rows of images
        assert picture.convert("L").getextrema() == (0, 255)


def test_runs_that_are_not_there_are_one_message(tmp_path):
    done = run("benchmarks/image_samples.py", "binarized_mnist", "--runs", str(tmp_path / "none"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
