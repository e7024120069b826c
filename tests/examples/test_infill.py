"""The example on half digits runs from end to end, and its parts do what they say."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from vadd.data import load_digits_tokens

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "infill.py"


@pytest.fixture
def infill(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds to it
    spec = importlib.util.spec_from_file_location("infill", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke_run_and_second_run_from_its_checkpoints(infill, tmp_path, capsys):
    out = tmp_path / "first"
    infill.main(["--smoke", "--quiet", "--out", str(out), "--report", str(tmp_path / "report")])
    assert (out / "infill.png").stat().st_size > 10_000
    first = json.loads((tmp_path / "report" / "infill.json").read_text())["results"]
    ways = ["MDM", "VADD, latent from the prior", "VADD, latent from the posterior"]
    expected = [(known, steps, way) for known in ("upper half", "left half") for steps in (1, 4) for way in ways]
    assert [(row["known"], row["steps"], row["way"]) for row in first["rows"]] == expected
    # Half of each picture is real: no untrained model gets all of them wrong, nor all right.
    assert all(0.1 < row["same_digit"] < 0.9 for row in first["rows"])
    assert all(row["frechet"] > 0 and row["distance"] > 0 for row in first["rows"])
    assert "same digit: completions" in capsys.readouterr().out

    args = ["--smoke", "--quiet", "--out", str(tmp_path / "second"), "--checkpoint", str(out)]
    infill.main(args)
    second = json.loads((tmp_path / "second" / "infill.json").read_text())["results"]
    assert second["rows"] == first["rows"]
    assert second["num_updates"] is None
    assert not (tmp_path / "second" / "checkpoint-mdm").exists()


def test_halves_are_halves(infill):
    upper, left = (is_known.reshape(8, 8) for is_known in infill.halves((8, 8)).values())
    assert bool(upper[:4].all())
    assert not upper[4:].any()
    assert torch.equal(left, upper.T)


def test_distance_within_a_digit_ignores_other_digits(infill):
    data = load_digits_tokens()

    class Labels(torch.nn.Module):
        """Features that tell nothing but the digit."""

        def features(self, tokens):
            digits = torch.stack([data.heldout_labels[(data.heldout == row).all(-1)][0] for row in tokens])
            return 10.0 * digits[:, None].expand(-1, 2) + torch.arange(len(tokens))[:, None] % 2

    distance = infill.distance_within_a_digit(data, Labels())
    assert distance == pytest.approx(2**0.5 / 2, rel=0.05)  # about half of the pairs are unlike


def test_pictures_hide_what_is_unknown(infill):
    data = load_digits_tokens()
    x, is_known = data.heldout[:2], infill.halves((8, 8))["left half"]
    changed = torch.where(is_known, x, 16 - x)
    shown, same, other = (
        infill.picture(tokens, is_known.expand_as(x), data, 2, paper)
        for tokens, paper in ((x, "unknown"), (changed, "unknown"), (changed, "completed"))
    )
    assert shown.shape == (10, 20, 3)
    assert torch.equal(shown, same)
    assert not torch.equal(shown, other)
    assert torch.equal(shown[1:9, 1:5], other[1:9, 1:5])  # the known pixels of the first image


def test_settings_of_training_reach_the_training(infill):
    parser = argparse.ArgumentParser()
    infill.add_training_options(parser)
    args = parser.parse_args(["--smoke", "--seed", "3"])
    assert (args.seed, args.smoke, args.checkpoint) == (3, True, None)
