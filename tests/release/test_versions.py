"""The page on versions says what the code does, and the versions to test are those that are declared."""

import json
import re
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest

from vadd.metrics import _stored
from vadd.storage import pretrained
from vadd.text import CharTokenizer
from vadd.training import checkpoint, manifest

sys.path.insert(0, str(Path(__file__).parent))
import packages  # noqa: E402
import torch_versions  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "versions.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_numbers_of_formats_are_those_of_the_code(tmp_path):
    CharTokenizer("ab").save(tmp_path)
    (tokenizer,) = tmp_path.iterdir()
    table = PAGE.split("| what | number in | read |")[1].split("\n\n")[0]
    rows = re.findall(r"\| ([^|]*) \| (\d+) \|$", table, re.MULTILINE)
    read = {name: int(number) for names, number in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert read == {
        pretrained.CONFIG: pretrained.FORMAT_VERSION,
        pretrained.CHECKPOINT: checkpoint.FORMAT_VERSION,
        manifest.MANIFEST: manifest.FORMAT_VERSION,
        "judge.json": _stored._VERSION,
        "classifier.json": _stored._VERSION,
        tokenizer.name: json.loads(tokenizer.read_text())["format"],
    }


def test_supported_versions_are_those_of_the_project():
    said = dict(re.findall(r"^\| (\w+) \| ([\d.]+) and newer \|", PAGE, re.MULTILINE))
    bounds = torch_versions.lower_bounds(PROJECT)
    torch, pyro = (bounds[name].removeprefix("==").removesuffix(".*") for name in ("torch", "pyro-ppl"))
    python = PROJECT["requires-python"].removeprefix(">=")
    assert said == {"Python": python, "PyTorch": torch, "Pyro": pyro}


def test_the_lowest_versions_are_taken_in_their_latest_patch():
    extras = {"images": ["torchvision>=0.26"], "all": ["vadd[images]", "torchmetrics>=1.4"]}
    project = {"dependencies": ["numpy>=1.26", "torch>=2.11", "pyro-ppl>=1.9.1"], "optional-dependencies": extras}
    expected = {"torch": "==2.11.*", "torchvision": "==0.26.*", "pyro-ppl": "==1.9.1.*"}
    assert torch_versions.lower_bounds(project) == expected
    project["dependencies"][1] = "torch>=2.11,<3"
    with pytest.raises(ValueError, match="too many"):
        torch_versions.lower_bounds(project)


def test_other_versions_take_along_what_belongs_to_them():
    lines = [
        "# c",
        "torch==2.14.1",
        "torch_fidelity==0.4.0",
        "triton==3.8.0",
        "nvidia-nccl-cu13==2.30.7",
        "tqdm==4.70.1",
    ]
    assert torch_versions.constraints(lines, {}) == lines
    expected = ["# c", "torch_fidelity==0.4.0", "tqdm==4.70.1", "torch==2.11.*"]
    assert torch_versions.constraints(lines, {"torch": "==2.11.*"}) == expected


def test_the_tests_to_run_are_there():
    assert [name for name in torch_versions.TESTS if not (ROOT / name).exists()] == []


def test_the_tests_of_other_versions_are_those_of_the_sdist(tmp_path, monkeypatch):
    """As far as the first program that it runs, with every function called as it is declared."""
    (tmp_path / "constraints.txt").write_text("numpy==2.0\ntorch==9.9\n")
    parts = {"environment": Path("python"), "install": None, "build": packages.Built(Path("w"), Path("s"))}
    for name, value in {**parts, "unpack": tmp_path}.items():
        monkeypatch.setattr(packages, name, create_autospec(getattr(packages, name), return_value=value))
    monkeypatch.setattr(torch_versions.subprocess, "run", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        torch_versions.run({"torch": "==2.11.*"}, ["tests"], 1, "python3")
    assert packages.build.call_args.args[1] == Path("python")
    assert packages.unpack.call_args.args[0] == Path("s")
