"""What takes a seed leaves the global random states as they were, those of other devices included."""

import pytest
import torch

from vadd._seeds import seeded
from vadd.backbones import MLPRecognition
from vadd.metrics import train_causal_judge, train_digit_classifier, train_image_classifier
from vadd.priors import StandardNormalPrior
from vadd.samplers.latent_draw import draw, draw_seeded
from vadd.testing import check_prior, check_recognition

from .devices import CUDA

TOKENS = torch.zeros(4, 16, dtype=torch.int64)
LABELS = torch.zeros(4, dtype=torch.int64)
RECOGNITION = MLPRecognition(3, 4, 2, hidden_size=8, depth=1)
SEEDED = {
    "digit classifier": lambda: train_digit_classifier(TOKENS, LABELS, image_shape=(4, 4), num_levels=2, num_epochs=1),
    "image classifier": lambda: train_image_classifier(
        TOKENS, LABELS, image_shape=(4, 4), num_levels=2, seed=0, epochs=1, width=8, num_features=4
    ),
    "judge": lambda: train_causal_judge(
        TOKENS, vocab_size=2, hidden_size=8, depth=1, num_heads=2, seed=0, num_updates=1
    ),
    "prior": lambda: check_prior(StandardNormalPrior(2), 3, 4),
    "recognition": lambda: check_recognition(RECOGNITION, 3, 4),
    "latents": lambda: draw_seeded(torch.distributions.Normal(0.0, 1.0), 0, torch.device("cpu")),
}


@pytest.mark.parametrize("name", SEEDED)
def test_no_generator_is_seeded_that_is_not_restored(name, monkeypatch):
    def reseed(seed):
        raise AssertionError("torch.manual_seed reseeds all devices, also those whose state is not restored")

    monkeypatch.setattr(torch, "manual_seed", reseed)
    state = torch.get_rng_state()
    SEEDED[name]()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_numbers_are_those_of_torchs_seed():
    torch.manual_seed(3)
    expected = torch.rand(5)
    state = torch.get_rng_state()
    with seeded(3):
        assert torch.equal(torch.rand(5), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_with_a_generator_do_not_repeat():
    generator, normal = torch.Generator().manual_seed(0), torch.distributions.Normal(0.0, 1.0)
    assert len({float(draw(normal, generator)) for _ in range(500)}) == 500


@pytest.mark.parametrize("device", [pytest.param(name, marks=CUDA) for name in ("cpu", "cuda")])
def test_a_device_is_seeded_and_restored_or_left_alone(device):
    before = torch.cuda.get_rng_state()
    with seeded(3, device):
        first = torch.rand(5, device=device)
        if device == "cpu":
            assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with seeded(3, device):
        assert torch.equal(torch.rand(5, device=device), first)
