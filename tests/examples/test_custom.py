"""The examples of own parts run from end to end, are short, and have data of a known law."""

import ast
import importlib.util
import itertools
import re
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PARTS = {"custom_prior": "SwitchPrior", "custom_backbone": "GRUDenoiser", "custom_recognition": "BagRecognition"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PARTS)
def test_smoke_run_checks_trains_compares_and_restores(name, capsys):
    module, part = load(name), PARTS[name]
    module.main(["--smoke"])
    printed = capsys.readouterr().out
    assert f"{part} keeps the contract" in printed
    assert re.search(f"{part}.*analytic|{part}.*monte-carlo|KL: analytic", printed)
    assert f"loaded from a checkpoint: {part}" in printed
    assert "the law of the data" in printed
    if name == "custom_prior":
        assert re.search("StandardNormalPrior +analytic", printed)
        assert re.search("SwitchPrior +monte-carlo", printed)


@pytest.mark.parametrize("name", PARTS)
def test_the_part_is_short(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    (part,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert part.name == PARTS[name]
    assert part.end_lineno - part.lineno + 1 < 30


@pytest.mark.parametrize("name", PARTS)
def test_only_the_public_interface_is_used(name):
    imported = re.findall(r"^from (vadd[\w.]*) import (.+)$", (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    assert imported
    for module, names in imported:
        public = importlib.import_module(module).__all__
        assert set(names.split(", ")) <= set(public)


@pytest.mark.parametrize(
    ("name", "sizes", "num_values"),
    [
        ("custom_prior", {"NUM_BLOCKS": 2, "BLOCK_SIZE": 3}, 2**6),
        ("custom_backbone", {"LENGTH": 4}, 5**4),
        ("custom_recognition", {"LENGTH": 3}, 8**3),
    ],
)
def test_the_law_of_the_data_is_that_of_the_draws(name, sizes, num_values, monkeypatch):
    """Probabilities sum to 1 over all sequences that are drawn, and the mean surprise of draws is the entropy.

    The entropy is that of 20,000 draws within six standard errors, a false alarm of 1e-8.
    """
    module = load(name)
    for constant, value in sizes.items():
        monkeypatch.setattr(module, constant, value)
    draws = module.draw(20_000, 4) if name == "custom_backbone" else module.draw(20_000)
    vocab, length = int(draws.max()) + 1, draws.shape[1]
    values = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
    assert len(values) == num_values
    if name == "custom_backbone":  # the others give every sequence a probability
        values = values[[len(set(row)) <= 2 for row in values.tolist()]]
    surprises = torch.tensor([module.surprise(row[None]) for row in values], dtype=torch.float64)
    probability = (-surprises).exp()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-5)
    entropy = float((probability * surprises).sum())
    spread = float((probability * (surprises - entropy).square()).sum().sqrt())
    assert module.surprise(draws) == pytest.approx(entropy, abs=6 * spread / 20_000**0.5 + 1e-6)


@pytest.mark.slow
def test_the_prior_that_knows_the_data_has_the_better_bound(capsys):
    load("custom_prior").main([])
    bounds = dict(re.findall(r"^(\w+Prior) .*?(\d+\.\d+) ± ", capsys.readouterr().out, re.MULTILINE))
    assert float(bounds["SwitchPrior"]) < float(bounds["StandardNormalPrior"]) - 0.3


@pytest.mark.slow
def test_the_recurrent_network_uses_the_latent_at_every_length(capsys):
    load("custom_backbone").main([])
    rows = dict(re.findall(r"^(GRUDenoiser, \w+) +[\d,]+ +(.+) ± ", capsys.readouterr().out, re.MULTILINE))
    mdm, vadd = ([float(cell) for cell in rows[f"GRUDenoiser, {name}"].split()] for name in ("MDM", "VADD"))
    assert all(ours < other - 1 for ours, other in zip(vadd, mdm, strict=True))


@pytest.mark.slow
def test_the_bag_leaves_less_of_a_gap(capsys):
    load("custom_recognition").main([])
    gain, error = re.findall(r"BagRecognition is ([-\d.]+) ± ([\d.]+) nats tighter", capsys.readouterr().out)[0]
    assert float(gain) > 2 * float(error)
