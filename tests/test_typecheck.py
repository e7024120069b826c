"""``VADD_TYPECHECK=1`` turns the annotations into checks; without it nothing is checked or imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Tokens have shape (batch, dim); this prior reads no more than the batch size and would not notice.
WRONG_SHAPE = """
import sys
import torch
from vadd.priors import StandardNormalPrior
normal = StandardNormalPrior(4)(torch.zeros((3,), dtype=torch.long), torch.ones(3))
print(*normal.batch_shape, *normal.event_shape, "beartype" in sys.modules)
"""
RIGHT_SHAPE = WRONG_SHAPE.replace("(3,)", "(3, 5)")
WITHOUT_BEARTYPE = "import sys\nsys.modules['beartype'] = None\nimport vadd"


def run(code: str, setting: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with the variable set, or unset."""
    environment = {name: value for name, value in os.environ.items() if name != "VADD_TYPECHECK"}
    if setting is not None:
        environment["VADD_TYPECHECK"] = setting
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wrong_shape_raises_with_the_checks():
    done = run(WRONG_SHAPE, "1")
    assert done.returncode != 0
    assert "jaxtyping.TypeCheckError" in done.stderr
    assert "x_t" in done.stderr


def test_a_right_shape_passes_with_the_checks_and_without_warnings():
    done = run(RIGHT_SHAPE, "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 4 True\n", "")


@pytest.mark.parametrize("setting", [None, "0"])
def test_nothing_is_checked_or_imported_without_them(setting):
    done = run(WRONG_SHAPE, setting)
    assert (done.returncode, done.stdout) == (0, "3 4 False\n"), done.stderr


def test_a_missing_checker_is_named():
    done = run(WITHOUT_BEARTYPE, "1")
    assert done.returncode != 0
    assert "vadd.errors.ConfigError: VADD_TYPECHECK=1 needs the package beartype" in done.stderr
    assert run(WITHOUT_BEARTYPE, "0").returncode == 0


def test_an_unknown_setting_is_refused():
    done = run("import vadd", "yes")
    assert done.returncode != 0
    assert "vadd.errors.ConfigError: the environment variable VADD_TYPECHECK must be 0 or 1" in done.stderr
