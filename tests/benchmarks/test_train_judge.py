"""The judge of a corpus is trained on its first documents, scored on its last, and kept with what belongs to it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vadd.metrics import generative_perplexity, load_causal_judge
from vadd.text.tokenizers import load_tokenizer

pytest.importorskip("datasets")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_judge.py"
LINE = "the cat sat on the mat"


@pytest.fixture
def train_judge(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_judge", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_judge", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(tmp_path):
    (tmp_path / "cats.txt").write_text(f"{LINE}\n" * 90 + "xyz\n" * 10)
    small = "--length 23 --hidden-size 16 --depth 1 --num-heads 2 --updates 40 --batch-size 16 --learning-rate 0.01"
    places = ["--data-root", str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    return ["--text", "cats.txt", *small.split(), *places]


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_trains_on_the_first_documents_and_scores_the_last(train_judge, options, packing, tmp_path, capsys):
    found = train_judge.main([*options, "--packing", packing]).held_out
    judge, notes = load_causal_judge(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    assert notes["fingerprint"] == tokenizer.fingerprint
    assert notes["held_out_nats_per_token"] == found.mean
    assert (notes["packing"], notes["num_updates"]) == (packing, 40)
    assert found.num_tokens == notes["num_held_out_tokens"] == (23 if packing == "packed" else 30)  # xyz, "\n" packed
    seen = generative_perplexity(judge, torch.tensor(tokenizer.encode([LINE])))
    assert seen.perplexity < 3 < 20 < 2.72**found.mean
    assert "a small autoregressive judge trained on the same corpus" in capsys.readouterr().out


def test_too_few_documents_are_an_error(train_judge, options, tmp_path):
    with pytest.raises(SystemExit, match="too few"):
        train_judge.main([*options, "--unit", "file"])
    with pytest.raises(SystemExit, match="--held-out"):
        train_judge.main([*options, "--held-out", "1"])
