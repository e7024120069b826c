"""Shaping of tokens and latents: definitions, limits, and the laws that follow; see ``laws.py``."""

import math
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd import MaskingProcess, VADDModel
from vadd.backbones.base import Denoiser
from vadd.distributions import Reshaped
from vadd.errors import ConfigError, DomainError
from vadd.priors import CategoricalPrior, FlowPrior, MixturePrior, StandardNormalPrior
from vadd.samplers import Shaping
from vadd.samplers.latent_draw import mix_seed, temper
from vadd.schedules import LinearSchedule
from vadd.testing import TabularDenoiser, exact_sampler_distribution

from .laws import DRAWS, LENGTH, VOCAB, check_law
from .test_law import make_model

logit_rows = st.lists(st.integers(-64, 64).map(lambda n: n / 8), min_size=2, max_size=7, unique=True)


def by_definition(logits, temperature, top_k, top_p, min_p):
    """One row, in plain Python, as the documentation says it."""
    p = {i: math.exp(value / temperature) for i, value in enumerate(logits)}
    order = sorted(p, key=p.get, reverse=True)[: top_k or len(p)]
    total = sum(p[i] for i in order)
    if top_p is not None:
        kept, mass = [], 0.0
        for i in order:
            kept.append(i)
            mass += p[i] / total
            if mass >= top_p:
                break
        order = kept
    if min_p is not None:
        order = [i for i in order if p[i] >= min_p * p[order[0]]]
    total = sum(p[i] for i in order)
    return torch.tensor([p[i] / total if i in order else 0.0 for i in range(len(logits))], dtype=torch.float64)


@given(
    logit_rows,
    st.floats(0.2, 3),
    st.none() | st.integers(1, 9),
    st.none() | st.floats(0.05, 0.95),
    st.none() | st.floats(0.05, 0.95),
)
def test_shaping_is_as_documented(logits, temperature, top_k, top_p, min_p):
    shaped = Shaping(temperature, top_k, top_p, min_p)(torch.tensor([logits], dtype=torch.float64)).softmax(-1)[0]
    expected = by_definition(logits, temperature, top_k, top_p, min_p)
    if torch.equal(shaped > 0, expected > 0):
        torch.testing.assert_close(shaped, expected)
    else:  # a probability within rounding of a threshold: the sets differ by one token
        assert int(((shaped > 0) != (expected > 0)).sum()) == 1
        options = [(top_p and top_p * (1 + e), min_p and min_p * (1 + e)) for e in (-1e-9, 1e-9)]
        others = [by_definition(logits, temperature, top_k, *option) > 0 for option in options]
        assert any(torch.equal(shaped > 0, other) for other in others)


def test_the_order_of_the_steps():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().double()
    # Of the two best (0.625, 0.375), 0.6 needs one; of all four it would need two.
    assert (Shaping(top_k=2, top_p=0.6)(logits) > -torch.inf).tolist() == [True, False, False, False]
    assert (Shaping(top_p=0.6)(logits) > -torch.inf).tolist() == [True, True, False, False]
    # The temperature comes first: at 1/2 the best has 0.685.
    assert (Shaping(temperature=0.5, top_p=0.6)(logits) > -torch.inf).tolist() == [True, False, False, False]
    assert (Shaping(temperature=0.5, min_p=0.4)(logits) > -torch.inf).tolist() == [True, False, False, False]
    assert (Shaping(min_p=0.4)(logits) > -torch.inf).tolist() == [True, True, False, False]


@given(logit_rows)
def test_the_default_and_the_widest_options_change_nothing(logits):
    row = torch.tensor([logits])
    assert Shaping()(row) is row
    for shaping in (Shaping(top_p=1.0), Shaping(min_p=0.0), Shaping(top_k=len(logits)), Shaping(top_k=1000)):
        assert torch.equal(shaping(row), row)


@given(logit_rows)
def test_the_narrowest_options_keep_the_best(logits):
    row = torch.tensor([logits], dtype=torch.float64)
    best = row.argmax(-1)
    for shaping in (Shaping(0.0), Shaping(1e-300), Shaping(top_k=1), Shaping(top_p=1e-9), Shaping(min_p=1.0)):
        shaped = shaping(row)
        assert torch.equal(shaped.argmax(-1), best)
        assert int((shaped > -torch.inf).sum()) == 1 or shaping.temperature == 1e-300


