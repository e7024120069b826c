"""Fréchet distance: laws, closed forms, and an independent matrix square root."""

import jaxtyping
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.metrics import frechet_distance


@pytest.fixture
def unchecked(monkeypatch):
    """Reach the library's own checks, not those of the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def features(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    shift = torch.randn(columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mixing + shift


def with_moments(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Rows with exactly this mean and diagonal covariance."""
    columns = len(mean)
    raw = torch.cat([torch.eye(columns), -torch.eye(columns)]).double()
    return mean + raw * std * ((2 * columns - 1) / 2) ** 0.5


sizes = st.tuples(st.integers(2, 30), st.integers(2, 30), st.integers(1, 8))
seeds = st.integers(0, 2**31)


@given(sizes, seeds)
def test_zero_for_equal_sets_in_any_order(size, seed):
    a = features(seed, size[0], size[2])
    order = torch.randperm(size[0], generator=torch.Generator().manual_seed(seed))
    assert frechet_distance(a, a[order]) == pytest.approx(0, abs=1e-10 * float(a.square().sum()))


@given(sizes, seeds)
def test_symmetric_and_not_negative(size, seed):
    a, b = features(seed, size[0], size[2]), features(seed + 1, size[1], size[2])
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-9, abs=1e-9)


@given(sizes, seeds)
def test_unchanged_by_rotation_and_shift_of_both(size, seed):
    a, b = features(seed, size[0], size[2]), features(seed + 1, size[1], size[2])
    rotation = torch.linalg.qr(features(seed + 2, size[2], size[2])).Q
    moved = frechet_distance(a @ rotation + 3, b @ rotation + 3)
    assert moved == pytest.approx(frechet_distance(a, b), rel=1e-8, abs=1e-8)


@given(sizes, seeds, st.floats(0.1, 10))
def test_scales_with_the_square_of_the_features(size, seed, factor):
    a, b = features(seed, size[0], size[2]), features(seed + 1, size[1], size[2])
    assert frechet_distance(a * factor, b * factor) == pytest.approx(
        factor**2 * frechet_distance(a, b), rel=1e-8, abs=1e-8
    )


def test_a_shift_alone_costs_its_squared_length():
    a = features(0, 50, 4)
    assert frechet_distance(a, a + torch.tensor([1.0, -2.0, 0.0, 2.0])) == pytest.approx(9, rel=1e-9)


def test_closed_form_for_diagonal_covariances():
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.0]).double()
    expected = float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum())
    assert frechet_distance(with_moments(mean_a, std_a), with_moments(mean_b, std_b)) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "columns"), [((200, 300), 16), ((40, 50), 5)])
def test_agrees_with_a_matrix_square_root(rows, columns):
    a, b = features(1, rows[0], columns), features(2, rows[1], columns)
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_fewer_rows_than_columns_agrees_with_padded_square_root():
    a, b = features(1, 5, 12), features(2, 7, 12)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    coupling = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * coupling
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_single_precision_features_lose_nothing():
    a, b = features(1, 100, 8).float(), features(2, 100, 8).float()
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a.double(), b.double()), rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), DomainError, "features_a must have at least 2 rows"),
        (torch.zeros(5, 3), torch.zeros(5, 4), ShapeError, "same number of columns, got 3 and 4"),
        ([[0.0]], torch.zeros(5, 3), DtypeError, "features_a must be a Tensor, got list; torch.as_tensor"),
        (torch.zeros(5), torch.zeros(5, 1), ShapeError, "features_a must have shape"),
        (torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.int64), DtypeError, "features_b must be floating"),
        (torch.zeros(5, 3), torch.full((5, 3), torch.nan), NonFiniteError, "features_b contain NaN"),
    ],
)
def test_bad_features_are_an_error(unchecked, a, b, error, message):
    with pytest.raises(error, match=message):
        frechet_distance(a, b)
