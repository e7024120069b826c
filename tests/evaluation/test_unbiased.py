"""Every estimator has its enumerated value, for each schedule, proposal and kind of network.

See ``laws.py`` for the false-alarm rate and the power of each comparison.
"""

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vadd import RecognitionGuide, VADDModel
from vadd.backbones.base import Recognition
from vadd.evaluation import jump_costs, log_likelihood_bound
from vadd.priors import LatentPrior
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, GeometricSchedule, PolynomialSchedule
from vadd.testing import (
    exact_delbo,
    exact_finite_step_bound,
    exact_log_likelihood,
    exact_marginal_bound,
    exact_shared_bound,
    tiny_model,
)
from vadd.testing.strategies import schedules

from .enumerated import (
    ATOMS,
    Pinned,
    exact_log_likelihood_of,
    guide_for,
    jump_value,
    jumps_of,
    sequences_of,
    value_of,
)
from .laws import THRESHOLD, check_mean, check_never_above, estimates

UNEVEN = torch.tensor([1.0, 0.7, 0.1, 0.0])

MODELS = {
    "time": {"schedule": CosineSchedule(), "time_scale": 1.0, "is_conditional": True},
    "polynomial": {"schedule": PolynomialSchedule(2.0)},
}


def make_pair(name="time", explains="masked", vocab=2, tokens=2, **options):
    options = {"atoms": ATOMS, "scale": 1.5, "seed": 2, **MODELS[name], **options}
    model = tiny_model(vocab, tokens, **options)
    return model, guide_for(model, explains=explains)


FINITE = [
    {"num_steps": 1},
    {"num_steps": 2},
    {"num_steps": 3, "time_grid": UNEVEN},
    {"num_steps": 3, "time_grid": cosine_grid, "num_latents": 2},
    {"num_steps": 2, "proposal": "prior"},
    {"num_steps": 2, "num_latents": 2, "proposal": "prior"},
    {"num_steps": 2, "num_latents": 2, "proposal": "mixture"},
    {"num_steps": 2, "num_latents": 3},
]


@pytest.mark.parametrize("options", FINITE)
@pytest.mark.parametrize("explains", ["masked", "revealed"])
@pytest.mark.parametrize("name", ["time", pytest.param("polynomial", marks=pytest.mark.slow)])
def test_finite_step(name, explains, options):
    model, guide = make_pair(name, explains)
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "finite-step", **options)
    draws = estimates(model, guide, x_0, bound="finite-step", num_draws=4, copies=5000, **options)
    check_mean(draws, expected)
    exact = exact_log_likelihood(model, x_0, num_steps=options["num_steps"], time_grid=options.get("time_grid"))
    check_never_above(draws, exact)


@pytest.mark.parametrize(
    ("bound", "options"),
    [
        ("marginal", {}),
        ("marginal", {"num_latents": 2}),
        ("marginal", {"num_latents": 2, "proposal": "guide"}),
        ("marginal", {"num_latents": 2, "proposal": "mixture"}),
        ("continuous", {}),
        ("delbo", {}),
        ("delbo", {"num_latents": 2}),
        ("conditional", {"mask_ratio": 0.6}),
        ("conditional", {"mask_ratio": 0.3, "num_latents": 2}),
        ("conditional", {"mask_ratio": 1.0, "num_latents": 2, "proposal": "mixture"}),
    ],
)
@pytest.mark.parametrize("name", ["time", pytest.param("polynomial", marks=pytest.mark.slow)])
def test_bounds_by_the_number_of_masked_tokens(name, bound, options):
    model, guide = make_pair(name, tokens=3)
    x_0 = sequences_of(model)
    plain = {key: value for key, value in options.items() if key != "mask_ratio"}
    count = {0.3: 1, 0.6: 2, 1.0: 3}.get(options.get("mask_ratio"))
    expected = value_of(model, guide, x_0, bound, count=count, **plain)
    check_mean(estimates(model, guide, x_0, bound=bound, num_draws=4, **options), expected, effect=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 1},
        {"num_steps": 3, "time_grid": UNEVEN},
        {"num_steps": 2, "num_latents": 2},
        {"num_steps": 3, "time_grid": UNEVEN, "proposal": "prior"},
        {"num_steps": 2, "num_latents": 2, "proposal": "mixture"},
        {"num_steps": 1, "num_latents": 3},
    ],
)
@pytest.mark.parametrize("name", ["time", pytest.param("polynomial", marks=pytest.mark.slow)])
def test_shared_latent_in_few_steps(name, options):
    model, guide = make_pair(name)
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "shared-latent", **options)
    draws = estimates(model, guide, x_0, bound="shared-latent", num_draws=4, copies=5000, **options)
    check_mean(draws, expected)
    grid = options.get("time_grid")
    check_never_above(draws, exact_log_likelihood_of(model, x_0, "shared-latent", options["num_steps"], grid))


