"""Bytes from levels."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.metrics import to_uint8


@given(st.integers(2, 600))
def test_levels_become_the_nearest_bytes_from_0_to_255(num_levels):
    levels = torch.arange(num_levels)
    pixels = to_uint8(levels[:, None], (1, 1), num_levels)
    exact = levels.double() * 255 / (num_levels - 1)
    assert pixels.dtype == torch.uint8
    assert float((pixels.flatten().double() - exact).abs().max()) <= 0.5 + 1e-9
    assert pixels.flatten()[[0, -1]].tolist() == [0, 255]


def test_bytes_stay_what_they_are_and_in_their_places():
    images = torch.randint(256, (4, 3, 2, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(images.flatten(1), (3, 2, 3), 256), images)
    assert torch.equal(to_uint8(images.flatten(1).long(), (3, 2, 3), 256), images)


@pytest.mark.parametrize(
    ("tokens", "shape", "num_levels", "error"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), (2, 3), 4, ShapeError),
        (torch.zeros(0, 6, dtype=torch.int64), (2, 3), 4, ShapeError),
        (torch.zeros(2, 6), (2, 3), 4, DtypeError),
        (torch.full((2, 6), 4), (2, 3), 4, DomainError),
        (torch.full((2, 6), -1), (2, 3), 4, DomainError),
        (torch.zeros(2, 6, dtype=torch.int64), (6,), 4, ConfigError),
        (torch.zeros(2, 6, dtype=torch.int64), (2, 3), 1, ConfigError),
    ],
)
def test_what_is_no_image_is_an_error(monkeypatch, tokens, shape, num_levels, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error):
        to_uint8(tokens, shape, num_levels)
