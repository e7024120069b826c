"""Pictures: what they show, read back from the files, and what they refuse."""

import sys

import jaxtyping
import pytest
import torch

from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.plotting import density_grid, image_grid, training_curves

pytest.importorskip("matplotlib")


def images(num: int, value: int = 0) -> torch.Tensor:
    return torch.full((num, 8, 8), value)


def read(path) -> torch.Tensor:
    from matplotlib.image import imread

    return torch.as_tensor(imread(path)[..., :3].copy())


def share_of(picture: torch.Tensor, colour: tuple[float, float, float]) -> float:
    return float((picture - torch.tensor(colour)).abs().amax(-1).lt(0.02).double().mean())


def test_ink_covers_the_area_of_the_inked_images(tmp_path):
    blank, ink = images(25), images(25, 16)
    shares = []
    for first, second in ((blank, blank), (blank, ink), (ink, ink)):
        image_grid(tmp_path / "a.png", {"A": {"1": blank, "2": first}, "B": {"1": blank, "2": second}}, num_levels=17)
        shares.append(share_of(read(tmp_path / "a.png"), (0, 0, 0)))
    one_block = shares[1] - shares[0]
    assert one_block > 0.1
    assert shares[2] - shares[1] == pytest.approx(one_block, rel=0.01)


def test_each_row_and_column_is_in_its_place(tmp_path):
    blank, ink = images(4), images(4, 16)
    rows = {"A": {"1": blank, "2": ink}, "B": {"1": blank, "2": blank}}
    image_grid(tmp_path / "a.png", rows, num_levels=17, per_row=2)
    is_ink = read(tmp_path / "a.png").amax(-1) < 0.02
    height, width = is_ink.shape
    top_right = is_ink[: height // 2 + 20, width // 2 :].sum()
    assert top_right > 0.95 * is_ink.sum()  # the rest is text


def test_colours_are_shown_as_light_and_not_as_ink(tmp_path):
    shares = []
    for colour in ((0, 0, 0), (255, 0, 0)):
        block = torch.tensor(colour).expand(25, 8, 8, 3)
        image_grid(tmp_path / "a.png", {"A": {"1": block, "2": block}}, num_levels=256)
        shares.append(share_of(read(tmp_path / "a.png"), (1, 0, 0)))
    assert shares[0] == 0
    assert shares[1] > 0.3


def test_a_single_channel_is_grey(tmp_path):
    for name, shape in (("two", (25, 8, 8)), ("three", (25, 8, 8, 1))):
        block = torch.arange(25 * 64).remainder(17).reshape(shape)
        image_grid(tmp_path / f"{name}.png", {"A": {"1": block}}, num_levels=17, neighbours={"n": (block, block)})
    assert torch.equal(read(tmp_path / "two.png"), read(tmp_path / "three.png"))


def test_reference_and_neighbours_make_room(tmp_path):
    rows = {"A": {"1": images(25), "2": images(25)}}
    image_grid(tmp_path / "plain.png", rows, num_levels=17)
    image_grid(
        tmp_path / "full.png",
        rows,
        num_levels=17,
        reference=("real", images(100)),
        neighbours={"A": (images(9), images(9))},
        title="Samples",
    )
    plain, full = read(tmp_path / "plain.png"), read(tmp_path / "full.png")
    assert full.shape[0] > plain.shape[0] + 100
    assert full.shape[1] > plain.shape[1] + 200


def test_densities_lie_with_the_first_token_to_the_right_and_the_second_upwards(tmp_path):
    truth = torch.full((10, 10), 0.01)
    corner = torch.zeros(10, 10)
    corner[0, 5:] = 0.01  # a column at the left edge, the upper half of it
    blank = torch.zeros(10, 10)
    saved = []
    for p in (blank, corner):
        density_grid(tmp_path / "a.png", {"A": {"1": blank, "2": p}}, reference=("truth", truth))
        saved.append(read(tmp_path / "a.png"))
    changed = (saved[0] - saved[1]).abs().amax(-1) > 0.1
    block = round(1.7 * 160 / 10) * 10  # dots
    where = changed.nonzero()
    (top, left), (bottom, right) = where.amin(0).tolist(), where.amax(0).tolist()
    width = changed.shape[1]
    assert changed.double().mean() > 0
    assert right - left + 1 == pytest.approx(block / 10, abs=2)
    assert bottom - top + 1 == pytest.approx(block / 2, abs=2)
    assert width - left == pytest.approx(block + 0.12 * 160, abs=3)  # the left edge of the last block
    assert changed.shape[0] - bottom == pytest.approx(block / 2 + 0.12 * 160, abs=3)


def test_densities_share_the_colours_of_the_reference(tmp_path):
    truth, faint = torch.full((10, 10), 0.01), torch.full((10, 10), 0.0001)
    shares = []
    for p in (truth, faint):
        density_grid(tmp_path / "a.png", {"A": {"1": p}}, reference=("truth", truth), title="Two laws")
        shares.append(share_of(read(tmp_path / "a.png"), (8 / 255, 48 / 255, 107 / 255)))  # the darkest blue
    assert shares[0] == pytest.approx(2 * shares[1], rel=0.01)
    assert shares[1] > 0.1


@pytest.mark.parametrize(
    ("p", "error"),
    [
        (torch.zeros(10, 9), ShapeError),
        (torch.zeros(10), ShapeError),
        (torch.full((10, 10), -0.1), DomainError),
    ],
)
def test_densities_that_do_not_fit_are_an_error(monkeypatch, tmp_path, p, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error):
        density_grid(tmp_path / "a.png", {"A": {"1": p}}, reference=("truth", torch.zeros(10, 10)))


def test_curves_are_drawn_in_the_colours_of_the_models(tmp_path):
    steps = list(range(100))
    history = {"step": steps, "reconstruction": [200.0 - s for s in steps], "kl": [0.1 * s for s in steps]}
    training_curves(tmp_path / "one.png", {"MDM": history})
    training_curves(tmp_path / "two.png", {"MDM": history, "VADD": {**history, "kl": [5.0] * 100}})
    blue = (0x1F / 255, 0x5A / 255, 0x99 / 255)
    assert share_of(read(tmp_path / "one.png"), blue) == 0
    assert share_of(read(tmp_path / "two.png"), blue) > 1e-3


def test_a_model_without_a_latent_has_no_panel_of_its_divergence(tmp_path):
    history = {"step": [0, 1], "reconstruction": [2.0, 1.0], "kl": [0.0, 0.0]}
    training_curves(tmp_path / "one.png", {"MDM": history})
    training_curves(tmp_path / "two.png", {"MDM": history, "VADD": {**history, "kl": [0.0, 1.0]}})
    one, two = read(tmp_path / "one.png"), read(tmp_path / "two.png")
    assert one.shape[0] == two.shape[0]
    assert 2 * one.shape[1] == two.shape[1]


def test_a_single_point_is_seen(tmp_path):
    training_curves(tmp_path / "a.png", {"A": {"step": [10], "reconstruction": [2.0], "kl": [1.0]}})
    left, right = read(tmp_path / "a.png").chunk(2, 1)
    # The left panel has the legend's line, too; the right one has the point alone.
    assert (
        0 < share_of(right, (0xC4 / 255, 0x50 / 255, 0x1B / 255)) < share_of(left, (0xC4 / 255, 0x50 / 255, 0x1B / 255))
    )


def test_smoothing_keeps_constants_and_the_mean_of_lines():
    from vadd.plotting.curves import _running_mean

    values = torch.arange(10.0)
    assert torch.allclose(_running_mean(torch.ones(10), 3), torch.ones(10))
    assert torch.allclose(_running_mean(values, 2)[2:-2], values[2:-2])
    assert torch.equal(_running_mean(values, 0), values)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ({}, ConfigError),
        ({"A": {"1": images(4)}, "B": {"2": images(4)}}, ConfigError),
        ({"A": {"1": images(4), "2": torch.zeros(4, 9, 8)}}, ShapeError),
        ({"A": {"1": torch.zeros(4, 64)}}, ShapeError),
        ({"A": {"1": images(0)}}, ShapeError),
        ({"A": {"1": images(4, 17)}}, DomainError),
    ],
)
def test_blocks_that_do_not_fit_are_an_error(monkeypatch, tmp_path, rows, error):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error):
        image_grid(tmp_path / "a.png", rows, num_levels=17)


def test_unpaired_neighbours_are_an_error(tmp_path):
    with pytest.raises(ShapeError, match="neighbours of 'A'"):
        image_grid(
            tmp_path / "a.png",
            {"A": {"1": images(4)}},
            num_levels=17,
            neighbours={"A": (images(4), images(3))},
        )


def test_broken_histories_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="lacks kl"):
        training_curves(tmp_path / "a.png", {"A": {"step": [0], "reconstruction": [1.0]}})
    with pytest.raises(ShapeError, match="one length"):
        training_curves(tmp_path / "a.png", {"A": {"step": [0, 1], "reconstruction": [1.0, 1.0], "kl": [0.0]}})


def test_missing_dependency_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        image_grid(tmp_path / "a.png", {"A": {"1": images(4)}}, num_levels=17)
