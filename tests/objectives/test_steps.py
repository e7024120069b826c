"""Laws of the number of steps: their numbers, their JSON form, and objectives averaged over them, by enumeration."""

import dataclasses
import json
import math

import pytest
import torch

from vadd import FiniteStepELBO, SharedLatentELBO, StepLaw
from vadd.errors import ConfigError, DomainError
from vadd.objectives.steps import JumpTable
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing import exact_finite_step_bound, exact_log_likelihood, exact_shared_bound

from .test_finite_step import (
    COPIES,
    THRESHOLD,
    UNEVEN,
    X_0,
    check_mean,
    make_pair,
    mean_terms,
)

pytestmark = pytest.mark.usefixtures("_double")

# The law itself


@pytest.mark.parametrize("max_steps", [1, 2, 16, 1000])
def test_log_uniform_gives_the_same_share_to_each_doubling(max_steps):
    law = StepLaw.log_uniform(max_steps)
    assert law.steps == tuple(range(1, max_steps + 1))
    for num_steps, probability in zip(law.steps, law.probabilities, strict=True):
        assert probability == pytest.approx(math.log((num_steps + 1) / num_steps) / math.log(max_steps + 1))
    for first in (1, 2, 4):
        if 2 * first - 1 <= max_steps:
            assert sum(law.probabilities[first - 1 : 2 * first - 1]) == pytest.approx(math.log(2, max_steps + 1))


def test_uniform_and_weighted_laws():
    assert StepLaw.uniform([1, 4]) == StepLaw((1, 4), (0.5, 0.5))
    assert StepLaw.weighted([None, 2, 8], [1, 2, 1]) == StepLaw((None, 2, 8), (0.25, 0.5, 0.25))


def test_a_law_survives_json_and_can_be_hashed():
    law = StepLaw.weighted([1, None], [1, 2])
    again = StepLaw(**json.loads(json.dumps(dataclasses.asdict(law))))
    assert again == law
    assert len({law, again}) == 1
    assert again != StepLaw.weighted([1, None], [2, 1])


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (StepLaw.uniform([3]), "3"),
        (StepLaw.uniform([3, None]), "3 or infinitely many"),
        (StepLaw.uniform([1, 2, 4]), "1, 2 or 4"),
        (StepLaw.log_uniform(32), "1, 2, 3, ... or 32"),
    ],
)
def test_a_law_names_its_numbers_of_steps(law, text):
    assert str(law) == text


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StepLaw((), ()), ConfigError, "at least 1"),
        (lambda: StepLaw((1, 2), (1.0,)), ConfigError, "same length"),
        (lambda: StepLaw((1, 2), (0.5, 0.6)), ConfigError, "sum to one"),
        (lambda: StepLaw((1, 2), (0.5, 0.4999)), ConfigError, "sum to one"),
        (lambda: StepLaw((1, 2, 1), (0.5, 0.25, 0.25)), ConfigError, "differ"),
        (lambda: StepLaw((None, None), (0.5, 0.5)), ConfigError, "differ"),
        (lambda: StepLaw((1, 2), (1.0, 0.0)), DomainError, "probabilities must be positive"),
        (lambda: StepLaw((1, 2), (1.5, -0.5)), DomainError, "probabilities must be positive"),
        (lambda: StepLaw((1, 2), (math.nan, 0.5)), DomainError, "probabilities must be positive"),
        (lambda: StepLaw((1, 2), ("a", 0.5)), DomainError, "probabilities must be positive"),
        (lambda: StepLaw((0, 2), (0.5, 0.5)), DomainError, "positive integers"),
        (lambda: StepLaw((True, 2), (0.5, 0.5)), DomainError, "positive integers"),
        (lambda: StepLaw((1.5, 2), (0.5, 0.5)), DomainError, "positive integers"),
        (lambda: StepLaw(4, 1.0), ConfigError, "sequence"),
        (lambda: StepLaw.uniform([]), ConfigError, "at least 1"),
        (lambda: StepLaw.uniform(4), ConfigError, "sequence"),
        (lambda: StepLaw.weighted([1, 2], [1.0, -1.0]), DomainError, "weights must be positive"),
        (lambda: StepLaw.weighted([1, 2], [1.0, math.inf]), DomainError, "weights must be positive"),
        (lambda: StepLaw.weighted([1, 2], [1.0]), ConfigError, "same length"),
        (lambda: StepLaw.log_uniform(0), DomainError, "max_steps"),
        (lambda: StepLaw.log_uniform(2.5), DomainError, "max_steps"),
    ],
)
def test_bad_laws_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_law_takes_a_grid_by_name():
    uniform = torch.arange(40, dtype=torch.float64) / 40
    law = StepLaw.uniform([2, 3])
    by_name, by_function = (JumpTable(law, grid).draw(uniform) for grid in ("cosine", cosine_grid))
    assert torch.equal(by_name.t, by_function.t)
    assert not torch.equal(by_name.t, JumpTable(law, "uniform").draw(uniform).t)