@pytest.mark.parametrize(
    "shaping", [Shaping(0.0), Shaping(0.7), Shaping(top_p=0.5), Shaping(top_k=2), Shaping(min_p=0.1)]
)
def test_nan_stays_and_impossible_tokens_stay_impossible(shaping):
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, -torch.inf, -1.0]])
    shaped = shaping(logits).softmax(-1)
    assert shaped[0].isnan().any()
    assert shaped[1, 1] == 0
    assert shaped[1].sum() == pytest.approx(1)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"temperature": None},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": -1},
        {"top_p": math.nan},
        {"top_k": 0},
        {"top_k": 2.0},
        {"top_k": True},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"latent_temperature": -1.0},
        {"latent_temperature": math.inf},
        {"guidance": -1.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(option):
    (name,) = option
    with pytest.raises(DomainError, match=name):
        make_model("atoms").sample(2, num_steps=2, **option)


# Laws


def wrapped(model, shape):
    """The model with another distribution of every token, for the oracle."""

    def denoise(x_t, t, z=None):
        return SimpleNamespace(logits=shape(model.denoise(x_t, t, z).logits))

    return SimpleNamespace(process=model.process, prior=model.prior, denoise=denoise)


@pytest.mark.parametrize("method", ["ancestral", "cached", "static", "first-hitting"])
@pytest.mark.parametrize("latents", ["fresh", "shared"])
@pytest.mark.parametrize(
    "options", [{"temperature": 0.5}, {"temperature": 2.0}, {"min_p": 0.3}, {"top_p": 0.8}, {"top_k": 1}], ids=str
)
def test_shaped_samples_have_the_law_of_the_shaped_network(method, latents, options):
    model = make_model("conditional")

    def shape(logits):
        rows = [
            by_definition(row, **{"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, **options})
            for row in logits.reshape(-1, VOCAB).tolist()
        ]
        return torch.stack(rows).log().reshape(logits.shape)

    x = model.sample(DRAWS, num_steps=2, latents=latents, method=method, seed=0, **options)
    expected = exact_sampler_distribution(wrapped(model, shape), LENGTH, num_steps=2, latents=latents)
    check_law(x, expected)


def test_temperature_zero_is_the_argmax():
    model = make_model("no latent")
    for method in ("ancestral", "static", "confidence", "first-hitting"):
        x = model.sample(300, num_steps=1, method=method, temperature=0.0, seed=0)
        everything = torch.full((1, LENGTH), VOCAB)
        assert torch.equal(x, model.reconstruct(everything, None, t=torch.ones(1)).expand(300, -1))
    cold = [model.sample(300, num_steps=3, temperature=value, seed=0) for value in (0.0, 1e-9, 1e-200)]
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold[0], cold[2])


# Guidance


class TwoTables(Denoiser):
    """One table of logits for each of two labels, and one without."""

    def __init__(self):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = VOCAB, LENGTH, torch.Size([1])
        self.parts = torch.nn.ModuleList(TabularDenoiser(VOCAB, LENGTH, scale=1.0, seed=k) for k in range(3))

    def forward(self, x_t, t, z, *, is_padding=None, condition=None):
        logits = torch.stack([part(x_t, t, z) for part in self.parts])
        label = torch.full(t.shape, 2) if condition is None else condition
        return logits[label, torch.arange(len(t))]


@pytest.mark.parametrize(
    ("method", "guidance"),
    [
        ("ancestral", 0.0),
        ("ancestral", 0.5),
        ("ancestral", 1.0),
        ("cached", 2.5),
        ("static", 2.5),
        ("first-hitting", 2.5),
    ],
)
def test_guided_samples_have_the_law_of_the_guided_network(method, guidance):
    model = VADDModel(TwoTables(), StandardNormalPrior(1).double(), MaskingProcess(LinearSchedule(), VOCAB))
    condition = torch.tensor([0, 1]).repeat(DRAWS)
    options = {"condition": condition, "guidance": guidance, "batch_size": 9_999}  # odd: rows of both labels in turn
    x = model.sample(2 * DRAWS, num_steps=2, method=method, seed=0, **options)
    for label in (0, 1):

        def denoise(x_t, t, z=None, label=label):
            given = torch.full(t.shape, label)
            logits = (1 - guidance) * model.denoise(x_t, t, z).logits
            return SimpleNamespace(logits=logits + guidance * model.denoise(x_t, t, z, condition=given).logits)

        guided = SimpleNamespace(process=model.process, prior=model.prior, denoise=denoise)
        check_law(x[label::2], exact_sampler_distribution(guided, LENGTH, num_steps=2))


def test_guidance_needs_a_condition():
    with pytest.raises(ConfigError, match="guidance needs condition"):
        make_model("atoms").sample(2, num_steps=2, guidance=2.0)


def test_tokens_that_the_condition_rules_out_stay_out():
    model = VADDModel(TwoTables(), StandardNormalPrior(1).double(), MaskingProcess(LinearSchedule(), VOCAB))
    with torch.no_grad():
        for part in (0, 2):
            model.denoiser.parts[part].tables[0, ..., 1] = -torch.inf
    x = model.sample(50, num_steps=2, condition=torch.zeros(50, dtype=torch.int64), guidance=3.0)
    assert (x == 0).all()


# The temperature of the latent


def moments(distribution, temperature, num=200_000):
    torch.manual_seed(0)
    z = temper(distribution, temperature).sample(torch.Size([num]))
    return z.mean(0), z.std(0)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_normals_are_scaled_about_their_mean(temperature):
    """Threshold 5 standard errors: false alarms below 1e-6 each."""
    loc, scale = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]])
    normal = dist.Normal(loc, scale).to_event(1)
    correlated = dist.MultivariateNormal(loc, scale_tril=torch.diag(scale[0])[None])
    low_rank = dist.LowRankMultivariateNormal(loc, torch.zeros(1, 2, 1), scale.square())
    for distribution in (normal, correlated, low_rank, Reshaped(correlated, (2, 1))):
        mean, std = (value.reshape(1, 2) for value in moments(distribution, temperature))
        assert ((mean - loc).abs() <= 5 * temperature * scale / 200_000**0.5 + 1e-6).all()
        torch.testing.assert_close(std, temperature * scale, rtol=0.02, atol=1e-6)


