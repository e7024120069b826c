"""Laws of the likelihood: values by enumeration, draws by counting.

The statistical tests have fixed seeds and a false-alarm rate of at most 1e-6 each; each states its power.
"""

import math

import jaxtyping
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from vadd.distributions import MaskedCategorical, sample_categorical
from vadd.errors import ShapeError
from vadd.testing import all_sequences
from vadd.testing.strategies import dtypes, generators

FALSE_ALARM = 1e-6


@st.composite
def distributions(draw, *, dtype=None):
    """A random distribution with its logits; its target is given, or all masked positions."""
    generator = draw(generators())
    vocab, dim, batch = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = dtype or draw(dtypes())
    logits = 2 * torch.randn(batch, dim, vocab, generator=generator, dtype=dtype)
    x_t = torch.randint(vocab + 1, (batch, dim), generator=generator)
    target = None
    if draw(st.booleans()):
        target = (x_t == vocab) & (torch.rand(batch, dim, generator=generator) < 0.5)
    return MaskedCategorical(logits, x_t, vocab, target=target), logits


def all_values(d: MaskedCategorical) -> torch.Tensor:
    """Every sequence of clean and mask tokens, shape ``(sequences, 1, dim)``."""
    return all_sequences(d.mask_id + 1, d.event_shape[0])[:, None]


@given(distributions())
def test_probabilities_sum_to_one_over_all_sequences(drawn):
    d, logits = drawn
    total = d.log_prob(all_values(d)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(d.batch_shape, dtype=logits.dtype))


@given(distributions(dtype=torch.float64))
def test_log_prob_is_the_sum_of_log_softmax_over_the_target(drawn):
    d, logits = drawn
    value = d.sample()
    expected = torch.zeros(d.batch_shape, dtype=torch.float64)
    for row in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            if d.target[row, i]:
                expected[row] += logits[row, i, value[row, i]] - logits[row, i].logsumexp(0)
    torch.testing.assert_close(d.log_prob(value), expected)
    torch.testing.assert_close(d.token_log_prob(value).sum(-1), expected)
    assert (d.token_log_prob(value)[~d.target] == 0).all()


@given(distributions())
def test_draws_differ_from_x_t_at_the_target_only_and_have_positive_probability(drawn):
    d, _ = drawn
    value = d.sample(torch.Size([5]))
    assert value.shape == (5, *d.batch_shape, *d.event_shape)
    assert ((value == d.x_t) | d.target).all()
    assert (value[:, d.target] < d.mask_id).all()
    assert d.log_prob(value).isfinite().all()


@given(distributions())
def test_it_is_a_point_mass_where_nothing_is_masked(drawn):
    d, logits = drawn
    x_0 = d.x_t.clamp(max=d.mask_id - 1)
    point = MaskedCategorical(logits, x_0, d.mask_id)
    assert (point.log_prob(x_0) == 0).all()
    assert torch.equal(point.sample(), x_0)
    assert torch.equal(point.mode, x_0)
    assert (point.entropy() == 0).all()


@given(distributions(), st.data())
def test_a_changed_position_outside_the_target_has_probability_zero(drawn, data):
    d, _ = drawn
    value = d.sample()
    row = data.draw(st.integers(0, value.shape[0] - 1))
    position = data.draw(st.integers(0, value.shape[1] - 1))
    value[row, position] = (value[row, position] + 1) % (d.mask_id + 1)
    log_prob = d.log_prob(value)
    became_mask = value[row, position] == d.mask_id
    assert (log_prob[row] == -torch.inf) == bool(~d.target[row, position] | became_mask)
    others = torch.arange(len(value)) != row
    assert log_prob[others].isfinite().all()


@given(distributions())
def test_logits_outside_the_target_are_ignored_even_if_nan(drawn):
    d, logits = drawn
    spoilt = logits.masked_fill(~d.target[..., None], torch.nan).requires_grad_()
    other = MaskedCategorical(spoilt, d.x_t, d.mask_id, target=d.target)
    value = d.sample()
    assert torch.equal(other.log_prob(value), d.log_prob(value))
    assert torch.equal(other.entropy(), d.entropy())
    assert torch.equal(other.mode, d.mode)
    seed = torch.Generator().manual_seed(0)
    assert torch.equal(other.sample(generator=seed), d.sample(generator=torch.Generator().manual_seed(0)))
    (gradient,) = torch.autograd.grad((other.log_prob(value) + other.entropy()).sum(), spoilt)
    assert gradient.isfinite().all()
    assert (gradient[~d.target] == 0).all()


