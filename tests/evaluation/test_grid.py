"""Optimized grids: the shortest path, the costs it is made of, and what they bound."""

import itertools
import math

import pytest
import torch

from vadd.errors import ConfigError, DomainError
from vadd.evaluation import OptimizedGrid, jump_costs, log_likelihood_bound, optimize_grid
from vadd.samplers import uniform_grid
from vadd.schedules import CosineSchedule
from vadd.testing import exact_finite_step_bound, tiny_model

from .enumerated import ATOMS, guide_for, sequences_of


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_the_path_is_the_cheapest_of_all(num_steps, seed):
    most = 7
    costs = torch.rand(most + 1, most + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    costs = costs.masked_fill(~torch.ones_like(costs).triu(1).bool(), torch.inf)
    grid = OptimizedGrid(uniform_grid(most), costs)
    paths = [(0, *inner, most) for inner in itertools.combinations(range(1, most), num_steps - 1)]
    totals = [sum(float(costs[i, j]) for i, j in itertools.pairwise(path)) for path in paths]
    assert grid.nats(num_steps) == pytest.approx(min(totals))
    best = paths[totals.index(min(totals))]
    assert torch.equal(grid(num_steps), grid.candidates[list(best)])


def make_pair(**options):
    model = tiny_model(2, 3, **{"atoms": ATOMS, "scale": 1.5, "seed": 2, "is_conditional": True, **options})
    return model, guide_for(model)


def test_costs_are_those_of_the_jumps_on_the_same_masks():
    model, guide = make_pair()
    x_0 = sequences_of(model)
    grid = optimize_grid(model, guide, x_0, num_candidates=3, num_latents=2, num_draws=2, seed=4)
    assert grid.costs.isinf().equal(~torch.ones(4, 4).triu(1).bool())
    for i, j in itertools.combinations(range(4), 2):
        t, s = (float(grid.candidates[k]) for k in (i, j))
        cost = jump_costs(model, guide, x_0, t, s, num_latents=2, num_draws=2, seed=4).nats_per_sequence.mean()
        assert float(grid.costs[i, j]) == pytest.approx(float(cost))


@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_chosen_grid_has_the_smallest_enumerated_bound(latent_dim):
    """Up to 0.02 nats by which estimates err, where the worst of the grids is worse by ten times as much."""
    model, guide = make_pair(scale=2.5, **({"latent_dim": 0, "atoms": None} if latent_dim == 0 else {}))
    x_0 = sequences_of(model)[[0, 3, 4]]  # a data set on which steps matter
    grid = optimize_grid(model, guide, x_0.repeat(100, 1), num_candidates=6, num_draws=4)

    def exact(times):
        return -float(exact_finite_step_bound(model, guide, x_0, num_steps=3, time_grid=times).mean())

    bounds = [exact(grid.candidates[[0, *inner, 6]]) for inner in itertools.combinations(range(1, 6), 2)]
    assert exact(grid) <= min(bounds) + 0.02
    assert max(bounds) > min(bounds) + 0.2
    assert grid.nats(3) == pytest.approx(exact(grid), abs=0.1)


def test_grids_go_where_time_grids_go():
    model, guide = make_pair()
    x_0 = sequences_of(model)
    grid = optimize_grid(model, guide, x_0, num_candidates=6)
    assert model.sample(3, num_steps=4, time_grid=grid).shape == (3, 3)
    result = log_likelihood_bound(model, guide, x_0, bound="finite-step", num_steps=4, time_grid=grid)
    assert math.isfinite(result.nats)
    assert "of the given grid" in result.bounds
    default = log_likelihood_bound(model, guide, x_0, bound="finite-step", num_steps=4, time_grid="uniform")
    assert "grid" not in default.bounds


def test_candidates_are_equal_steps_of_the_mask_probability_or_given():
    model, guide = make_pair(schedule=CosineSchedule())
    x_0 = sequences_of(model)
    grid = optimize_grid(model, guide, x_0, num_candidates=4)
    masked = model.process.schedule.mask_probability(grid.candidates)
    torch.testing.assert_close(masked, uniform_grid(4))
    times = torch.tensor([1.0, 0.9, 0.0])
    assert torch.equal(optimize_grid(model, guide, x_0, candidates=times).candidates, times.double())


@pytest.mark.usefixtures("_unchecked")
def test_bad_input_is_refused():
    model, guide = make_pair()
    x_0 = sequences_of(model)
    grid = OptimizedGrid(uniform_grid(3), torch.zeros(4, 4, dtype=torch.float64))
    for num_steps in (0, 4, 1.0, True):
        with pytest.raises(DomainError, match="from 1 to 3"):
            grid(num_steps)
    with pytest.raises(DomainError, match="candidates must decrease strictly"):
        optimize_grid(model, guide, x_0, candidates=torch.tensor([1.0, 0.3, 0.5, 0.0]))
    with pytest.raises(DomainError, match="num_candidates must be an integer of at least 1, got 0"):
        optimize_grid(model, guide, x_0, num_candidates=0)
    for candidates in (torch.tensor([1.0]), torch.ones(2, 2), [1.0, 0.0]):
        with pytest.raises(ConfigError, match="candidates must be a tensor of two or more times"):
            optimize_grid(model, guide, x_0, candidates=candidates)
    with pytest.raises(ConfigError, match="latents must be"):
        optimize_grid(model, guide, x_0, latents="shared")
