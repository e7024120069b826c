"""Kernel distance: the definition, laws, its expectation, and agreement with torchmetrics."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.metrics import kernel_distance, kernel_distance_of_subsets


def normal(seed: int, rows: int, columns: int = 3) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_distance(a, b):
    """The definition, one pair at a time."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows):
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    between = [kernel(x, y) for x in a for y in b]
    return within(a) + within(b) - 2 * sum(between) / len(between)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_agrees_with_the_definition(rows_a, rows_b, columns, seed):
    a, b = normal(seed, rows_a, columns), 0.5 * normal(seed + 1, rows_b, columns) + 1
    assert kernel_distance(a, b) == pytest.approx(slow_distance(a, b), rel=1e-9, abs=1e-9)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-9, abs=1e-9)


def test_same_value_whatever_the_size_of_the_chunks(monkeypatch):
    a, b = normal(0, 50), normal(1, 40) + 1
    whole = kernel_distance(a, b)
    monkeypatch.setattr("vadd.metrics.kernel._CHUNK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_unbiased_between_sets_of_one_law_and_of_two():
    # Standard normal x, x' in one dimension have E (x x' + 1)^3 = 1 + 3 E x^2 x'^2 = 4. With y, y' shifted by 1,
    # E (x y + 1)^3 = 1 + 3 E y^2 = 7, and E (y y' + 1)^3 = 4^2 + 3 * 2^2 + 3 + 1 = 32, as E y^3 = 4 and E y^2 = 2.
    same = [kernel_distance(normal(2 * k, 5, 1), normal(2 * k + 1, 8, 1)) for k in range(1000)]
    apart = [kernel_distance(normal(2 * k, 5, 1), normal(2 * k + 1, 8, 1) + 1) for k in range(1000)]
    for values, truth in ((same, 0), (apart, 4 + 32 - 2 * 7)):
        values = torch.tensor(values)
        error = values.std() / len(values) ** 0.5
        assert abs(float(values.mean()) - truth) < 5 * float(error)  # false alarms: 6e-7
    assert min(same) < 0


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_agrees_with_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")

    class Identity(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1).float()

    pixels = [torch.randint(256, (30, 3, 2, 2), generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    pixels[1] = pixels[1] // 2
    metric = kid.KernelInceptionDistance(Identity(), subsets=1, subset_size=30, normalize=False)
    for images, real in zip(pixels, (True, False), strict=True):
        metric.update(images.to(torch.uint8), real=real)
    a, b = (images.flatten(1).float() for images in pixels)
    assert kernel_distance(a, b) == pytest.approx(float(metric.compute()[0]), rel=1e-3)  # it sums in single precision


def test_subsets_have_the_mean_of_the_whole_and_depend_on_the_seed_alone():
    a, b = normal(0, 200), normal(1, 150) + 1
    found = kernel_distance_of_subsets(a, b, num_subsets=200, subset_size=50)
    assert found.mean == pytest.approx(kernel_distance(a, b), abs=6 * found.std / 200**0.5)
    assert found.std > 0
    torch.manual_seed(5)
    assert kernel_distance_of_subsets(a, b, num_subsets=200, subset_size=50) == found
    assert kernel_distance_of_subsets(a, b, num_subsets=200, subset_size=50, seed=1) != found
    whole = kernel_distance_of_subsets(a[:150], b, num_subsets=3, subset_size=150)
    assert whole.mean == pytest.approx(kernel_distance(a[:150], b))
    assert whole.std == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), DomainError),
        (torch.zeros(5, 3), torch.zeros(5, 4), ShapeError),
        (torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.int64), DtypeError),
        (torch.zeros(5, 3), torch.full((5, 3), torch.nan), NonFiniteError),
    ],
)
def test_bad_features_are_an_error(monkeypatch, a, b, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for function in (kernel_distance, kernel_distance_of_subsets):
        with pytest.raises(error):
            function(a, b)


@pytest.mark.parametrize("sizes", [(0, 3), (1, 1), (1, 6)])
def test_bad_subsets_are_an_error(sizes):
    with pytest.raises(DomainError, match="of 2 to 5 rows"):
        kernel_distance_of_subsets(normal(0, 9), normal(1, 5), num_subsets=sizes[0], subset_size=sizes[1])
