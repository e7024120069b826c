"""Images as tokens: the layout, quantization, every check, and batches for the Trainer."""

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.data import ImageTokens, make_image_tokens
from vadd.errors import DomainError, DtypeError, ShapeError


def colour(num: int = 5, height: int = 3, width: int = 4, channels: int = 2, levels: int = 256) -> torch.Tensor:
    shape = (num, height, width, channels)
    return torch.randint(levels, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_pixels_are_in_row_major_order_with_their_channels_side_by_side():
    images = colour()
    data = make_image_tokens(images, num_levels=256)
    assert data.image_shape == (3, 4, 2)
    for row, column, channel in ((0, 0, 1), (1, 2, 0), (2, 3, 1)):
        assert torch.equal(data.tokens[:, (row * 4 + column) * 2 + channel], images[:, row, column, channel].long())
    assert torch.equal(data.images, images.long())


def test_both_orders_of_axes_and_both_kinds_of_arrays_give_the_same():
    images = colour()
    expected = make_image_tokens(images, num_levels=256).tokens
    first = images.permute(0, 3, 1, 2)
    assert torch.equal(make_image_tokens(first, num_levels=256, channels="first").tokens, expected)
    assert torch.equal(make_image_tokens(images.numpy(), num_levels=256).tokens, expected)
    grey = images[..., 0]
    assert make_image_tokens(grey, num_levels=256, channels="first").image_shape == (3, 4)
    assert torch.equal(make_image_tokens(grey, num_levels=256).images, grey.long())


@given(st.integers(2, 300))
def test_quantization_has_steps_of_equal_width(num_levels):
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    levels = make_image_tokens(ramp, num_levels=num_levels, value_range=(0, 255)).tokens[0]
    assert levels.tolist() == [v * num_levels // 256 for v in range(256)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_scaled_to_floats_come_back(dtype):
    ramp = torch.arange(256).reshape(1, 16, 16)
    scaled = ramp.to(dtype) / 255
    assert torch.equal(make_image_tokens(scaled, num_levels=256, value_range=(0, 1)).images, ramp)
    centred = scaled * 2 - 1
    coarse = make_image_tokens(centred, num_levels=2, value_range=(-1, 1))
    assert torch.equal(coarse.images, (ramp > 127).long())


def test_half_of_the_range_is_ink_of_binary_images():
    images = torch.tensor([[[0.0, 0.49], [0.5, 1.0]]])
    assert make_image_tokens(images, num_levels=2, value_range=(0, 1)).tokens.tolist() == [[0, 0, 1, 1]]
    assert make_image_tokens(images >= 0.5, num_levels=2).tokens.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("channels", [0, 3])
def test_padding_frames_the_image(channels):
    images = torch.ones(2, 3, 4, *[channels] * bool(channels), dtype=torch.uint8)
    data = make_image_tokens(images, num_levels=2, pad=2)
    assert data.image_shape[:2] == (7, 8)
    assert torch.equal(data.images[:, 2:-2, 2:-2], images.long())
    assert data.tokens.sum() == images.sum()


def test_bytes_stay_bytes_until_they_are_batched():
    data = make_image_tokens(colour(), [3, 1, 4, 1, 5], num_levels=256, dtype=torch.uint8)
    assert data.tokens.dtype == torch.uint8
    items = data.dataset(with_labels=True).__getitems__([4, 0])
    assert [int(item["condition"]) for item in items] == [5, 3]
    for item, row in zip(items, (4, 0), strict=True):
        assert item["x_0"].dtype == torch.int64
        assert torch.equal(item["x_0"], data.tokens[row].long())
    assert set(data.dataset()[2]) == {"x_0"}


@pytest.mark.parametrize("channels", [0, 3])
def test_mirrored_rows_are_the_images_flipped_from_left_to_right(channels):
    images = colour(channels=channels) if channels else colour()[..., 0]
    data = make_image_tokens(images, num_levels=256)
    both = data.dataset(mirrored=True)
    assert len(both) == 10
    items = both.__getitems__([0, 5, 9])
    assert torch.equal(items[0]["x_0"], data.tokens[0])
    for item, row in zip(items[1:], (0, 4), strict=True):
        assert torch.equal(item["x_0"].reshape(images.shape[1:]), images[row].flip(1).long())
    for row in (10, -1):
        with pytest.raises(IndexError):
            both[row]


def test_batches_of_the_trainer_hold_what_the_data_set_holds():
    from vadd.training.batches import BatchOrder, num_rows_of, read_batches

    data = make_image_tokens(colour(), torch.arange(5), num_levels=256, dtype=torch.uint8)
    both = data.dataset(mirrored=True, with_labels=True)
    order = BatchOrder(num_rows_of(both), 4, seed=0)
    batches = list(read_batches(both, order, 0, 5))
    seen = torch.cat([batch["x_0"] for batch in batches])
    labels = torch.cat([batch["condition"] for batch in batches])
    rows = [row for k in range(5) for row in order.rows(k)]
    assert sorted(rows[:10]) == list(range(10))
    assert torch.equal(seen, torch.stack([both[row]["x_0"] for row in rows]))
    assert labels.tolist() == [row % 5 for row in rows]


def test_selection_keeps_images_and_labels_together():
    data = make_image_tokens(colour(), torch.arange(5), num_levels=256)
    for rows in (slice(1, 4), [1, 2, 3], torch.tensor([1, 2, 3])):
        part = data.select(rows)
        assert len(part) == 3
        assert torch.equal(part.tokens, data.tokens[1:4])
        assert part.labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (torch.zeros(5, 12), {}, ShapeError, "images must have shape"),
        (torch.zeros(0, 3, 4), {}, ShapeError, "at least 1"),
        (torch.zeros(5, 3, 4), {}, DtypeError, "give value_range"),
        (np.array([[["a"]]]), {}, DtypeError, "array of numbers"),
        (colour(), {"num_levels": 16}, DomainError, r"\[0, 16\).*\(0, 255\) for bytes"),
        (torch.full((1, 2, 2), -1), {}, DomainError, "from -1 to -1"),
        (torch.full((1, 2, 2), 1.5), {"value_range": (0, 1)}, DomainError, "to 1.5"),
        (torch.full((1, 2, 2), torch.nan), {"value_range": (0, 1)}, DomainError, "nan"),
        (torch.zeros(1, 2, 2), {"value_range": (1, 1)}, DomainError, "low < high"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), {"value_range": (0, 1.5)}, DomainError, "must be integers"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), {"value_range": (0, 1)}, DtypeError, "levels already"),
        (colour(), {"num_levels": 257, "dtype": torch.uint8}, DtypeError, "up to 256 levels"),
        (colour(), {"dtype": torch.int32}, DtypeError, "int32"),
        (colour(), {"num_levels": 1}, DomainError, "num_levels"),
        (colour(), {"pad": -1}, DomainError, "pad"),
        (colour(), {"channels": "middle"}, DomainError, "channels"),
        (colour(), {"labels": [0, 1]}, ShapeError, r"labels must have shape \(5,\)"),
        (colour(), {"labels": torch.zeros(5)}, DtypeError, "labels must be integers"),
    ],
)
def test_images_and_options_that_are_not_as_described(monkeypatch, images, options, error, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        make_image_tokens(images, **{"num_levels": 256, **options})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokens": torch.zeros(2, 5, dtype=torch.int64)}, ShapeError),
        ({"tokens": torch.zeros(2, 6, dtype=torch.int32)}, DtypeError),
        ({"tokens": torch.full((2, 6), 4)}, DomainError),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, DtypeError),
        ({"image_shape": (6,)}, ShapeError),
        ({"image_shape": (2, 0)}, ShapeError),
        ({"num_levels": 1}, DomainError),
    ],
)
def test_parts_that_do_not_fit_together(monkeypatch, change, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    parts = {"tokens": torch.zeros(2, 6, dtype=torch.int64), "labels": None, "image_shape": (2, 3), "num_levels": 4}
    ImageTokens(**parts)
    with pytest.raises(error):
        ImageTokens(**{**parts, **change})


def test_labels_that_are_not_there_cannot_be_asked_for():
    with pytest.raises(ShapeError, match="have none"):
        make_image_tokens(colour(), num_levels=256).dataset(with_labels=True)