@given(distributions(dtype=torch.float64))
def test_entropy_equals_enumeration(drawn):
    d, _ = drawn
    log_prob = d.log_prob(all_values(d))
    expected = -torch.where(log_prob > -torch.inf, log_prob.exp() * log_prob, 0.0).sum(0)
    torch.testing.assert_close(d.entropy(), expected)


@given(distributions())
def test_mode_is_the_most_probable_sequence(drawn):
    d, _ = drawn
    torch.testing.assert_close(d.log_prob(d.mode), d.log_prob(all_values(d)).amax(0))


def test_entropy_of_a_deterministic_position_is_zero_with_finite_gradient():
    logits = torch.tensor([[[0.0, -torch.inf], [0.0, 1.0]]], requires_grad=True)
    entropy = MaskedCategorical(logits, torch.full((1, 2), 2), 2).entropy()
    entropy.sum().backward()
    p = torch.tensor(1 / (1 + math.e))
    torch.testing.assert_close(entropy[0].detach(), -p * p.log() - (1 - p) * (1 - p).log())
    assert logits.grad.isfinite().all()


@given(distributions(), st.floats(-50, 50))
def test_shifting_logits_changes_nothing(drawn, shift):
    d, logits = drawn
    value = d.sample()
    shifted = MaskedCategorical(logits + shift, d.x_t, d.mask_id, target=d.target)
    torch.testing.assert_close(shifted.log_prob(value), d.log_prob(value), rtol=1e-4, atol=1e-4)


@given(distributions(dtype=torch.float64), generators())
def test_permuting_positions_or_tokens_permutes_the_law(drawn, generator):
    d, logits = drawn
    value = d.sample()
    order = torch.randperm(d.event_shape[0], generator=generator)
    moved = MaskedCategorical(logits[:, order], d.x_t[:, order], d.mask_id, target=d.target[:, order])
    torch.testing.assert_close(moved.log_prob(value[:, order]), d.log_prob(value))
    relabel = torch.randperm(d.mask_id, generator=generator)
    names = torch.cat([relabel, torch.tensor([d.mask_id])])
    renamed = MaskedCategorical(logits[..., relabel.argsort()], names[d.x_t], d.mask_id, target=d.target)
    torch.testing.assert_close(renamed.log_prob(names[value]), d.log_prob(value))


@given(distributions(), st.integers(1, 3))
def test_expanded_copies_have_the_same_law_and_draws_of_their_own_shape(drawn, copies):
    d, _ = drawn
    expanded = d.expand(torch.Size([copies, *d.batch_shape]))
    assert expanded.batch_shape == (copies, *d.batch_shape)
    value = expanded.sample()
    assert value.shape == (copies, *d.batch_shape, *d.event_shape)
    torch.testing.assert_close(expanded.log_prob(value), d.log_prob(value))
    torch.testing.assert_close(expanded.logits, d.logits.expand(copies, *d.logits.shape))
    torch.testing.assert_close(expanded.entropy(), d.entropy().expand(copies, -1))
    assert d.expand(d.batch_shape) is d


def test_expanded_copies_are_drawn_apart():
    """200 fair draws of 4 tokens all equal, or equal across copies, would have probability below 1e-60."""
    d = MaskedCategorical(torch.zeros(1, 100, 2), torch.full((1, 100), 2), 2)
    torch.manual_seed(0)
    for value in (d.expand(torch.Size([3, 1])).sample(), d.sample(torch.Size([3]))):
        assert not torch.equal(value[0], value[1])
        assert not torch.equal(value[1], value[2])
        assert len(value.unique()) == 2


def test_a_broadcast_x_t_serves_all_particles():
    logits = torch.randn(4, 2, 3, 5, dtype=torch.float64)
    x_t = torch.tensor([[5, 0, 5], [1, 5, 2]])
    d = MaskedCategorical(logits, x_t, 5)
    assert d.batch_shape == (4, 2)
    value = d.sample()[0]
    expected = torch.stack([MaskedCategorical(row, x_t, 5).log_prob(value) for row in logits])
    torch.testing.assert_close(d.log_prob(value), expected)


class CountingHead(nn.Linear):
    """A head that remembers how many positions it was asked to project."""

    def forward(self, features):
        self.rows = features.shape[:-1].numel()
        return super().forward(features)


