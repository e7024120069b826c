"""The empirical law of sampled sequences against the enumerated one.

Chi-square over all sequences. There are about 50 comparisons, each at false-alarm rate 1.5e-8, together below
1e-6. Power: where a comparison with the law of another sampler is made, that law would be told apart
with probability above 0.999, by the noncentral chi-square distribution.
"""

import pytest
import torch
from scipy import stats

from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule
from vadd.testing.oracle import exact_sampler_distribution
from vadd.testing.tiny import tiny_model

VOCAB, LENGTH = 2, 3
DRAWS = 20_000
FALSE_ALARM = 1.5e-8

LATENTS = ("fresh", "shared", "null")
MODELS = {
    "atoms": {"atoms": [-1.5, 0.0, 1.5]},
    "conditional": {"atoms": [-1.5, 0.0, 1.5], "is_conditional": True},
    "normal": {},
    "no latent": {"latent_dim": 0},
    "reads time": {"atoms": [-1.5, 0.0, 1.5], "time_scale": 1.0},
}


def make_model(kind, schedule=None):
    return tiny_model(VOCAB, LENGTH, scale=1.5, seed=11, schedule=schedule, **MODELS[kind])


def frequencies(x):
    place = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    return (x * place).sum(-1).bincount(minlength=VOCAB**LENGTH).double()


def assert_law(model, num_steps, latents, time_grid=None, other=None):
    """Compare; ``other`` are options of a sampler whose law this comparison must tell apart."""
    options = {"num_steps": num_steps, "latents": latents, "time_grid": time_grid}
    expected = exact_sampler_distribution(model, LENGTH, **options)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-9)
    threshold = stats.chi2.isf(FALSE_ALARM, len(expected) - 1)
    generator = torch.Generator().manual_seed(num_steps)
    observed = frequencies(model.sample(DRAWS, generator=generator, **options))
    assert float(((observed - DRAWS * expected) ** 2 / (DRAWS * expected)).sum()) < threshold
    if other:
        wrong = exact_sampler_distribution(model, LENGTH, **{**options, **other})
        distance = float((DRAWS * (wrong - expected) ** 2 / expected).sum())
        assert stats.ncx2.sf(threshold, len(expected) - 1, distance) > 0.999


CASES = [(kind, steps, latents) for kind in ("atoms", "normal") for steps in (1, 2, 3, 7) for latents in LATENTS]
CASES += [(kind, steps, latents) for kind in ("conditional", "reads time") for steps in (1, 3) for latents in LATENTS]
CASES += [("no latent", steps, "fresh") for steps in (1, 2, 3, 7)]


@pytest.mark.parametrize(("kind", "num_steps", "latents"), CASES)
def test_sampled_sequences_have_the_enumerated_law(kind, num_steps, latents):
    assert_law(make_model(kind), num_steps, latents)


def test_the_comparison_tells_samplers_apart():
    model = make_model("atoms")
    assert_law(model, 3, "fresh", other={"latents": "shared"})
    assert_law(model, 3, "shared", other={"latents": "fresh"})
    assert_law(model, 3, "fresh", other={"latents": "null"})
    assert_law(model, 3, "fresh", other={"num_steps": 1})
    assert_law(model, 1, "fresh", other={"num_steps": 3})


@pytest.mark.parametrize("schedule", [CosineSchedule(), GeometricSchedule(1e-2, 5.0)], ids=repr)
def test_the_law_follows_schedule_and_grid(schedule):
    assert_law(make_model("reads time", schedule), 3, "fresh")
    assert_law(make_model("reads time", LinearSchedule()), 3, "fresh", cosine_grid)
    assert_law(make_model("reads time"), 2, "shared", torch.tensor([1.0, 0.2, 0.0]))
