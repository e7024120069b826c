"""The main example runs from beginning to end, leaves what it promises, and goes on after an interruption."""

import argparse
import importlib.util
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from vadd.data import load_digits_tokens
from vadd.recipes import get_recipe
from vadd.training import Callback, load_checkpoint, read_metrics

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "digits_svi.py"


@pytest.fixture
def digits():
    spec = importlib.util.spec_from_file_location("digits_svi", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(digits, *given):
    """Of training, in smoke mode."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    digits.add_training_options(parser, num_updates=20)
    return parser.parse_args(["--quiet", *map(str, given)])


def weights(result):
    return torch.cat([p.flatten() for part in (result.model, result.guide) for p in part.parameters()])


class Interrupt(Callback):
    """Sends this program a signal after an update, as a cluster does whose time is up."""

    def on_step(self, trainer):
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)


def test_smoke_run_leaves_pictures_table_and_checkpoints(digits, tmp_path, capsys):
    digits.main(["--smoke", "--quiet", "--out", str(tmp_path)])

    report = json.loads((tmp_path / "digits.json").read_text())["results"]
    rows = {(row["model"], row["steps"]): row for row in report["rows"]}
    assert set(rows) == {("real data", None)} | {(m, t) for m in ("MDM", "VADD") for t in (1, 2, 4, 8, 64)}
    # Models of twenty updates must be far worse than real digits, or the distance measures nothing.
    assert rows["real data", None]["mean"]["frechet"] < 10 < rows["VADD", 1]["mean"]["frechet"]
    assert all(0 <= row["mean"]["precision"] <= 1 for row in rows.values())
    # 64 tokens of 17 levels: a bound of an untrained model is near 64 log 17, and no less than that of a trained one.
    assert 80 < rows["MDM", 1]["nats"] < 190
    for name in ("samples.png", "curves.png"):
        assert (tmp_path / name).stat().st_size > 10_000

    model = load_checkpoint(tmp_path / "checkpoint-vadd").model
    samples = model.sample(3, num_steps=2, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (3, 64)
    assert int(samples.max()) <= 16
    assert "Fréchet distance in the features of a small digit classifier" in capsys.readouterr().out


def test_an_interrupted_run_ends_by_the_signal_and_goes_on(digits, tmp_path, monkeypatch, capsys):
    data, recipe = load_digits_tokens(), get_recipe("default")
    whole = digits.train("VADD", data, recipe, options(digits, "--out", tmp_path / "whole"))

    args = options(digits, "--out", tmp_path / "halves")
    with monkeypatch.context() as patch:
        patch.setattr(digits, "SamplePictures", lambda *_, **__: Interrupt())
        with pytest.raises(SystemExit) as ended:
            digits.train("VADD", data, recipe, args)
    assert ended.value.code == 128 + signal.SIGTERM
    assert re.search("interrupted by signal 15 at update [78] of 20: saved to", capsys.readouterr().err)

    halves = digits.train("VADD", data, recipe, args)
    assert halves.step == 20
    assert torch.equal(weights(halves), weights(whole))
    assert halves.model.gate.to_json() == whole.model.gate.to_json()
    steps = read_metrics(digits.run_folder("VADD", recipe, args))["loss"]["step"]
    assert steps == [10, 20]


def test_what_was_trained_to_the_end_is_taken_unless_told_otherwise(digits, tmp_path):
    data, recipe = load_digits_tokens(), get_recipe("mdm")
    folder = digits.run_folder("MDM", recipe, options(digits, "--out", tmp_path))
    first = digits.train("MDM", data, recipe, options(digits, "--out", tmp_path))
    (folder / "mark").touch()
    second = digits.train("MDM", data, recipe, options(digits, "--out", tmp_path))
    assert torch.equal(weights(second), weights(first))
    assert (folder / "mark").exists()
    third = digits.train("MDM", data, recipe, options(digits, "--out", tmp_path, "--again"))
    assert torch.equal(weights(third), weights(first))
    assert not (folder / "mark").exists()


def test_another_length_of_training_is_another_run(digits, tmp_path):
    data, recipe = load_digits_tokens(), get_recipe("mdm")
    for num in (3, 2):
        args = options(digits, "--out", tmp_path, "--num-updates", num)
        assert digits.train("MDM", data, recipe, args).step == num


def test_time_ends_training_and_the_next_run_goes_on(digits, tmp_path, capsys):
    data, recipe = load_digits_tokens(), get_recipe("mdm")
    given = ("--out", tmp_path, "--num-updates", 40)
    first = digits.train("MDM", data, recipe, options(digits, *given, "--minutes", 1e-9))
    assert (first.stopped, first.step) == ("time", 1)
    assert "time is up at update 1 of 40" in capsys.readouterr().err
    assert digits.train("MDM", data, recipe, options(digits, *given)).step == 40