@pytest.mark.parametrize(
    "options",
    [{}, {"num_latents": 2}, {"num_latents": 2, "proposal": "mixture"}, {"proposal": "prior"}],
)
def test_shared_latent_in_infinitely_many_steps(options):
    model, guide = make_pair("polynomial", tokens=3, is_conditional=True)
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "shared-latent", **options)
    draws = estimates(model, guide, x_0, bound="shared-latent", num_draws=2, **options)
    check_mean(draws, expected)
    check_never_above(draws, exact_log_likelihood_of(model, x_0, "shared-latent", None))


class _Prior(Recognition):
    """A guide that proposes from the prior at the start."""

    def __init__(self, model):
        super().__init__()
        self.model, self.latent_shape = model, model.latent_shape

    def forward(self, tokens, target, t, **options):
        return self.model.prior(torch.full_like(tokens, self.model.process.mask_id), torch.ones_like(t))


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_trajectories_of_infinitely_many_steps_visit_the_right_times(proposal):
    """Trajectories and the closed form share one expected value where the guide is the prior."""
    model, _ = make_pair("time", tokens=3, time_scale=5.0)
    guide, x_0 = RecognitionGuide(_Prior(model)), sequences_of(model)
    expected = exact_shared_bound(model, guide, x_0, num_times=64)
    check_mean(estimates(model, guide, x_0, bound="shared-latent", proposal=proposal, num_draws=2), expected)


def test_trajectories_approach_the_likelihood_with_more_latents():
    model, guide = make_pair("polynomial")
    x_0 = sequences_of(model)
    exact = exact_log_likelihood_of(model, x_0, "shared-latent", None)
    gaps = []
    for k in (1, 4, 64):
        draws = estimates(model, guide, x_0, bound="shared-latent", num_latents=k, copies=1000)
        check_never_above(draws, exact)
        gaps.append(float((exact - draws.mean(0)).mean()))
    assert gaps[0] > 2 * gaps[1] > 10 * gaps[2]
    assert gaps[2] < 0.1


@pytest.mark.parametrize("bound", ["finite-step", "marginal"])
def test_one_step_and_marginal_values_reach_their_limits(bound):
    model, guide = make_pair("polynomial")
    x_0 = sequences_of(model)
    steps = {"num_steps": 1} if bound == "finite-step" else {"num_draws": 8}
    limit = (
        exact_log_likelihood(model, x_0, num_steps=1) if steps.get("num_steps") else exact_marginal_bound(model, x_0)
    )
    draws = estimates(model, guide, x_0, bound=bound, num_latents=64, proposal="prior", copies=1000, **steps)
    check_never_above(draws, limit)
    check_mean(draws, limit, effect=0.06)


NORMAL = [
    ("finite-step", {"num_steps": 2}),
    ("finite-step", {"num_steps": 2, "num_latents": 2}),
    ("finite-step", {"num_steps": 2, "num_latents": 2, "proposal": "mixture"}),
    ("marginal", {"num_latents": 2, "proposal": "guide"}),
    ("shared-latent", {"num_steps": 2}),
    ("continuous", {}),
    ("delbo", {}),
]


@pytest.mark.parametrize(("bound", "options"), NORMAL)
def test_normal_latents(bound, options):
    """Against quadrature, whose error is below 1e-3 nats."""
    model, guide = make_pair("polynomial", atoms=None)
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, bound, **options)
    check_mean(estimates(model, guide, x_0, bound=bound, num_draws=4, copies=5000, **options), expected)


