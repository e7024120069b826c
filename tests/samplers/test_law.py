"""The empirical law of sampled sequences against the enumerated one; see ``laws.py`` for the error rates."""

import dataclasses

import pytest
import torch
from scipy import stats

from vadd.evaluation import log_likelihood_bound
from vadd.guide import RecognitionGuide
from vadd.samplers import AncestralSampler, LatentBlocks, LatentGate, PosteriorLatents, cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule
from vadd.testing import exact_posterior_recognition, exact_sampler_distribution, tiny_model
from vadd.testing.tiny import Atoms

from .laws import DRAWS, FALSE_ALARM, LENGTH, SMALLEST_BIAS, VOCAB, check_law

LATENTS = ("fresh", "shared", "null")
ATOMS = [-1.5, 0.0, 1.5]
MODELS = {
    "atoms": {"atoms": ATOMS},
    "conditional": {"atoms": ATOMS, "is_conditional": True},
    "normal": {},
    "no latent": {"latent_dim": 0},
    "reads time": {"atoms": ATOMS, "is_conditional": True, "time_scale": 1.0},
}
EXACT = ("ancestral", "cached", AncestralSampler(skip="steps"), "static", "first-hitting")


def make_model(kind, schedule=None):
    return tiny_model(VOCAB, LENGTH, scale=1.5, seed=11, schedule=schedule, **MODELS[kind])


def law(model, num_steps, latents="fresh", **options):
    return exact_sampler_distribution(model, LENGTH, num_steps=num_steps, latents=latents, **options)


def assert_law(model, num_steps, latents, *, method="ancestral", other=None, **options):
    """Compare; ``other`` are options of a sampler whose law this comparison must tell apart."""
    expected = law(model, num_steps, latents, **options)
    not_law = None if other is None else law(model, **{"num_steps": num_steps, "latents": latents, **options, **other})
    x = model.sample(DRAWS, num_steps=num_steps, latents=latents, method=method, seed=num_steps or 0, **options)
    check_law(x, expected, not_law=not_law)


def test_the_comparison_catches_what_it_says():
    for freedom in range(1, VOCAB**LENGTH):
        threshold = stats.chi2.isf(FALSE_ALARM, freedom)
        assert stats.ncx2.sf(threshold, freedom, DRAWS * SMALLEST_BIAS**2) > 0.999


CASES = [(kind, steps, latents) for kind in ("atoms", "normal") for steps in (1, 2, 3, 7) for latents in LATENTS]
CASES += [(kind, steps, latents) for kind in ("conditional", "reads time") for steps in (1, 3) for latents in LATENTS]
CASES += [("no latent", steps, "fresh") for steps in (1, 2, 3, 7)]


@pytest.mark.parametrize(("kind", "num_steps", "latents"), CASES)
def test_ancestral_samples_have_the_enumerated_law(kind, num_steps, latents):
    assert_law(make_model(kind), num_steps, latents)


@pytest.mark.parametrize("method", EXACT[1:], ids=str)
@pytest.mark.parametrize("num_steps", [1, 3, 20])
@pytest.mark.parametrize("latents", LATENTS)
def test_methods_that_claim_the_models_law_have_it(method, num_steps, latents):
    assert_law(make_model("reads time"), num_steps, latents, method=method)