def test_discrete_latents_are_sharpened():
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    one_hot = dist.OneHotCategorical(probabilities.expand(4, 2, 3)).to_event(1)
    for temperature in (0.0, 0.5, 2.0):
        mean, _ = moments(one_hot, temperature, 50_000)
        expected = torch.tensor([0.0, 1.0, 0.0]) if temperature == 0 else probabilities ** (1 / temperature)
        torch.testing.assert_close(mean, (expected / expected.sum()).expand(4, 2, 3), rtol=0, atol=0.012)


def test_flows_push_a_tempered_base_and_mixtures_temper_their_components():
    flow = FlowPrior(2, num_layers=2, hidden_size=8)
    x_t, t = torch.full((3, LENGTH), VOCAB), torch.ones(3)
    mean, std = moments(flow(x_t, t), 0.5, 20_000)
    torch.testing.assert_close(std, torch.full((3, 2), 0.5), rtol=0.05, atol=0)
    mixture = MixturePrior(2, num_components=3)
    z = temper(mixture(x_t, t), 0.0).sample(torch.Size([500]))
    assert z.shape == (500, 3, 2)
    assert {tuple(row) for row in z.reshape(-1, 2).tolist()} == {tuple(row) for row in mixture.loc.tolist()}


def test_a_tempered_latent_reaches_the_law():
    """Atoms: the law is that of the model whose prior is sharpened."""
    model = make_model("conditional")
    x = model.sample(DRAWS, num_steps=2, latent_temperature=0.5, seed=0)
    sharp = make_model("conditional")
    with torch.no_grad():
        sharp.prior.table.mul_(2.0)
    expected = exact_sampler_distribution(sharp, LENGTH, num_steps=2)
    check_law(x, expected, not_law=exact_sampler_distribution(model, LENGTH, num_steps=2))


def test_temperatures_fit_every_shape_of_latent():
    x_t, t = torch.full((3, LENGTH), VOCAB), torch.ones(3)
    for prior in (
        StandardNormalPrior((LENGTH, 2)),
        CategoricalPrior((2, 3)),
        CategoricalPrior(4),
        MixturePrior((2, 2), 3),
        FlowPrior((2, 2), num_layers=2, hidden_size=8),
    ):
        for shape in (torch.Size(), torch.Size([5])):
            assert temper(prior(x_t, t), 0.3).sample(shape).shape == (*shape, 3, *prior.latent_shape)


def test_other_distributions_are_refused():
    with pytest.raises(ConfigError, match="Gamma"):
        temper(dist.Gamma(torch.ones(2, 3), torch.ones(2, 3)).to_event(1), 0.5)
    gamma = dist.Gamma(torch.ones(2, 3), torch.ones(2, 3)).to_event(1)
    assert temper(gamma, 1.0) is gamma


def test_seeds_of_different_keys_differ():
    keys = [(a, b) for a in range(-1, 40) for b in range(40)] + [(a,) for a in range(-1, 40)]
    assert len({mix_seed(seed, *key) for key in keys for seed in (0, 1, 2**62 - 1)}) == 3 * len(keys)
    assert all(0 <= mix_seed(2**62 - 1, *key) < 2**63 for key in keys)