@given(distributions(), generators())
def test_projecting_features_where_needed_equals_the_dense_path(drawn, generator):
    d, _ = drawn
    value = d.sample()
    head = CountingHead(4, d.mask_id, dtype=torch.float64)
    features = torch.randn(*d.target.shape, 4, generator=generator, dtype=torch.float64).requires_grad_()
    sparse = MaskedCategorical.from_features(features, head, d.x_t, d.mask_id, target=d.target)
    dense = MaskedCategorical(head(features), d.x_t, d.mask_id, target=d.target)
    inputs = [features, *head.parameters()]
    results = []
    for law in (sparse, dense):
        log_prob = law.log_prob(value)
        if law is sparse:
            assert head.rows == int(d.target.sum())
        gradients = torch.autograd.grad((log_prob * (1 + log_prob.detach())).sum(), inputs, allow_unused=True)
        results.append([log_prob, *[g if g is not None else torch.zeros(()) for g in gradients]])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(sparse.sample(generator=seeds[0]), dense.sample(generator=seeds[1]))
    assert head.rows == int(d.target.sum())
    torch.testing.assert_close(sparse.logits, dense.logits, rtol=1e-12, atol=1e-12)


def test_expanding_features_projects_each_position_once():
    head = CountingHead(4, 3)
    x_t = torch.tensor([[3, 0, 3], [1, 2, 3]])
    d = MaskedCategorical.from_features(torch.randn(2, 3, 4), head, x_t, 3).expand(torch.Size([7, 2]))
    value = d.sample()
    assert head.rows == 3
    d.log_prob(value)
    assert head.rows == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_normalised_in_float32(dtype):
    logits = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    x_t = torch.full((2, 3), 1000)
    half, single = (MaskedCategorical(v, x_t, 1000) for v in (logits, logits.float()))
    value = torch.tensor([[0, 500, 999], [1, 2, 3]])
    assert half.log_prob(value).dtype == half.entropy().dtype == torch.float32
    assert torch.equal(half.log_prob(value), single.log_prob(value))
    assert torch.equal(half.entropy(), single.entropy())


def test_draws_follow_the_enumerated_law():
    """Chi-square over 9 sequences, 300,000 draws; a probability off by 0.01 is missed once in 1000."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 3, generator=generator)
    x_t = torch.tensor([[3, 1, 3, 3]])
    target = torch.tensor([[True, False, True, False]])
    d = MaskedCategorical(logits, x_t, 3, target=target)
    drawn = d.sample(torch.Size([300_000]), generator=generator)[:, 0]
    values = all_values(d)[:, 0]
    probability = d.log_prob(values[:, None])[:, 0].double().exp()
    possible = probability > 0
    assert int(possible.sum()) == 9
    place = torch.tensor([64, 16, 4, 1])
    counts = torch.bincount((drawn * place).sum(-1), minlength=256)
    assert int(counts[(values * place).sum(-1)[possible]].sum()) == 300_000
    expected = 300_000 * probability[possible] / probability.sum()
    assert stats.chisquare(counts[(values * place).sum(-1)[possible]], expected).pvalue > FALSE_ALARM


def test_categorical_draws_reach_rare_tokens(monkeypatch):
    """A tail of mass 1e-6 over 63 tokens: half of the top 2e-6 of evenly spread uniforms must reach it.

    Deterministic. Single precision would leave most of the tail's tokens without a draw.
    """
    logits = torch.full((64,), math.log(1e-6 / 63))
    logits[0] = math.log1p(-1e-6)
    tail = torch.softmax(logits.double(), -1)[1:].sum().item()
    num = 126_000
    uniform = 1 - 2 * tail * (torch.arange(num, dtype=torch.float64) + 0.5) / num
    monkeypatch.setattr(torch, "rand", lambda shape, **_: uniform)
    counts = torch.bincount(sample_categorical(logits.expand(num, 64)), minlength=64)
    assert abs(int(counts[0]) - num // 2) <= 2
    assert ((counts[1:] - 1000).abs() <= 2).all()


def test_categorical_draws_of_a_rare_tail_are_neither_too_few_nor_too_many():
    """Exact binomial test, 500,000 draws, tail of mass 1e-3: a rate off by a half is missed once in 1000."""
    logits = torch.zeros(16)
    logits[0] = math.log(15 / 1e-3)
    drawn = sample_categorical(logits.expand(500_000, 16), generator=torch.Generator().manual_seed(0))
    tail = torch.softmax(logits.double(), -1)[1:].sum().item()
    assert stats.binomtest(int((drawn > 0).sum()), 500_000, tail).pvalue > FALSE_ALARM


def test_categorical_draws_have_the_right_frequencies():
    """Chi-square over 7 tokens, 200,000 draws; a probability off by 0.01 is missed less than once in 1000."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, generator=generator)
    counts = torch.bincount(sample_categorical(logits.expand(200_000, 7), generator=generator), minlength=7)
    expected = 200_000 * logits.double().softmax(-1)
    assert stats.chisquare(counts, expected / expected.sum() * 200_000).pvalue > FALSE_ALARM


