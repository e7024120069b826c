"""Initial weights of transformers: a truncated normal, whose values for a seed are the same under every PyTorch."""

import pytest
import torch
from torch import nn

from vadd.backbones.layers import initialize


def test_weights_are_a_normal_within_two_deviations():
    layer = nn.Linear(300, 400)
    initialize(layer, std=0.5)
    weight = layer.weight.detach() / 0.5
    assert weight.abs().max() <= 2
    assert not layer.bias.any()
    # 120,000 draws: five standard errors, which are 0.0025, 0.0014 and 0.0013.
    assert weight.mean().item() == pytest.approx(0, abs=0.0127)
    assert weight.std().item() == pytest.approx(0.8796, abs=0.007)
    assert (weight.abs() < 1).float().mean().item() == pytest.approx(0.6827 / 0.9545, abs=0.0065)


def test_values_for_a_seed_do_not_depend_on_the_version_of_torch():
    layer = nn.Linear(3, 4, dtype=torch.float64)
    torch.manual_seed(0)
    initialize(layer)
    assert layer.weight.sum().item() == pytest.approx(-0.04068266842937354, abs=1e-12)


def test_weights_without_memory_are_left_alone():
    layer = nn.Linear(3, 4, device="meta")
    state = torch.get_rng_state()
    initialize(layer)
    assert torch.equal(torch.get_rng_state(), state)
