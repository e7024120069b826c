"""Latents of some rows are those of the whole batch, for every recognition family."""

import pyro
import pytest
import torch
from torch import nn

from vadd.backbones import MLPRecognition
from vadd.training.noise import RowNoise, key, keyed_generator

FAMILIES = ("diagonal", "low-rank", "full", "flow", "straight-through", "relaxed")
TOTAL = 6


def posterior(family, rows, particles=()):
    torch.manual_seed(0)
    recognition = MLPRecognition(3, 4, (2, 3), family=family, hidden_size=8, depth=1, embedding_size=2).double()
    for parameter in recognition.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = (torch.arange(4 * TOTAL).reshape(TOTAL, 4) % 3)[rows]
    found = recognition(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(len(tokens)))
    return found.expand((*particles, len(tokens))) if particles else found


def draw(distribution, start, num, seed=5):
    with RowNoise(start, num, TOTAL, keyed_generator("cpu", seed)):
        return pyro.sample("z", distribution)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_part_are_those_of_the_batch(family):
    whole = draw(posterior(family, slice(None)), 0, TOTAL)
    parts = [draw(posterior(family, slice(start, start + 2)), start, 2) for start in range(0, TOTAL, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert not torch.equal(whole[0], draw(posterior(family, slice(None)), 0, TOTAL, seed=6)[0])


@pytest.mark.parametrize("family", ["diagonal", "full", "straight-through", "relaxed"])
def test_the_same_with_an_axis_of_particles(family):
    whole = draw(posterior(family, slice(None), (5,)), 0, TOTAL)
    part = draw(posterior(family, slice(2, 4), (5,)), 2, 2)
    assert whole.shape == (5, TOTAL, 2, 3)
    torch.testing.assert_close(part, whole[:, 2:4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_law_of_the_latent_is_its_distribution(family):
    distribution = posterior(family, slice(0, 1)).expand((20_000,))
    with RowNoise(0, 20_000, 20_000, keyed_generator("cpu", 1)):
        ours = pyro.sample("z", distribution)
    torch.manual_seed(2)
    theirs = distribution.sample()
    for power in (1, 2):
        scale = (theirs**power).std(0) / 20_000**0.5
        gap = ((ours**power).mean(0) - (theirs**power).mean(0)).abs()
        assert bool((gap <= 6 * scale + 1e-9).all()), family


@pytest.mark.parametrize("family", ["diagonal", "relaxed", "full"])
def test_gradients_reach_the_recognition_network(family):
    parameter = nn.Parameter(torch.zeros(()))
    distribution = posterior(family, slice(0, 2))
    with RowNoise(0, 2, TOTAL, keyed_generator("cpu", 1)):
        z = pyro.sample("z", distribution)
    assert z.requires_grad
    (z.sum() + parameter).backward()


def test_observed_replayed_and_other_sites_are_left_alone():
    normal = pyro.distributions.Normal(torch.zeros(2), 1.0)
    with RowNoise(0, 2, TOTAL, keyed_generator("cpu", 1)):
        assert torch.equal(pyro.sample("z", normal, obs=torch.ones(2)), torch.ones(2))
        torch.manual_seed(3)
        other = pyro.sample("w", normal)
    torch.manual_seed(3)
    assert torch.equal(other, normal.sample())


def test_torch_is_left_as_it_was():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    draw(posterior("diagonal", slice(0, 2)), 0, 2)
    torch.manual_seed(0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_keys_differ_by_each_part():
    keys = {key(*parts) for parts in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a"), (0, "a1")]}
    assert len(keys) == 6
    assert all(0 <= k < 2**63 for k in keys)
    assert key(0, "a", 1) == key(0, "a", 1)