@pytest.mark.usefixtures("_unchecked")
def test_what_does_not_go_with_a_law_is_refused():
    process = make_pair()[0].process
    law = StepLaw.uniform([2, 3])
    for objective in (FiniteStepELBO, SharedLatentELBO):
        for times in (UNEVEN, UNEVEN.tolist()):
            with pytest.raises(ConfigError, match="function from the number of steps"):
                objective(process, law, time_grid=times)
        with pytest.raises(ConfigError, match="num_steps \\+ 1 = 2 times"):
            objective(process, StepLaw.uniform([3, 1]), time_grid=lambda num_steps: UNEVEN)
    for num_steps in (None, StepLaw.uniform([None]), StepLaw.uniform([4, None])):
        with pytest.raises(ConfigError, match="must be finite"):
            FiniteStepELBO(process, num_steps)
    with pytest.raises(ConfigError, match="have no grid"):
        SharedLatentELBO(process, StepLaw.uniform([None]), time_grid=cosine_grid)
    with pytest.raises(DomainError, match="num_steps"):
        FiniteStepELBO(process, [1, 2])


def test_weights_need_to_know_the_number_of_steps():
    process = make_pair()[0].process
    batch = process.corrupt(X_0, torch.ones(len(X_0)))
    for elbo in (FiniteStepELBO(process, 2), SharedLatentELBO(process)):
        with pytest.raises(ConfigError, match="num_steps"):
            elbo.weigh(batch)


# Averages over the law


LAW = StepLaw((1, 2, 4), (0.5, 0.3, 0.2))
WITH_INFINITY = StepLaw((2, None, 3), (0.3, 0.4, 0.3))


def average(law, bound):
    return sum(probability * bound(count) for count, probability in zip(law.steps, law.probabilities, strict=True))


@pytest.mark.parametrize(
    ("schedule", "time_grid"), [(LinearSchedule(), None), (CosineSchedule(), cosine_grid), (PolynomialSchedule(), None)]
)
@pytest.mark.parametrize("target", ["masked", "revealed"])
def test_the_mean_is_the_average_of_the_bounds(schedule, time_grid, target):
    model, guide = make_pair(schedule, explains=target)
    options = {"time_grid": time_grid}
    expected = average(
        LAW, lambda count: exact_finite_step_bound(model, guide, X_0, target=target, num_steps=count, **options)
    )
    draws = mean_terms(FiniteStepELBO(model.process, LAW, target=target, **options), model, guide)
    check_mean(draws, expected)
    exact = [exact_log_likelihood(model, X_0, num_steps=count, **options) for count in LAW.steps]
    mixture = average(LAW, lambda count: exact[LAW.steps.index(count)].exp()).log()
    assert (draws.mean(0) < mixture + THRESHOLD * draws.std(0) / COPIES**0.5).all()


@pytest.mark.parametrize("law", [LAW, WITH_INFINITY, StepLaw.uniform([None])])
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_mean_with_one_latent_is_the_average_of_the_bounds(law, latent_dim):
    model, guide = make_pair(CosineSchedule(), latent_dim)
    time_grid = None if law.steps == (None,) else cosine_grid

    def bound(count):
        grid = None if count is None else time_grid
        return exact_shared_bound(model, guide, X_0, num_steps=count, time_grid=grid, num_times=40)

    elbo = SharedLatentELBO(model.process, law, time_grid=time_grid)
    check_mean(mean_terms(elbo, model, guide), average(law, bound))


