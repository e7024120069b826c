"""Laws of the masking process: what holds for every draw, and what holds in distribution.

The statistical tests have fixed seeds and a false-alarm rate of at most 1e-6 each, shared among the cases
of a test; each states its power.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vadd import MaskingProcess
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.schedules import CosineSchedule, GeometricSchedule, LinearSchedule, PolynomialSchedule
from vadd.testing.strategies import corruptible_batches, dtypes, generators, ordered_times, schedules, times

FALSE_ALARM = 1e-6
SCHEDULES = [LinearSchedule(), CosineSchedule(), PolynomialSchedule(2.5), GeometricSchedule()]


def free_positions(x_0, options):
    is_free = torch.ones_like(x_0, dtype=torch.bool)
    for fixed in options.values():
        is_free &= ~fixed
    return is_free


@st.composite
def corrupted(draw):
    """A corrupted batch with the process, its free positions and the dtype of its times."""
    vocab_size, x_0, options = draw(corruptible_batches())
    process = MaskingProcess(draw(schedules()), vocab_size)
    s, t = draw(ordered_times(len(x_0), draw(dtypes())))
    batch = process.corrupt(x_0, t, s, generator=draw(generators()), **options)
    return process, batch, free_positions(x_0, options)


@given(corrupted())
def test_unmasked_positions_carry_over_and_masked_ones_carry_the_mask(drawn):
    process, batch, _ = drawn
    assert (batch.x_t == torch.where(batch.is_masked, process.mask_id, batch.x_0)).all()


@given(corrupted())
def test_target_is_masked_and_frozen_or_padded_positions_never_are(drawn):
    _, batch, is_free = drawn
    assert (batch.target <= batch.is_masked).all()
    assert (batch.is_masked <= is_free).all()


@given(corrupted())
def test_x_s_reveals_the_target_and_nothing_else(drawn):
    process, batch, _ = drawn
    still_masked = batch.is_masked & ~batch.target
    assert (batch.x_s == torch.where(still_masked, process.mask_id, batch.x_0)).all()
    tokens, target, t = batch.recognition_inputs
    assert torch.equal(tokens, batch.x_s)
    assert torch.equal(target, batch.target)
    assert torch.equal(t, batch.t)


@given(corrupted())
def test_jumps_to_time_zero_reveal_everything(drawn):
    _, batch, _ = drawn
    rows = batch.s == 0
    assert torch.equal(batch.target[rows], batch.is_masked[rows])


@given(corrupted())
def test_jumps_of_no_length_reveal_nothing(drawn):
    _, batch, _ = drawn
    assert not batch.target[batch.s == batch.t].any()


@given(corruptible_batches(), schedules(), dtypes(), generators())
def test_nothing_is_masked_at_time_zero_and_all_that_is_free_at_time_one(drawn, schedule, dtype, generator):
    vocab_size, x_0, options = drawn
    process = MaskingProcess(schedule, vocab_size)
    t = torch.zeros(len(x_0), dtype=dtype)
    assert not process.corrupt(x_0, t, generator=generator, **options).is_masked.any()
    batch = process.corrupt(x_0, t + 1, generator=generator, **options)
    assert torch.equal(batch.is_masked, free_positions(x_0, options))
    assert torch.equal(batch.target, batch.is_masked)


@given(schedules(), dtypes(), generators(), st.data())
def test_masks_only_grow_with_time_under_shared_uniforms(schedule, dtype, generator, data):
    process = MaskingProcess(schedule, 2)
    s, t = data.draw(ordered_times(4, dtype))
    uniform = torch.rand(4, 16, dtype=torch.float64, generator=generator)
    assert (process.mask(s, uniform) <= process.mask(t, uniform)).all()


@given(schedules(), dtypes(), st.data())
def test_stay_probabilities_compose(schedule, dtype, data):
    process = MaskingProcess(schedule, 2)
    r, s, t = data.draw(ordered_times(4, dtype, num=3))
    eps = torch.finfo(dtype).eps
    u = [process.reveal_probability(a, b).double() for a, b in ((t, s), (s, r), (t, r))]
    torch.testing.assert_close((1 - u[0]) * (1 - u[1]), 1 - u[2], rtol=0, atol=8 * eps)


@given(schedules(), dtypes(), st.data())
def test_reveal_probability_is_a_probability_with_exact_ends(schedule, dtype, data):
    process = MaskingProcess(schedule, 2)
    s, t = data.draw(ordered_times(4, dtype))
    u = process.reveal_probability(t, s)
    assert u.dtype == dtype
    assert ((u >= 0) & (u <= 1)).all()
    assert (process.reveal_probability(t, torch.zeros_like(t)) == 1).all()
    assert (process.reveal_probability(t, t)[schedule.mask_probability(t) > 0] == 0).all()


@given(corruptible_batches(), schedules(), generators(), st.data())
def test_corrupt_count_masks_exactly_n(drawn, schedule, generator, data):
    vocab_size, x_0, options = drawn
    is_free = free_positions(x_0, options)
    counts = torch.tensor([data.draw(st.integers(0, int(n))) for n in is_free.sum(-1)])
    process = MaskingProcess(schedule, vocab_size)
    batch = process.corrupt_count(x_0, counts, generator=generator, **options)
    assert torch.equal(batch.is_masked.sum(-1), counts)
    assert (batch.is_masked <= is_free).all()
    assert torch.equal(batch.target, batch.is_masked)
    assert (batch.x_t == torch.where(batch.is_masked, process.mask_id, x_0)).all()
    assert ((batch.t >= 0) & (batch.t <= 1)).all()
    assert torch.equal(batch.t > 0, counts > 0)
    assert (batch.s == 0).all()


@given(corruptible_batches(), generators(), st.data())
def test_flags_and_condition_are_passed_on(drawn, generator, data):
    vocab_size, x_0, options = drawn
    process = MaskingProcess(LinearSchedule(), vocab_size)
    condition = torch.arange(len(x_0))
    t = data.draw(times(len(x_0)))
    for batch in (
        process.corrupt(x_0, t, condition=condition, generator=generator, **options),
        process.corrupt_count(x_0, torch.zeros_like(condition), condition=condition, **options),
    ):
        assert batch.condition is condition
        assert batch.is_frozen is options.get("is_frozen")
        assert batch.is_padding is options.get("is_padding")
        expected = {"condition"} | ({"is_padding"} & options.keys())
        assert batch.network_options.keys() == expected


@given(corruptible_batches(), st.integers(0, 2**31), st.data())
def test_a_generator_determines_the_draw(drawn, seed, data):
    vocab_size, x_0, options = drawn
    process = MaskingProcess(CosineSchedule(), vocab_size)
    t = data.draw(times(len(x_0)))
    first, second = (
        process.corrupt(x_0, t, generator=torch.Generator().manual_seed(seed), **options) for _ in range(2)
    )
    assert torch.equal(first.x_t, second.x_t)


def test_mask_rate_is_one_minus_alpha():
    """Exact binomial tests of 200,000 positions a case; a rate off by 0.01 is missed once in 1000."""
    generator = torch.Generator().manual_seed(0)
    cases = list(itertools.product(SCHEDULES, [1e-3, 0.1, 0.5, 0.8, 0.97]))
    x_0 = torch.zeros(20_000, 10, dtype=torch.long)
    for schedule, t in cases:
        batch = MaskingProcess(schedule, 2).corrupt(x_0, torch.full((20_000,), t), generator=generator)
        rate = 1 - schedule.alpha(torch.tensor(t, dtype=torch.float64)).item()
        test = stats.binomtest(int(batch.is_masked.sum()), x_0.numel(), rate)
        assert test.pvalue > FALSE_ALARM / len(cases), (schedule, t, test)


def test_target_rate_is_the_reveal_probability():
    """Exact binomial tests over about 100,000 masked positions; an error of 0.015 is missed once in 1000."""
    generator = torch.Generator().manual_seed(1)
    cases = list(itertools.product(SCHEDULES, [(0.9, 0.2), (1.0, 0.9), (0.6, 0.59)]))
    x_0 = torch.zeros(20_000, 10, dtype=torch.long)
    for schedule, (t, s) in cases:
        process = MaskingProcess(schedule, 2)
        times_t, times_s = torch.full((20_000,), t), torch.full((20_000,), s)
        batch = process.corrupt(x_0, times_t, times_s, generator=generator)
        u = process.reveal_probability(times_t[:1].double(), times_s[:1].double()).item()
        test = stats.binomtest(int(batch.target.sum()), int(batch.is_masked.sum()), u)
        assert test.pvalue > FALSE_ALARM / len(cases), (schedule, t, s, test)


def test_masking_to_s_and_then_to_t_has_the_law_of_masking_to_t():
    """Chi-square over the joint states of three positions at two times, 300,000 sequences a schedule.

    Each position is masked by ``s``, masked between ``s`` and ``t`` with the probability that a second
    masking of what is left would have, or clean: 27 cells. A cell probability off by 0.01 is missed less than
    once in 1000.
    """
    generator = torch.Generator().manual_seed(2)
    num, s, t = 300_000, 0.4, 0.7
    x_0 = torch.zeros(num, 3, dtype=torch.long)
    for schedule in SCHEDULES:
        process = MaskingProcess(schedule, 2)
        batch = process.corrupt(x_0, torch.full((num,), t), torch.full((num,), s), generator=generator)
        state = batch.is_masked.long() + batch.target.long()  # 0 clean, 1 masked by s, 2 masked later
        counts = torch.bincount((state * torch.tensor([1, 3, 9])).sum(-1), minlength=27)
        alpha_s, alpha_t = schedule.alpha(torch.tensor([s, t], dtype=torch.float32)).double()
        law = torch.stack([alpha_t, 1 - alpha_s, alpha_s * (1 - alpha_t / alpha_s)])
        expected = torch.einsum("i,j,k->ijk", law, law, law).flatten() * num
        test = stats.chisquare(counts.numpy(), (expected / expected.sum() * num).numpy())
        assert test.pvalue > FALSE_ALARM / len(SCHEDULES), (schedule, test)


def test_corrupt_count_chooses_positions_uniformly():
    """Chi-square over the 6 pairs of 4 free positions, 100,000 rows.

    A cell probability off by 0.015 is missed less than once in 1000.
    """
    generator = torch.Generator().manual_seed(3)
    num = 100_000
    x_0 = torch.zeros(num, 5, dtype=torch.long)
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[:, 2] = True
    process = MaskingProcess(LinearSchedule(), 2)
    batch = process.corrupt_count(x_0, torch.full((num,), 2), is_frozen=is_frozen, generator=generator)
    patterns = (batch.is_masked * torch.tensor([1, 2, 0, 4, 8])).sum(-1)
    counts = torch.bincount(patterns, minlength=16)
    assert int((counts > 0).sum()) == 6
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > FALSE_ALARM


def test_time_given_the_count_has_its_beta_law():
    """Kolmogorov-Smirnov on 20,000 rows a case: a distance of 0.04 is missed less than once in 1000."""
    generator = torch.Generator().manual_seed(4)
    cases = list(itertools.product(SCHEDULES, [1, 3, 5]))
    x_0 = torch.zeros(20_000, 6, dtype=torch.long)
    is_padding = torch.zeros_like(x_0, dtype=torch.bool)
    is_padding[:, 0] = True  # five free positions
    for schedule, n in cases:
        batch = MaskingProcess(schedule, 2).corrupt_count(
            x_0, torch.full((20_000,), n), is_padding=is_padding, generator=generator
        )
        masked = schedule.mask_probability(batch.t.double())
        test = stats.kstest(masked.numpy(), stats.beta(n, 5 - n + 1).cdf)
        assert test.pvalue > FALSE_ALARM / len(cases), (schedule, n, test)


def test_time_and_positions_are_independent_given_the_count():
    """Welch t-test of the times of rows with and without position 0, 40,000 rows.

    A difference of 0.02 in the mean is missed less than once in 1000.
    """
    generator = torch.Generator().manual_seed(5)
    x_0 = torch.zeros(40_000, 4, dtype=torch.long)
    process = MaskingProcess(LinearSchedule(), 2)
    batch = process.corrupt_count(x_0, torch.full((40_000,), 2), generator=generator)
    t = batch.t.numpy()
    has_first = batch.is_masked[:, 0].numpy()
    assert stats.ttest_ind(t[has_first], t[~has_first], equal_var=False).pvalue > FALSE_ALARM


PROCESS = MaskingProcess(LinearSchedule(), 5)
X_0 = torch.tensor([[0, 1, 2], [2, 3, 4]])
T = torch.tensor([0.5, 0.7])
YES = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("vocab_size", [1, 0, -3, 2.0, "5", True])
def test_process_refuses_a_bad_vocabulary(vocab_size):
    with pytest.raises(ConfigError, match="vocab_size"):
        MaskingProcess(LinearSchedule(), vocab_size)


@pytest.mark.usefixtures("_unchecked")
def test_process_refuses_what_is_no_schedule():
    with pytest.raises(ConfigError, match="schedule"):
        MaskingProcess("linear", 5)


@pytest.mark.parametrize(
    ("x_0", "error", "message"),
    [
        (X_0.int(), DtypeError, "x_0 must hold int64"),
        (X_0.double(), DtypeError, "x_0 must hold int64"),
        (X_0[0], ShapeError, "x_0 must have shape"),
        (X_0[None], ShapeError, "x_0 must have shape"),
        (X_0[:0], ShapeError, "x_0 must have shape"),
        (X_0[:, :0], ShapeError, "x_0 must have shape"),
        (X_0 + 1, DomainError, "x_0 contains the mask token 5"),
        (X_0 + 2, DomainError, "x_0 must hold tokens in"),
        (X_0 - 1, DomainError, "x_0 must hold tokens in"),
    ],
)
def test_bad_tokens_are_refused(x_0, error, message):
    with pytest.raises(error, match=message):
        PROCESS.check_tokens(x_0)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["is_frozen", "is_padding"])
@pytest.mark.parametrize(("flags", "error"), [(YES.long(), DtypeError), (YES[:, :2], ShapeError)])
def test_bad_flags_are_refused(name, flags, error):
    with pytest.raises(error, match=name):
        PROCESS.check_tokens(X_0, **{name: flags})
    with pytest.raises(error, match=name):
        PROCESS.corrupt(X_0, T, **{name: flags})


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("t", "s", "error", "message"),
    [
        (T + 0.5, None, DomainError, "0 <= s <= t <= 1"),
        (-T, None, DomainError, "0 <= s <= t <= 1"),
        (T * torch.nan, None, DomainError, "0 <= s <= t <= 1"),
        (T, T + 0.1, DomainError, "0 <= s <= t <= 1"),
        (T, -T, DomainError, "0 <= s <= t <= 1"),
        (T.long(), None, DtypeError, "t must be floating point"),
        (T, T.long(), DtypeError, "s must be floating point"),
        (T[:1], None, ShapeError, "t must have shape"),
        (T, T[:, None], ShapeError, "s must have shape"),
        (0.5, None, DtypeError, "t must be a Tensor, got float; one time a row"),
        (None, T, DtypeError, "t must be a Tensor, got NoneType"),
        (T, 0.2, DtypeError, "s must be a Tensor, got float; one time a row"),
    ],
)
def test_bad_times_are_refused(t, s, error, message):
    with pytest.raises(error, match=message):
        PROCESS.corrupt(X_0, t, s)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("counts", "error"),
    [
        (torch.tensor([1, 4]), DomainError),
        (torch.tensor([-1, 1]), DomainError),
        (torch.tensor([1]), ShapeError),
        (torch.tensor([1.0, 2.0]), DtypeError),
        (3, DtypeError),
    ],
)
def test_bad_counts_are_refused(counts, error):
    with pytest.raises(error, match="num_masked"):
        PROCESS.corrupt_count(X_0, counts)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("uniform", "error", "message"),
    [
        (3, DtypeError, "uniform must be a Tensor, got int"),
        (torch.zeros(2, 2), ShapeError, r"uniform must have the shape of x_0, \(2, 3\), got \(2, 2\)"),
        (torch.full((2, 3), 3.0), DomainError, r"uniform must lie in \[0, 1\), got values from 3.0 to 3.0"),
        (torch.ones(2, 3), DomainError, r"uniform must lie in \[0, 1\)"),
        (-torch.ones(2, 3), DomainError, "uniform must lie"),
        (torch.full((2, 3), torch.nan), DomainError, "uniform must lie"),
    ],
)
def test_bad_uniforms_are_refused(uniform, error, message):
    with pytest.raises(error, match=message):
        PROCESS.corrupt(X_0, torch.ones(2), uniform=uniform)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("t", "s", "name"), [(0.5, T, "t"), (T, 0.2, "s")])
def test_a_jump_between_numbers_is_refused(t, s, name):
    with pytest.raises(DtypeError, match=f"{name} must be a Tensor, got float"):
        PROCESS.reveal_probability(t, s)


def test_counts_beyond_the_free_positions_are_refused():
    is_frozen = torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(DomainError, match="free positions"):
        PROCESS.corrupt_count(X_0, torch.tensor([3, 3]), is_frozen=is_frozen)


def test_value_checks_can_be_switched_off():
    process = MaskingProcess(LinearSchedule(), 5, validate_args=False)
    assert process.corrupt(X_0 + 2, T, uniform=torch.full((2, 3), 3.0)).x_t.shape == X_0.shape