def test_values_of_the_oracle_are_those_enumerated_here():
    """Two enumerations, written apart."""
    for explains in ("masked", "revealed"):
        model, guide = make_pair("time", explains, tokens=3)
        x_0 = sequences_of(model)
        options = {"num_steps": 3, "time_grid": UNEVEN}
        oracle = exact_finite_step_bound(model, guide, x_0, target=explains, **options)
        torch.testing.assert_close(value_of(model, guide, x_0, "finite-step", **options), oracle)
    oracle = exact_shared_bound(model, guide, x_0, **options)
    torch.testing.assert_close(value_of(model, guide, x_0, "shared-latent", **options), oracle)
    oracle = exact_delbo(model, guide, x_0, num_times=8)
    torch.testing.assert_close(value_of(model, guide, x_0, "delbo"), oracle)


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent", "marginal", "continuous", "delbo"])
@pytest.mark.parametrize("is_null", [False, True])
def test_without_a_latent(bound, is_null):
    """No latent at all, and the null latent of a model that has one."""
    model, guide = make_pair("time") if is_null else make_pair("time", atoms=None, latent_dim=0, is_conditional=False)
    x_0 = sequences_of(model)
    steps = {"num_steps": 3, "time_grid": UNEVEN} if bound in ("finite-step", "shared-latent") else {}
    reference = _NullOnly(model) if is_null else model
    expected = value_of(reference, guide_for(reference), x_0, bound, **steps)
    extra = {"latents": "null"} if is_null else {}
    draws = estimates(model, guide, x_0, bound=bound, num_draws=4, copies=5000, **steps, **extra)
    check_mean(draws, expected)
    if steps:
        exact = exact_log_likelihood(model, x_0, latents="null", **steps)
        check_never_above(draws, exact)


class _NullOnly:
    """The masked diffusion model inside a model with a latent."""

    has_latent = False

    def __init__(self, model):
        self.process, self.whole = model.process, model

    def prior(self, x_t, t):
        empty = t.new_zeros(len(x_t), 0)
        return dist.Normal(empty, 1.0 + empty).to_event(1)

    def denoise(self, x_t, t, z):
        return self.whole.denoise(x_t, t, None)


@pytest.mark.parametrize("options", [{}, {"num_latents": 2}, {"num_latents": 2, "proposal": "mixture"}])
@pytest.mark.parametrize("explains", ["masked", "revealed"])
def test_jump_costs_have_their_value_and_add_up(explains, options):
    model, guide = make_pair("time", explains)
    x_0 = sequences_of(model)
    many = x_0.repeat(5000, 1)
    total = torch.zeros(5000, len(x_0))
    for jump in jumps_of(model, 3, UNEVEN):
        costs = jump_costs(
            model, guide, many, float(jump[0]), float(jump[1]), num_draws=4, rows_per_call=8192, **options
        )
        assert costs.nats_per_sequence.dtype == torch.float64
        draws = -costs.nats_per_sequence.reshape(5000, -1)
        check_mean(draws, jump_value(model, guide, x_0, jump, **options), effect=0.15)
        total += draws
    expected = value_of(model, guide, x_0, "finite-step", num_steps=3, time_grid=UNEVEN, **options)
    assert abs(total.mean() - expected.mean()) < THRESHOLD * total.mean(1).std() * 3**0.5 / 5000**0.5


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent"])
@pytest.mark.parametrize("num_jumps", [1, 2, 3])
def test_a_subset_of_the_jumps_is_unbiased(bound, num_jumps):
    model, guide = make_pair("time", schedule=GeometricSchedule(0.05, 5.0))
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, bound, num_steps=4)
    draws = estimates(model, guide, x_0, bound=bound, num_steps=4, num_jumps=num_jumps, num_draws=8, copies=5000)
    check_mean(draws, expected, effect=0.06)


def test_by_default_all_jumps_are_visited():
    model, guide = make_pair("time")
    x_0 = sequences_of(model)
    expected = value_of(model, guide, x_0, "finite-step", num_steps=23)
    draws = estimates(model, guide, x_0, bound="finite-step", num_steps=23, copies=5000)
    check_mean(draws, expected, effect=0.05)


FIXED = [
    ("finite-step", {"num_steps": 2}),
    ("finite-step", {"num_steps": 2, "num_latents": 2}),
    ("marginal", {"num_latents": 2, "proposal": "guide"}),
    ("continuous", {}),
    ("delbo", {"num_latents": 2}),
    ("shared-latent", {"num_steps": 2}),
    ("shared-latent", {"num_steps": 2, "num_latents": 2}),
    ("shared-latent", {}),
    ("shared-latent", {"num_latents": 2}),
    ("conditional", {"mask_ratio": 0.5}),
]


