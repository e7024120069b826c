"""Nearest neighbours, precision, recall, density and coverage."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import DomainError, ShapeError
from vadd.metrics import nearest_neighbours, prdc


def normal(seed: int, rows: int, columns: int = 4) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def slow_prdc(real, fake, k):
    """The definitions, one pair at a time."""

    def radius(rows, index):
        others = [(rows[index] - row).norm().item() for i, row in enumerate(rows) if i != index]
        return sorted(others)[k - 1]

    def holds(rows, radii, index, point):
        return (rows[index] - point).norm().item() < radii[index]

    real, fake = real.double(), fake.double()
    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, i) for i in range(len(fake))]
    inside = [[holds(real, real_radii, i, point) for i in range(len(real))] for point in fake]
    recalled = [any(holds(fake, fake_radii, j, point) for j in range(len(fake))) for point in real]
    return (
        sum(any(balls) for balls in inside) / len(fake),
        sum(recalled) / len(real),
        sum(sum(balls) for balls in inside) / (k * len(fake)),
        sum(any(inside[j][i] for j in range(len(fake))) for i in range(len(real))) / len(real),
    )


@given(st.integers(6, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_a_set_against_itself_scores_one(rows, k, seed):
    features = normal(seed, rows)
    assert prdc(features, features.flip(0), k) == pytest.approx((1, 1, 1, 1))


@given(st.integers(6, 40), st.integers(6, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_sets_far_apart_score_zero(num_real, num_fake, k, seed):
    assert prdc(normal(seed, num_real), normal(seed + 1, num_fake) + 1e3, k) == (0, 0, 0, 0)


@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_the_definitions(k):
    real, fake = normal(0, 25, 2), 0.7 * normal(1, 18, 2) + 0.4
    assert prdc(real, fake, k) == pytest.approx(slow_prdc(real, fake, k))


def test_precision_and_recall_swap_with_the_sets():
    a, b = normal(0, 60), 0.6 * normal(1, 50)
    there, back = prdc(a, b), prdc(b, a)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.precision > there.recall  # b is concentrated inside a


def test_balls_are_open():
    # Each real row lies exactly on the sphere of a fake one.
    real, fake = torch.tensor([[4.0], [98], [-2], [104]]), torch.tensor([[0.0], [2], [100], [102]])
    assert prdc(real, fake, 1).recall == 0
    assert prdc(fake, real, 1).precision == 0


def test_collapse_to_one_mode_lowers_recall_and_coverage_only():
    left, right = normal(0, 100), normal(1, 100) + 50
    score = prdc(torch.cat([left, right]), normal(2, 200))
    assert score.precision > 0.8
    assert score.density > 0.8
    assert score.recall < 0.5
    assert score.coverage <= 0.5


def test_same_values_whatever_the_size_of_the_chunks(monkeypatch):
    real, fake = normal(0, 100), normal(1, 80)
    whole, neighbours = prdc(real, fake), nearest_neighbours(fake, real, 3)
    monkeypatch.setattr("vadd.metrics.neighbours._CHUNK", 7)
    assert prdc(real, fake) == whole
    assert torch.equal(nearest_neighbours(fake, real, 3), neighbours)


def test_neighbours_are_found_and_ordered():
    train = torch.tensor([[0, 0], [10, 10], [2, 0], [0, 1]])
    samples = torch.tensor([[0, 0], [9, 9]])
    assert nearest_neighbours(samples, train, 3).tolist() == [[0, 3, 2], [1, 2, 3]]


def test_each_row_is_its_own_nearest_neighbour():
    # Exact, although the rows are far from zero and close to each other.
    rows = 1e6 + 1e-3 * normal(0, 200).double()
    assert nearest_neighbours(rows, rows)[:, 0].tolist() == list(range(200))


@pytest.mark.parametrize(
    ("real", "fake", "k", "error"),
    [
        (normal(0, 5), normal(1, 20), 5, DomainError),
        (normal(0, 20), normal(1, 5), 5, DomainError),
        (normal(0, 20), normal(1, 20), 0, DomainError),
        (normal(0, 20, 3), normal(1, 20, 4), 5, ShapeError),
    ],
)
def test_bad_input_is_an_error(monkeypatch, real, fake, k, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error):
        prdc(real, fake, k)


def test_more_neighbours_than_rows_is_an_error():
    with pytest.raises(DomainError, match="at least 3 rows"):
        nearest_neighbours(normal(0, 4), normal(1, 2), 3)


@pytest.mark.parametrize("count", [prdc, nearest_neighbours])
def test_the_number_of_neighbours_is_an_integer(count):
    with pytest.raises(DomainError, match="k must be an integer of at least 1, got True"):
        count(normal(0, 4), normal(1, 4), True)
