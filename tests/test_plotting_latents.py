"""Pages about latents: every image in its place, in its colour."""

import jaxtyping
import pytest
import torch

from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.plotting import image_table, interpolation_page, latent_mask_page, traversal_page

from .test_plotting import read

pytest.importorskip("matplotlib")


def centre_of(picture: torch.Tensor, colour) -> tuple[float, float]:
    """Row and column, as shares of the picture, of the pixels of a colour."""
    where = (picture - torch.tensor(colour)).abs().amax(-1).lt(0.02).nonzero().double()
    assert len(where) > 100
    return tuple((where.mean(0) / torch.tensor(picture.shape[:2])).tolist())


def table(rows: int = 3, columns: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.zeros(rows, columns, 8, 8, *[channels] * bool(channels), dtype=torch.uint8)


def test_rows_go_down_and_columns_to_the_right(tmp_path):
    images = table()
    images[0, 3, ..., 0] = 255  # red
    images[2, 0, ..., 2] = 255  # blue
    titles = {"rows": ["a", "b", "c"], "columns": ["1", "2", "3", "4"]}
    image_table(tmp_path / "a.png", images, num_levels=256, title="T", **titles)
    picture = read(tmp_path / "a.png")
    red, blue = centre_of(picture, (1.0, 0.0, 0.0)), centre_of(picture, (0.0, 0.0, 1.0))
    assert red[0] < blue[0] - 0.3
    assert red[1] > blue[1] + 0.4


def test_grey_is_ink_on_paper(tmp_path):
    blank, ink = table(channels=0), table(channels=0) + 16
    shares = []
    for images in (blank, ink):
        latent_mask_page(tmp_path / "a.png", images, num_levels=17)
        shares.append(float((read(tmp_path / "a.png") < 0.02).all(-1).double().mean()))
    assert shares[1] > shares[0] + 0.4


def test_every_page_is_written(tmp_path):
    images = table()
    interpolation_page(tmp_path / "a.png", images, [0, 1 / 3, 2 / 3, 1], num_levels=256)
    traversal_page(tmp_path / "b.png", images, ["unit 7", "unit 1", "unit 30"], [-3, -1, 1, 3], num_levels=256)
    latent_mask_page(tmp_path / "c.png", images, num_levels=256)
    for name in "abc":
        picture = read(tmp_path / f"{name}.png")
        assert (picture < 0.02).all(-1).double().mean() > 0.3  # the black images


def test_long_titles_move_the_images_and_are_not_cut(tmp_path):
    for rows in (["a"], ["a unit with a very long name"]):
        image_table(tmp_path / f"{len(rows[0])}.png", table(1, 2), num_levels=256, rows=rows, columns=["1", "2"])
    short, long = read(tmp_path / "1.png"), read(tmp_path / "28.png")
    assert long.shape[1] > short.shape[1] + 200
    assert bool((long[:, 0] == 1).all())  # no letter is cut off at the left edge


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (table(), {"rows": ["a"]}, ConfigError, "3 rows and 4 columns, got 1 and 4"),
        (table(), {"columns": ["a"]}, ConfigError, "got 3 and 1"),
        (table(channels=2), {}, ShapeError, "height, width, 3"),
        (table(0), {}, ShapeError, "at least 1"),
        (torch.zeros(3, 4, 8), {}, ShapeError, "images must have shape"),
        (table() + 17, {"num_levels": 17}, DomainError, r"\[0, 17\)"),
    ],
)
def test_images_and_titles_that_do_not_fit_are_an_error(monkeypatch, tmp_path, images, options, error, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        image_table(
            tmp_path / "a.png", images, **{"num_levels": 256, "rows": list("abc"), "columns": list("1234"), **options}
        )