@pytest.mark.parametrize(("bound", "options"), FIXED)
@pytest.mark.parametrize("explains", ["masked", "revealed"])
def test_frozen_tokens_and_padding_are_conditioned_on_and_never_scored(bound, options, explains):
    """As if the free tokens were a sequence of their own."""
    name = "polynomial" if bound == "shared-latent" else "time"  # orders are enumerated for those not reading t
    model, guide = make_pair(name, explains, tokens=4, is_conditional=True)
    is_frozen = torch.tensor([False, True, False, False])
    is_padding = torch.tensor([False, False, False, True])
    template = torch.tensor([0, 1, 0, 1])
    alone = Pinned(model, guide, template, is_frozen, is_padding)
    free = sequences_of(alone.pinned)
    plain = {key: value for key, value in options.items() if key != "mask_ratio"}
    count = 1 if bound == "conditional" else None
    expected = value_of(alone.pinned, alone.guide, free, bound, count=count, **plain)
    x_0 = alone.fill(free)
    flags = {"is_frozen": is_frozen.expand(x_0.shape), "is_padding": is_padding.expand(x_0.shape)}
    draws = estimates(model, guide, x_0, bound=bound, num_draws=4, copies=5000, **options, **flags)
    check_mean(draws, expected)
    result = log_likelihood_bound(model, guide, x_0, bound=bound, **options, **flags)
    assert (result.num_scored == (1 if bound == "conditional" else 2)).all()


@settings(max_examples=15)
@given(
    st.integers(2, 3),
    schedules(),
    st.sampled_from(
        [
            ("finite-step", 1),
            ("finite-step", 2),
            ("shared-latent", 2),
            ("shared-latent", None),
            ("marginal", None),
            ("continuous", None),
        ]
    ),
    st.sampled_from([(1, "guide"), (2, "guide"), (2, "mixture"), (1, "prior")]),
    st.sampled_from(["masked", "revealed"]),
    st.integers(0, 2**20),
)
def test_no_configuration_exceeds_the_likelihood_of_its_sampler(vocab, schedule, bound, latents, explains, seed):
    """Random models and options, the code itself against enumeration; for each option on its own see above."""
    (kind, steps), (k, proposal) = bound, latents
    if kind == "continuous":
        k, proposal = 1, "guide"
    model = tiny_model(vocab, 2, atoms=ATOMS[:2], schedule=schedule, is_conditional=True, scale=2.0, seed=seed)
    guide, x_0 = guide_for(model, explains=explains, seed=seed + 3), sequences_of(model)
    options = {"num_latents": k, "proposal": proposal, **({"num_steps": steps} if steps else {})}
    draws = estimates(model, guide, x_0, bound=kind, copies=1500, seed=seed, **options)
    check_never_above(draws, exact_log_likelihood_of(model, x_0, kind, steps))
    check_mean(draws, value_of(model, guide, x_0, kind, **options), effect=0.3)


class _MixturePrior(LatentPrior):
    """Two normal components: no closed form of the KL divergence from a normal."""

    latent_shape = torch.Size([1])

    def forward(self, x_t, t, **options):
        loc = torch.tensor([[-1.5], [1.0]]).expand(len(x_t), 2, 1)
        components = dist.Normal(loc, 0.7).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.4, 0.6]).expand(len(x_t), 2)), components)


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent"])
@pytest.mark.parametrize("explains", ["masked", "revealed"])
def test_a_kl_without_a_closed_form_is_drawn(bound, explains):
    model, guide = make_pair("polynomial", explains, atoms=None)
    model = VADDModel(model.denoiser, _MixturePrior(), model.process)
    x_0 = sequences_of(model)
    if bound == "finite-step":
        expected = exact_finite_step_bound(model, guide, x_0, num_steps=2, target=explains)
    else:
        expected = exact_shared_bound(model, guide, x_0, num_steps=2)
    draws = estimates(model, guide, x_0, bound=bound, num_steps=2, num_draws=4, copies=5000)
    check_mean(draws, expected)
