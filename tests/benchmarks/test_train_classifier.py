"""The script that trains the classifier: what it prints is what the files that it leaves do."""

import importlib.util
from pathlib import Path

import pytest

from vadd.data import load_digits_tokens
from vadd.metrics import load_image_classifier

pytest.importorskip("sklearn")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_classifier.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_classifier", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_classifier_that_is_kept_has_the_accuracy_that_is_printed(script, tmp_path, capsys):
    options = ["--data", "digits", "--epochs", "2", "--width", "8", "--device", "cpu", "--out", str(tmp_path)]
    accuracy = script.main(options)
    classifier, notes = load_image_classifier(tmp_path)
    digits = load_digits_tokens()
    assert classifier.accuracy(digits.heldout, digits.heldout_labels) == accuracy == notes["accuracy"]
    assert accuracy > 0.5
    assert f"{accuracy:.2%}" in capsys.readouterr().out


def test_a_missing_folder_is_named(script, monkeypatch):
    monkeypatch.delenv("VADD_DATA", raising=False)
    with pytest.raises(SystemExit, match="--data-root"):
        script.main(["--data", "cifar10"])
