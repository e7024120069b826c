"""Toy densities: where they live, that they are reproducible, and the checkerboard's exact law."""

import math

import pytest
import torch

from vadd.data import (
    TOY_LIMITS,
    TOY_NAMES,
    checkerboard_probabilities,
    discretize,
    sample_toy,
    toy_probabilities,
)
from vadd.errors import ConfigError
from vadd.metrics import entropy, factorized, jensen_shannon


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TOY_NAMES)
def test_samples_lie_within_the_limits(name):
    low, high = TOY_LIMITS
    points = sample_toy(name, 200_000, generator())
    assert points.shape == (200_000, 2)
    assert points.dtype == torch.float32
    assert bool(((points >= low) & (points < high)).all())


@pytest.mark.parametrize("name", TOY_NAMES)
def test_samples_depend_on_the_generator_alone(name):
    torch.manual_seed(1)
    first = sample_toy(name, 1000, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, sample_toy(name, 1000, generator(3)))
    assert not torch.equal(first, sample_toy(name, 1000, generator(4)))


@pytest.mark.parametrize("name", TOY_NAMES)
def test_coordinates_depend_on_each_other(name):
    # Otherwise the toy could not tell a joint law from a product of marginals.
    p = toy_probabilities(name, 32, num_samples=200_000)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert jensen_shannon(p, factorized(p)) > 0.1


@pytest.mark.parametrize(("name", "radii"), [("circles", (1.5, 3.0)), ("eight_modes", (3.0,))])
def test_radii_of_ring_shaped_toys(name, radii):
    radius = sample_toy(name, 20_000, generator()).norm(dim=-1)
    distance = torch.stack([(radius - r).abs() for r in radii]).min(0).values
    assert float(distance.mean()) < 0.25


def test_eight_modes_are_equally_likely():
    num = 160_000
    points = sample_toy("eight_modes", num, generator())
    sector = (torch.atan2(points[:, 1], points[:, 0]) / (math.pi / 4)).round().long() % 8
    expected = num / 8
    statistic = float(((sector.bincount(minlength=8) - expected) ** 2 / expected).sum())
    # Chi-square with 7 degrees of freedom: false alarm 1e-6; a mode 6 % too frequent is caught with
    # probability 0.99.
    assert statistic < 40.5


def test_every_checkerboard_point_lies_in_a_dark_cell():
    points = sample_toy("checkerboard", 1_000_000, generator())
    cells = discretize(points, 4, TOY_LIMITS)
    assert bool((cells.sum(-1) % 2 == 0).all())


def test_checkerboard_draws_follow_the_exact_law():
    num, num_bins = 400_000, 8
    p = checkerboard_probabilities(num_bins)
    tokens = discretize(sample_toy("checkerboard", num, generator()), num_bins, TOY_LIMITS)
    counts = torch.bincount(tokens[:, 0] * num_bins + tokens[:, 1], minlength=num_bins**2).double()
    expected = num * p.flatten()
    assert float(counts[expected == 0].sum()) == 0
    statistic = float(((counts - expected) ** 2 / expected)[expected > 0].sum())
    # Chi-square with 31 degrees of freedom: false alarm 1e-6; a pair of tokens 10 % too frequent is
    # caught with probability 0.99.
    assert statistic < 83.7


@pytest.mark.parametrize("num_bins", [4, 8, 64, 100])
def test_entropy_of_the_checkerboard_is_that_of_half_the_pairs(num_bins):
    assert entropy(checkerboard_probabilities(num_bins)) == pytest.approx(math.log(num_bins**2 / 2), abs=1e-12)


def test_entropy_of_the_checkerboard_with_64_bins():
    assert entropy(checkerboard_probabilities(64)) == pytest.approx(7.6246, abs=1e-4)


@pytest.mark.parametrize("num_bins", [1, 3, 6, 50])
def test_checkerboard_law_for_bins_that_cut_cells(num_bins):
    # Against integration on a grid that resolves both bins and cells.
    fine = checkerboard_probabilities(4 * num_bins)
    coarse = fine.reshape(num_bins, 4, num_bins, 4).sum((1, 3))
    assert torch.allclose(checkerboard_probabilities(num_bins), coarse, atol=1e-15)


def test_marginals_of_the_checkerboard_are_uniform():
    uniform = torch.full((64, 64), 1 / 64**2, dtype=torch.float64)
    assert torch.allclose(factorized(checkerboard_probabilities(64)), uniform, atol=1e-15)


def test_histogram_does_not_depend_on_the_global_random_state():
    torch.manual_seed(1)
    first = toy_probabilities("circles", 16, num_samples=10_000)
    torch.manual_seed(2)
    assert torch.equal(first, toy_probabilities("circles", 16, num_samples=10_000))


@pytest.mark.parametrize(("name", "num"), [("spiral", 10), ("circles", 0), ("circles", True)])
def test_unknown_name_or_empty_draw_is_an_error(name, num):
    with pytest.raises(ConfigError):
        sample_toy(name, num)


def test_meaningless_sizes_are_an_error():
    for number in (0, True):
        with pytest.raises(ConfigError, match="num_samples must be an integer of at least 1"):
            toy_probabilities("circles", 8, num_samples=number)
        with pytest.raises(ConfigError, match="num_bins must be an integer of at least 1"):
            checkerboard_probabilities(number)