@pytest.mark.parametrize("objective", [FiniteStepELBO, SharedLatentELBO])
def test_a_law_of_one_number_is_that_number(objective):
    model, guide = make_pair(CosineSchedule())
    losses = []
    for num_steps in (3, StepLaw.uniform([3])):
        elbo = objective(model.process, num_steps, time_grid=cosine_grid, generator=torch.Generator().manual_seed(2))
        torch.manual_seed(2)
        losses.append(elbo(model, guide)(X_0.repeat(5, 1)))
    assert losses[0] == losses[1]


def test_rows_of_a_batch_are_weighted_by_their_own_number_of_steps():
    process = make_pair(CosineSchedule())[0].process
    x_0 = X_0.repeat(50, 1)
    elbo = SharedLatentELBO(process, WITH_INFINITY)
    batch = elbo.corrupt(x_0)
    counts = {count: batch.num_steps == (torch.inf if count is None else count) for count in WITH_INFINITY.steps}
    assert [int(rows.sum()) for rows in counts.values()] == [60, 80, 60]
    weights, u = elbo.weigh(batch).likelihood, process.reveal_probability(batch.t, batch.s)
    for count, rows in counts.items():
        expected = x_0.shape[1] / batch.is_masked.sum(-1) if count is None else count * u
        torch.testing.assert_close(weights[rows], expected[rows])
    assert batch.is_masked[counts[None]].any(-1).all()  # a count of masked tokens is never zero
    assert (batch.s[counts[None]] == 0).all()
    assert (batch.x_1 == 2).all()


def test_numbers_of_masked_tokens_are_stratified_together_with_the_steps():
    process = make_pair(tokens=4)[0].process
    batch = SharedLatentELBO(process, StepLaw.uniform([2, None])).corrupt(torch.zeros(800, 4, dtype=torch.long))
    counts = batch.is_masked[batch.num_steps.isinf()].sum(-1).bincount(minlength=5)
    assert abs(counts - torch.tensor([0, 100, 100, 100, 100])).max() <= 1


def test_frozen_tokens_count_for_rows_of_infinitely_many_steps():
    process = make_pair(tokens=4)[0].process
    x_0 = torch.zeros(40, 4, dtype=torch.long)
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[:, :2] = True
    is_frozen[:20] = True
    elbo = SharedLatentELBO(process, StepLaw.uniform([1, None]))
    batch = elbo.corrupt(x_0, is_frozen=is_frozen)
    assert not batch.is_masked[is_frozen].any()
    assert not batch.is_masked[:20].any()
    rows = (torch.arange(40) >= 20) & batch.num_steps.isinf()
    assert set(elbo.weigh(batch).likelihood[rows].tolist()) == {1.0, 2.0}
    assert elbo.weigh(batch).likelihood.isfinite().all()


def test_objectives_say_that_they_average():
    process = make_pair()[0].process
    finite = FiniteStepELBO(process, LAW)
    assert finite.bounds == (
        "ancestral sampling in 1, 2 or 4 steps, each number on its grid, a fresh latent at each step, "
        "averaged over the number of steps"
    )
    shared = SharedLatentELBO(process, WITH_INFINITY)
    assert shared.bounds == (
        "sampling with one latent a trajectory, in 2, infinitely many or 3 steps, each number on its grid, "
        "averaged over the number of steps"
    )
    assert "average" not in FiniteStepELBO(process, 2).bounds + SharedLatentELBO(process).bounds


def test_tables_are_the_same_if_law_and_grids_are():
    table = JumpTable(LAW, cosine_grid)
    assert table.is_same(JumpTable(LAW, cosine_grid))
    assert not table.is_same(JumpTable(LAW))
    assert not table.is_same(JumpTable(StepLaw.uniform(LAW.steps), cosine_grid))
    assert not JumpTable(3, UNEVEN).is_same(JumpTable(3))