def test_the_comparison_tells_samplers_apart():
    model = make_model("atoms")
    assert_law(model, 3, "fresh", other={"latents": "shared"})
    assert_law(model, 3, "shared", other={"latents": "fresh"})
    assert_law(model, 3, "fresh", other={"latents": "null"})
    assert_law(model, 3, "fresh", other={"num_steps": 1})
    assert_law(model, 1, "fresh", other={"num_steps": 3})
    assert_law(model, None, "fresh", method="first-hitting", other={"num_steps": 3})
    assert_law(make_model("reads time"), 3, LatentBlocks(2), other={"latents": "fresh"})
    assert_law(make_model("reads time"), 3, LatentBlocks(2), other={"latents": "shared"})
    assert_law(make_model("reads time"), 3, ("shared", "null", "shared"), other={"latents": "shared"})


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("kind", ["conditional", "no latent"])
def test_first_hitting_in_continuous_time_is_the_limit_of_ancestral_sampling(kind, latents):
    """The enumerated laws of ``T`` steps approach the limit as ``1 / T``, and the samples have the limit's."""
    model = make_model(kind)
    assert_law(model, None, latents, method="first-hitting")
    distances = [float((law(model, n, latents) - law(model, None, latents)).abs().max()) for n in (20, 40)]
    assert distances[1] == pytest.approx(distances[0] / 2, rel=0.1)


def extrapolated(model):
    """The law of infinitely many steps from those of 10 and 20, whose distance from it is as ``1 / T``."""
    return 2 * law(model, 20) - law(model, 10)


def test_first_hitting_gives_time_reading_networks_the_times_of_the_limit():
    """Against the extrapolated law, which is off by less than a tenth of what the comparison can see."""
    known = law(make_model("conditional"), None)
    error = extrapolated(make_model("conditional")) - known
    assert float((error**2 / known).sum()) < (SMALLEST_BIAS / 10) ** 2
    model = make_model("reads time")
    check_law(model.sample(DRAWS, method="first-hitting", seed=3), extrapolated(model), not_law=known)


PLANS = [
    ("shared", "null", "shared"),
    ("null", "shared", "fresh"),
    ("shared", "fresh", "fresh"),
    ("fresh", "fresh", "null"),
    LatentGate({3: ("shared", "fresh", "null")}),
    LatentGate({6: ("shared", "shared", "null", "null", "fresh", "fresh")}),
    LatentBlocks(2),
    LatentBlocks((1, 2)),
    LatentBlocks(3),
]


@pytest.mark.parametrize("method", EXACT, ids=str)
@pytest.mark.parametrize("latents", PLANS, ids=str)
def test_latents_chosen_jump_by_jump_have_the_enumerated_law(method, latents):
    assert_law(make_model("reads time"), 3, latents, method=method)


def test_the_gate_of_the_model_is_the_default_and_a_call_overrules_it():
    model = make_model("conditional")
    gate = LatentGate({3: ("shared", "fresh", "null")})
    model.latents = "shared"
    check_law(model.sample(DRAWS, num_steps=3, seed=0), law(model, 3, "shared"), not_law=law(model, 3))
    model.gate = gate
    check_law(model.sample(DRAWS, num_steps=3, seed=0), law(model, 3, gate), not_law=law(model, 3, "shared"))
    check_law(
        model.sample(DRAWS, num_steps=3, latents="null", seed=0), law(model, 3, "null"), not_law=law(model, 3, gate)
    )


@pytest.mark.parametrize("schedule", [CosineSchedule(), GeometricSchedule(1e-2, 5.0)], ids=repr)
@pytest.mark.parametrize("method", ["ancestral", "static", "first-hitting"])
def test_the_law_follows_schedule_and_grid(schedule, method):
    assert_law(make_model("reads time", schedule), 3, "fresh", method=method)
    assert_law(make_model("reads time", LinearSchedule()), 3, "fresh", method=method, time_grid=cosine_grid)
    assert_law(make_model("reads time"), 3, "fresh", method=method, time_grid="cosine", other={"time_grid": "uniform"})
    assert_law(make_model("reads time"), 2, "shared", method=method, time_grid=torch.tensor([1.0, 0.2, 0.0]))


@pytest.mark.parametrize("method", ["ancestral", "cached", "static", "first-hitting"])
@pytest.mark.parametrize("batch_size", [1_999, 20_000])
def test_the_law_of_a_sample_does_not_depend_on_its_batch(method, batch_size):
    model = make_model("reads time")
    x = model.sample(DRAWS, num_steps=3, method=method, latents=LatentBlocks(2), batch_size=batch_size, seed=0)
    check_law(x, law(model, 3, LatentBlocks(2)))


