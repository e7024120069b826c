"""The gate: the best plan on the validation data, and the null latent wherever nothing else clearly pays."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition
from vadd.backbones.base import Denoiser
from vadd.errors import ConfigError, DomainError
from vadd.evaluation import fit_gate, log_likelihood_bound
from vadd.evaluation.gating import _cheapest, _choose
from vadd.evaluation.plans import PlanScores
from vadd.schedules import LinearSchedule
from vadd.testing import AtomPrior, TabularRecognition, all_sequences, exact_posterior_recognition, tiny_model

MODES = {"shared", "fresh", "null"}


def random_scores(seed, jumps=3, batch=5):
    generator = torch.Generator().manual_seed(seed)
    fresh, null = (-torch.rand(jumps, batch, generator=generator) for _ in range(2))
    steps = torch.rand(jumps, batch, generator=generator)
    return PlanScores(fresh, null, -torch.cat([torch.zeros(1, batch), steps.cumsum(0)]))


def cost_of(scores, plan):
    shared = plan.count("shared")
    rest = sum(getattr(scores, mode)[j].mean() for j, mode in enumerate(plan) if mode != "shared")
    return -(scores.shared_prefix[shared].mean() + rest)


def plans(jumps, modes):
    """Every plan that the gate may choose: shared jumps first, then one of the other modes each."""
    for shared in range(jumps + 1 if "shared" in modes else 1):
        for rest in itertools.product(sorted(modes - {"shared"}), repeat=jumps - shared):
            yield ("shared",) * shared + rest


@given(st.integers(0, 10_000), st.sets(st.sampled_from(sorted(MODES)), min_size=1))
@settings(max_examples=60)
def test_without_a_margin_no_plan_is_cheaper(seed, modes):
    scores = random_scores(seed)
    plan = _cheapest(scores, modes, 0.0)
    best = min(float(cost_of(scores, other)) for other in plans(3, modes))
    assert cost_of(scores, plan) == pytest.approx(best, abs=1e-6)
    assert set(plan) <= modes


@given(st.integers(0, 10_000), st.floats(0, 5))
@settings(max_examples=60)
def test_a_plan_beats_the_null_latent_on_the_rows_that_judge_it(seed, margin):
    scores = random_scores(seed, batch=10)
    plan, costs = _choose(scores, MODES, margin)
    judges = PlanScores(*(part[..., 1::2] for part in scores))
    assert costs.chosen == pytest.approx(float(cost_of(judges, plan)), abs=1e-6)
    assert costs.null == pytest.approx(float(cost_of(judges, ("null",) * 3)), abs=1e-6)
    if set(plan) == {"null"}:
        assert (costs.gain, costs.chosen) == (0.0, costs.null)
    else:
        assert costs.gain > margin * costs.gain_stderr
        assert costs.gain == pytest.approx(costs.null - costs.chosen, abs=1e-6)


@pytest.mark.parametrize("modes", [MODES, {"shared", "null"}, {"shared"}], ids=len)
def test_modes_are_chosen_where_the_scores_are(modes):
    """Shapes and devices without values: up to the first number that is looked at."""
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        _cheapest(PlanScores(*(torch.zeros(n, 5, device="cuda") for n in (3, 3, 4))), modes, 0.0)


def test_a_gain_within_the_margin_is_left():
    noise = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    null = torch.zeros(1, 8)
    scores = PlanScores(null + 0.1 + noise, null, torch.stack([torch.zeros(8), -torch.ones(8)]))
    assert _choose(scores, MODES, 2.0)[0] == ("null",)
    assert _choose(scores, MODES, 0.0)[0] == ("fresh",)


def test_luck_of_the_choice_does_not_count():
    # Sixty-four fresh jumps as good as the null latent in truth: what looks better on some rows is not on others.
    generator, kept = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        fresh = torch.randn(64, 300, generator=generator)
        zeros = torch.zeros(64, 300)
        prefix = -torch.ones(65, 300).cumsum(0)
        kept += set(_choose(PlanScores(fresh, zeros, prefix), MODES, 2.0)[0]) == {"null"}
    # Each is kept with probability 0.977 at least: fewer than 88 of 100 has probability below 1e-5.
    assert kept >= 88


class CopyDenoiser(Denoiser):
    """Two tokens that agree: the sign of the latent says which; the null latent says nothing."""

    def __init__(self):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = 2, 2, torch.Size([1])
        self.strength = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, x_t, t, z, **options):
        sign = torch.where(z.abs() < 3, z.sign(), 0.0)
        known = torch.where(x_t < 2, 2.0 * x_t - 1, 0.0).sum(-1, keepdim=True).clamp(-1, 1)
        evidence = torch.where(known != 0, known, sign)
        return self.strength * torch.stack([-evidence, evidence], -1).expand(-1, 2, 2) / 2


def copy_pair():
    torch.manual_seed(0)
    prior = AtomPrior([-1.0, 1.0], 2, 2)
    with torch.no_grad():
        prior.table.zero_()
    model = VADDModel(CopyDenoiser(), prior, MaskingProcess(LinearSchedule(), 2))
    return model, RecognitionGuide(exact_posterior_recognition(model))


def test_the_latent_is_used_while_both_tokens_are_open():
    model, guide = copy_pair()
    x_0 = torch.tensor([[0, 0], [1, 1]]).repeat(100, 1)
    fit = fit_gate(model, guide, x_0, num_steps=(1, 2), num_latents=4)
    assert fit.gate.plan(1) in {("shared",), ("fresh",)}
    # One step: ln 2 and what the softmax leaves open, against 2 ln 2 without the latent.
    assert fit.costs[1].null == pytest.approx(2 * math.log(2))
    assert fit.costs[1].chosen < 0.8
    # In two steps the latent pays at the first jump; at the second the other token is known, or both are open again.
    assert fit.gate.plan(2)[0] != "null"


def test_a_useless_latent_is_gated_out():
    model = tiny_model(2, 2, seed=3)
    with torch.no_grad():
        model.denoiser.tables[1:3] = 0.0
    guide = RecognitionGuide(TabularRecognition(2, 2, seed=5))  # it differs from the prior, so its draws cost
    fit = fit_gate(
        model, guide, all_sequences(2, 2).repeat(50, 1), num_steps=(1, 2, 4), num_latents=1, proposal="guide"
    )
    assert all(set(plan) == {"null"} for plan in fit.gate.plans.values())


def test_costs_are_those_of_the_bound():
    model, guide = copy_pair()
    x_0 = torch.tensor([[0, 0], [1, 1]]).repeat(2000, 1)
    fit = fit_gate(model, guide, x_0, num_steps=(2,), num_latents=4, seed=1)
    options = {"bound": "finite-step", "num_steps": 2, "num_latents": 4, "proposal": "mixture"}
    chosen = log_likelihood_bound(model, guide, x_0, latents=fit.gate, seed=2, **options)
    null = log_likelihood_bound(model, guide, x_0, latents="null", seed=2, **options)
    # The fit judges on half of the rows: a difference of variance three times that of the mean of all.
    assert chosen.nats == pytest.approx(fit.costs[2].chosen, abs=7 * 3**0.5 * chosen.stderr)
    assert null.nats == pytest.approx(fit.costs[2].null, abs=7 * 3**0.5 * null.stderr)
    assert chosen.nats < null.nats


def test_modes_restrict_the_choice():
    model, guide = copy_pair()
    x_0 = torch.tensor([[0, 0], [1, 1]]).repeat(20, 1)
    for modes in (("null",), ("fresh",), ("shared",)):
        fit = fit_gate(model, guide, x_0, num_steps=(1, 3), modes=modes, num_latents=2)
        assert all(set(plan) == set(modes) for plan in fit.gate.plans.values())


def test_model_and_random_state_are_left_alone():
    model, guide = copy_pair()
    model.train()
    state = torch.random.get_rng_state()
    fit_gate(model, guide, torch.tensor([[0, 0], [1, 1]]).repeat(2, 1), num_steps=(1,))
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert model.gate is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": ()}, ConfigError, "num_steps must name"),
        ({"num_steps": (2, 2)}, ConfigError, "num_steps must name"),
        ({"num_steps": (0,)}, DomainError, "num_steps must be an integer of at least 1"),
        ({"modes": ()}, ConfigError, "modes must be some of"),
        ({"margin": -1.0}, DomainError, "margin must be"),
        ({"margin": math.inf}, DomainError, "margin must be"),
        ({"num_draws": 0}, DomainError, "num_draws must be an integer of at least 1"),
        ({"time_grid": torch.tensor([1.0, 0.0])}, ConfigError, "time_grid must be a name, or a function"),
        ({"time_grid": [1.0, 0.0]}, ConfigError, "time_grid must be a name, or a function"),
        ({"seed": -1}, DomainError, "seed must be an integer of at least 0"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    model, guide = copy_pair()
    with pytest.raises(error, match=message):
        fit_gate(model, guide, torch.tensor([[0, 0], [1, 1]]).repeat(2, 1), **options)


def test_needs_a_latent_and_sequences():
    model, guide = copy_pair()
    with pytest.raises(DomainError, match="at least 4 sequences"):
        fit_gate(model, guide, torch.tensor([[0, 0]]))
    plain = tiny_model(2, 2, latent_dim=0)
    with pytest.raises(ConfigError, match="no latent"):
        fit_gate(plain, RecognitionGuide(EmptyRecognition()), torch.tensor([[0, 0], [1, 1]]))