@given(generators(), st.integers(2, 8), dtypes(), st.data())
def test_tokens_of_probability_zero_are_never_drawn(generator, vocab, dtype, data):
    possible = torch.tensor(data.draw(st.lists(st.booleans(), min_size=vocab, max_size=vocab).filter(any)))
    logits = torch.randn(vocab, generator=generator, dtype=dtype).masked_fill(~possible, -torch.inf)
    drawn = sample_categorical(logits.expand(500, vocab), generator=generator)
    assert possible[drawn].all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize(
    ("possible", "first", "last"), [([1, 4], 1, 4), ([0], 0, 0), ([5], 5, 5), ([0, 1, 2, 3, 4, 5], 0, 5)]
)
def test_extreme_uniforms_select_the_first_and_last_possible_token(monkeypatch, uniform, possible, first, last):
    logits = torch.full((6,), -torch.inf)
    logits[possible] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])[: len(possible)]
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    assert sample_categorical(logits) == (first if uniform == 0 else last)


def test_logits_in_a_graph_are_drawn_from_alike():
    logits = torch.randn(20, 7, requires_grad=True)
    drawn, expected = (
        sample_categorical(x, generator=torch.Generator().manual_seed(0)) for x in (logits, logits.detach())
    )
    assert torch.equal(drawn, expected)


def test_rounding_of_the_cumulative_sum_never_selects_an_impossible_token(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 1001, generator=generator)
    logits[:, -1] = -torch.inf
    uniform = 1 - 2.0**-53
    total = logits.double().softmax(-1).cumsum(-1)[:, -1]
    assert (total < uniform).any(), "the case does not occur"
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    assert (sample_categorical(logits) < 1000).all()


def test_a_generator_determines_the_draw_and_leaves_the_global_state_alone():
    d = MaskedCategorical(torch.zeros(2, 50, 9), torch.full((2, 50), 9), 9)
    before = torch.get_rng_state()
    one, two, three = (d.sample(generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    four = d.sample()
    torch.manual_seed(3)
    assert torch.equal(d.sample(), four)


def test_it_is_an_ordinary_site_in_a_plate():
    logits = torch.randn(3, 2, 4)
    x_t = torch.tensor([[4, 4], [0, 4], [1, 2]])

    def model(value=None):
        with pyro.plate("batch", 3, dim=-1):
            return pyro.sample("x_0", MaskedCategorical(logits, x_t, 4), obs=value)

    trace = pyro.poutine.trace(model).get_trace()
    value = trace.nodes["x_0"]["value"]
    assert value.shape == (3, 2)
    observed = pyro.poutine.trace(model).get_trace(value)
    observed.compute_log_prob()
    expected = MaskedCategorical(logits, x_t, 4).log_prob(value)
    torch.testing.assert_close(observed.nodes["x_0"]["log_prob"], expected)


def test_a_plate_expands_a_single_distribution():
    def model():
        with pyro.plate("batch", 5, dim=-1):
            return pyro.sample("x_0", MaskedCategorical(torch.zeros(2, 4), torch.tensor([4, 1]), 4))

    assert model().shape == (5, 2)


def test_values_outside_the_support_are_refused_when_validating():
    d = MaskedCategorical(torch.zeros(1, 2, 3), torch.tensor([[3, 0]]), 3, validate_args=True)
    for value in ([[4, 0]], [[-1, 0]]):
        with pytest.raises(ValueError, match="support"):
            d.log_prob(torch.tensor(value))


@pytest.mark.parametrize("token", [3, 4, -1, -100])
def test_without_validation_tokens_that_are_no_outcome_have_probability_zero(token):
    d = MaskedCategorical(torch.zeros(1, 2, 3), torch.tensor([[3, 0]]), 3, validate_args=False)
    assert d.log_prob(torch.tensor([[token, 0]])) == -torch.inf


def test_logits_that_do_not_fit_are_refused():
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ShapeError, match="logits must have shape"):
            MaskedCategorical(torch.zeros(1, 3, 4), torch.tensor([[4, 4]]), 4)
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)
    with pytest.raises(ShapeError, match="none for the mask"):
        MaskedCategorical(torch.zeros(1, 2, 5), torch.tensor([[4, 4]]), 4).sample()
