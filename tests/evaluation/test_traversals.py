"""Samples with latents that were set: on a model whose tokens are the signs of its latent, all is known beforehand."""

import pyro.distributions as dist
import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, EmptyRecognition, MLPDenoiser, Recognition
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import latent_pages
from vadd.priors import CategoricalPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule

SCALES = torch.tensor([0.5, 2.0, 1.0])
X_0 = torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]).repeat(20, 1)


class SignDenoiser(Denoiser):
    """Three binary tokens, each the sign of a latent component, or of the condition, with log-odds ``strength``."""

    def __init__(self, strength):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = 2, 3, torch.Size([3])
        self.strength = strength

    def forward(self, x_t, t, z, *, condition=None):
        signs = torch.sign(z) if condition is None else condition[:, None].expand(-1, 3)
        return torch.stack([torch.zeros_like(signs), self.strength * signs], -1)


class ScaledRecognition(Recognition):
    """Mean ``+- scale`` by the token, narrow."""

    latent_shape = torch.Size([3])

    def forward(self, tokens, target, t, *, condition=None):
        loc = SCALES * (2.0 * tokens - 1)
        return dist.Normal(loc, torch.full_like(loc, 0.1)).to_event(1)


class NoFormula(ScaledRecognition):
    """The same law, whose mean has no formula."""

    def forward(self, tokens, target, t, *, condition=None):
        base = super().forward(tokens, target, t).base_dist
        return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.0, 1.0)]).to_event(1)


def pair(strength=200.0, recognition=ScaledRecognition):
    model = VADDModel(SignDenoiser(strength), StandardNormalPrior(3), MaskingProcess(LinearSchedule(), 2))
    return model, RecognitionGuide(recognition())


def pages(strength=200.0, recognition=ScaledRecognition, **options):
    return latent_pages(*pair(strength, recognition), X_0, **{"num_latents": 4, "num_units": 3, **options})


@pytest.mark.parametrize("recognition", [ScaledRecognition, NoFormula])
def test_interpolations_lead_from_one_sequence_to_the_other(recognition):
    found = pages(recognition=recognition, num_points=6)
    assert found.interpolations.shape == (2, 6, 3)
    assert found.weights.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    for k, line in enumerate(found.interpolations):
        for point, weight in zip(line, found.weights, strict=True):
            assert torch.equal(point, X_0[2 * k + int(weight > 0.5)])


def test_traversals_change_one_unit_and_begin_with_the_most_active():
    found = pages(num_values=4)
    assert found.units == (1, 2, 0)
    assert found.unit_variances.tolist() == pytest.approx((SCALES[[1, 2, 0]] ** 2 * 80 / 79).tolist())
    assert found.values.tolist() == pytest.approx([-3, -1, 1, 3])
    for unit, line in zip(found.units, found.traversals, strict=True):
        assert line[:, unit].tolist() == [0, 0, 1, 1]
        others = [k for k in range(3) if k != unit]
        assert torch.equal(line[:, others], X_0[:1, others].expand(4, -1))


def test_a_unit_moves_by_its_own_spread(monkeypatch):
    """Half a standard deviation of the means and more, around their mean."""
    held = []
    sample = VADDModel.sample

    def watched(model, num, *, latents, **options):
        held.append(latents.z)
        return sample(model, num, latents=latents, **options)

    monkeypatch.setattr(VADDModel, "sample", watched)
    pages(spread=0.5, num_values=2, num_draws=1)
    means = SCALES * (2.0 * X_0 - 1)
    last = torch.cat(held)[-10:-4]  # two values of each unit, before four rows
    for k, unit in enumerate((1, 2, 0)):
        for value, z in zip((-0.5, 0.5), last[2 * k :], strict=False):
            assert float(z[unit]) == pytest.approx(
                float(means[:, unit].mean() + value * means[:, unit].std()), abs=1e-5
            )


def test_a_row_keeps_its_latent_whatever_the_masks():
    found = pages(num_draws=3)
    assert torch.equal(found.latents_by_masks, X_0[:4, None].expand(-1, 3, -1))
    assert torch.equal(found.x_0, X_0[:4])


@pytest.mark.parametrize("method", ["ancestral", "cached", "static", "first-hitting", "confidence"])
def test_a_column_keeps_masks_and_noise_whatever_the_latent(method):
    # Where the latent says nothing, whatever differs comes from masks and noise.
    found = pages(strength=0.0, num_draws=12, method=method)
    assert torch.equal(found.latents_by_masks, found.latents_by_masks[:1].expand(4, -1, -1))
    assert len({tuple(row) for row in found.latents_by_masks[0].tolist()}) > 2
    assert torch.equal(found.interpolations, found.interpolations[:1, :1].expand_as(found.interpolations))


def test_pages_depend_on_the_seed_alone():
    first, again, other = (pages(strength=0.0, num_draws=12, seed=seed) for seed in (0, 0, 100))
    assert torch.equal(first.latents_by_masks, again.latents_by_masks)
    assert not torch.equal(first.latents_by_masks, other.latents_by_masks)


def test_samples_get_the_condition_of_their_latent():
    condition = torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(20)
    found = pages(condition=condition, num_draws=2)
    assert found.latents_by_masks[:, 0, 0].tolist() == [1, 0, 0, 1]
    assert found.interpolations[:, -1, 0].tolist() == [1, 0]
    assert bool((found.traversals == 1).all())


@pytest.mark.parametrize(
    "options",
    [
        {"num_latents": 3},
        {"num_latents": 0},
        {"num_latents": 82},
        {"num_units": 4},
        {"num_units": 0},
        {"num_points": 1},
        {"num_values": 1},
        {"num_draws": 0},
        {"num_draws": True},
        {"seed": -1},
        {"spread": 0.0},
        {"spread": float("inf")},
    ],
)
def test_numbers_out_of_range_are_an_error(options):
    with pytest.raises(DomainError, match=next(iter(options))):
        pages(**options)


def test_latents_that_cannot_be_shown_are_an_error():
    process = MaskingProcess(LinearSchedule(), 2)
    plain = VADDModel(MLPDenoiser(2, 3, 0, hidden_size=4), StandardNormalPrior(0), process)
    with pytest.raises(ConfigError, match="no latent"):
        latent_pages(plain, RecognitionGuide(EmptyRecognition()), X_0)

    class Discrete(Recognition):
        latent_shape = torch.Size([1, 3])

        def forward(self, tokens, target, t):
            return dist.OneHotCategorical(logits=torch.zeros(len(tokens), 1, 3)).to_event(1)

    model = VADDModel(MLPDenoiser(2, 3, (1, 3), hidden_size=4), CategoricalPrior((1, 3)), process)
    with pytest.raises(ConfigError, match="discrete"):
        latent_pages(model, RecognitionGuide(Discrete()), X_0, num_units=3)