@pytest.mark.parametrize("batch_size", [None, 1_999])
def test_padded_positions_are_hidden(batch_size):
    """The tabular network reads padding as the token 0, so that the law is that of a chain where it is known."""
    model = make_model("reads time")
    paddings = [torch.tensor([False, False, True]), torch.tensor([True, False, False])]
    rows = torch.stack(paddings).repeat(DRAWS, 1)
    x = model.sample(2 * DRAWS, num_steps=2, is_padding=rows, batch_size=batch_size, seed=0)
    for k, is_padding in enumerate(paddings):
        check_law(x[k::2], law(model, 2, x=torch.zeros(LENGTH, dtype=torch.int64), is_known=is_padding))


def test_samples_and_bound_agree():
    """In one step, with the exact posterior, the bound is the log-probability: its exponential has the samples' law."""
    model = make_model("conditional")
    guide = RecognitionGuide(exact_posterior_recognition(model))
    x_0 = torch.cartesian_prod(*[torch.arange(VOCAB)] * LENGTH)
    for latents in LATENTS:
        bound = log_likelihood_bound(
            model, guide, x_0, bound="finite-step", num_steps=1, latents=latents, num_latents=2
        )
        check_law(model.sample(DRAWS, num_steps=1, latents=latents, seed=0), (-bound.nats_per_sequence).exp())


# Re-weighted latents, by a model whose prior is the law of the latent that is kept


class Reweighted:
    """The model with the law of :class:`PosteriorLatents` as its prior, summed over all pairs of draws."""

    def __init__(self, model):
        self.model, self.process, self.denoise = model, model.process, model.denoise

    def prior(self, x_t, t):
        mask_id, one = self.process.mask_id, torch.ones(len(x_t), dtype=torch.float64)
        x_1 = torch.full_like(x_t, mask_id)
        atoms = self.model.prior(x_1, one)
        is_shown = x_t != mask_id
        z = atoms.enumerate_support()
        log_p = self.model.denoise(x_1, one, z).logits.log_softmax(-1)
        scores = log_p.gather(-1, x_t.clamp(max=mask_id - 1).expand(len(z), -1, -1)[..., None])[..., 0]
        weight = torch.where(is_shown, scores, 0.0).sum(-1).exp()  # atom, row
        p = atoms.log_prob(z).exp()
        kept = torch.zeros_like(p)
        for i in range(len(z)):
            for j in range(len(z)):
                kept[i] += p[i] * p[j] * weight[i] / (weight[i] + weight[j])
                kept[j] += p[i] * p[j] * weight[j] / (weight[i] + weight[j])
        return Atoms(self.model.prior.atoms, kept.T.log())


@pytest.mark.parametrize("latents", ["fresh", LatentBlocks(2), "shared"], ids=str)
@pytest.mark.parametrize("method", ["ancestral", "first-hitting"])
def test_reweighted_latents_have_the_law_that_is_said(latents, method):
    model = make_model("conditional")
    choice = PosteriorLatents(2, latents)
    x = model.sample(DRAWS, num_steps=3, latents=choice, method=method, seed=0)
    check_law(x, law(Reweighted(model), 3, latents))


def test_reweighted_latents_differ_from_fresh_ones():
    model = make_model("conditional")
    x = model.sample(DRAWS, num_steps=3, latents=PosteriorLatents(2, "fresh"), seed=0)
    check_law(x, law(Reweighted(model), 3), not_law=law(model, 3))


def test_one_draw_is_not_reweighted():
    model = make_model("atoms")
    x = model.sample(DRAWS, num_steps=3, latents=PosteriorLatents(1, "fresh"), seed=0)
    check_law(x, law(model, 3))


def test_samplers_are_values():
    assert AncestralSampler() == AncestralSampler("nothing")
    assert dataclasses.replace(AncestralSampler(), skip="rows") != AncestralSampler()
