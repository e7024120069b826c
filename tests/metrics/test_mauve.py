"""MAUVE: what is handed to the package, what is named, and, where it is installed, what it finds."""

import sys
import types

import jaxtyping
import numpy as np
import pytest
import torch

from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.metrics import mauve_score

NAME = "two clouds"


def clouds(share: float, num: int = 400, seed: int = 0) -> torch.Tensor:
    """Points of two far clouds, of which ``share`` in the first."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.where(torch.arange(num) < share * num, 1.0, -1.0)[:, None] * torch.tensor([1.0, 0.3, 0.0, -1.0])
    return centre + 0.05 * torch.randn(num, 4, generator=generator)


@pytest.fixture
def package():
    return pytest.importorskip("mauve")


def test_equal_samples_have_mauve_1_and_disjoint_ones_nearly_0(package):
    real = clouds(0.5)
    for buckets in (2, 5, None):
        assert mauve_score(real, real, features=NAME, num_buckets=buckets)[:2] == (1, 1)
    apart = mauve_score(clouds(1.0), clouds(0.0, seed=1), features=NAME, num_buckets=2)
    assert apart.score < 0.02
    assert apart.score < apart.smoothed < 0.1
    assert apart[2:] == (400, 400, 2, NAME)
    assert "MAUVE 0.0" in str(apart)
    assert "in two clouds (400 samples against 400, 2 buckets)" in str(apart)


def test_a_lost_mode_costs_more_than_a_shifted_balance(package):
    real = clouds(0.5)
    scores = [mauve_score(real, clouds(share, seed=1), features=NAME, num_buckets=2).score for share in (0.5, 0.7, 1.0)]
    assert scores[0] > 0.99
    assert scores[0] > scores[1] > scores[2] + 0.1


def test_two_buckets_give_the_area_under_the_curve_of_their_histograms(package):
    # With two far clouds and two buckets the histograms are known: the definition, integrated here.
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.8, 0.2]).double()
    w = torch.linspace(1e-6, 1 - 1e-6, 25, dtype=torch.float64)[:, None]
    mix = w * p + (1 - w) * q
    x = torch.cat([torch.ones(1), torch.exp(-5 * (q * (q / mix).log()).sum(-1)), torch.zeros(1)])
    y = torch.cat([torch.zeros(1), torch.exp(-5 * (p * (p / mix).log()).sum(-1)), torch.ones(1)])
    area = float(torch.trapezoid(y.flip(0), x.flip(0)))
    found = mauve_score(clouds(0.5), clouds(0.8, seed=1), features=NAME, num_buckets=2)
    assert found.score == pytest.approx(area, abs=1e-4)
    assert mauve_score(clouds(0.5), clouds(0.8, seed=1), features=NAME, num_buckets=2, scale=1.0).score > found.score


class StandIn(types.ModuleType):
    """Takes the package's place and remembers its call."""

    is_equal = False

    def compute_mauve(self, **arguments):
        self.arguments = arguments
        p_hist, q_hist = np.array([0.5, 0.5]), np.array([0.5, 0.5] if self.is_equal else [0.4, 0.6])
        return types.SimpleNamespace(mauve=0.5, mauve_star=0.6, p_hist=p_hist, q_hist=q_hist)


@pytest.fixture
def stand_in(monkeypatch):
    module = StandIn("mauve")
    monkeypatch.setitem(sys.modules, "mauve", module)
    return module


def test_the_default_is_a_bucket_for_ten_samples_and_the_published_scale(stand_in):
    found = mauve_score(clouds(0.5, 60), clouds(0.5, 44), features=NAME)
    assert found == (0.5, 0.6, 60, 44, 4, NAME)
    assert stand_in.arguments["num_buckets"] == 4
    assert stand_in.arguments["mauve_scaling_factor"] == 5
    assert stand_in.arguments["p_features"].shape == (60, 4)  # p is the real text
    assert mauve_score(clouds(0.5, 4), clouds(0.5, 4), features=NAME).num_buckets == 2


def test_equal_histograms_have_mauve_1_whatever_the_package_says(stand_in):
    stand_in.is_equal = True
    assert mauve_score(clouds(0.5), clouds(0.5), features=NAME)[:2] == (1, 1)
    assert mauve_score(clouds(0.5), clouds(0.5, 40), features=NAME)[:2] == (1, 0.6)  # smoothing moves the smaller more


def test_texts_are_represented_by_the_judge_that_is_named(stand_in, monkeypatch):
    made = []

    class Judge:
        def __init__(self, name: str, device: str) -> None:
            self.feature_name = f"states of {name} on {device}"
            made.append(name)

        def features(self, texts) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    monkeypatch.setattr("vadd.metrics.mauve.TransformersJudge", Judge)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert mauve_score(["a", "bb"], ["cc", "ddd", "d"]).features == "states of gpt2-large on cpu"
    assert stand_in.arguments["p_features"].tolist() == [[1, 1], [2, 1]]
    assert stand_in.arguments["q_features"].tolist() == [[2, 1], [3, 1], [1, 1]]
    assert mauve_score(["a", "bb"], ["cc", "d"], features="folder").features == "states of folder on cpu"
    assert mauve_score(["a", "bb"], ["cc", "d"], features=Judge("own", "cpu")).features == "states of own on cpu"
    assert made == ["gpt2-large", "folder", "own"]


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ConfigError, match=r'pip install "vadd\[mauve\]"'):
        mauve_score(clouds(0.5), clouds(0.5), features=NAME)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": None}, ConfigError, "must name the network"),
        ({"scale": 0.0}, ConfigError, "scale"),
        ({"num_buckets": 1}, ConfigError, "at least 2"),
        ({"num_buckets": 801}, ConfigError, "at most the 800"),
        ({"fake_texts": ["a"]}, ConfigError, "one of each"),
        ({"fake_texts": clouds(0.5)[:1]}, DomainError, "at least 2 rows"),
        ({"fake_texts": clouds(0.5)[:, :3]}, ShapeError, "same number of columns"),
        ({"fake_texts": clouds(0.5).long()}, DtypeError, "floating point"),
        ({"real_texts": clouds(0.5) / 0}, NonFiniteError, "real features"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input_is_an_error(stand_in, change, error, message):
    with pytest.raises(error, match=message):
        mauve_score(**{"real_texts": clouds(0.5), "fake_texts": clouds(0.5), "features": NAME, **change})
