"""Perplexities: ratios over sequences, their errors, and their names."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.evaluation import NotABoundError, log_likelihood_bound, perplexities
from vadd.evaluation.result import collect
from vadd.testing import tiny_model

from .enumerated import ATOMS, guide_for, sequences_of

UNITS = {
    "perplexity": "num_tokens",
    "word_perplexity": "num_words",
    "bits_per_character": "num_characters",
}


def result_of(nats, counts, *, kind="finite-step", bounds="a sampler", spread=0.0):
    nats = torch.as_tensor(nats, dtype=torch.float64)
    return collect(kind, bounds, [nats - spread, nats + spread], torch.as_tensor(counts), 1, 0)


def test_values_follow_their_definitions_by_hand():
    # 12 nats on 4 + 2 tokens, 3 words, 12 characters.
    figures = perplexities(
        result_of([9.0, 3.0], [4, 2]), num_words=torch.tensor([2, 1]), num_characters=torch.tensor([7, 5])
    )
    assert figures.perplexity.value == pytest.approx(math.exp(2.0))
    assert figures.word_perplexity.value == pytest.approx(math.exp(4.0))
    assert figures.bits_per_character.value == pytest.approx(1 / math.log(2))
    # Residuals 9 - 2 * 4 and 3 - 2 * 2: the variance of the rate is 2 / 1 * (1 + 1) / 36.
    assert figures.perplexity.stderr == pytest.approx(math.exp(2.0) * math.sqrt(4 / 36))
    # Residuals 9 - 1 * 7 and 3 - 1 * 5, over 12 characters.
    assert figures.bits_per_character.stderr == pytest.approx(math.sqrt(2 * 8) / 12 / math.log(2))


def test_the_error_of_masks_and_latents_is_apart():
    figures = perplexities(result_of([9.0, 3.0], [4, 2], spread=0.5), num_words=torch.tensor([2, 1]))
    # Each sequence's mean of two draws has the error 0.5; the sum of both has sqrt(0.5).
    assert figures.perplexity.estimator_stderr == pytest.approx(math.exp(2.0) * math.sqrt(0.5) / 6)
    assert figures.word_perplexity.estimator_stderr == pytest.approx(math.exp(4.0) * math.sqrt(0.5) / 3)


@given(st.lists(st.tuples(st.floats(0.1, 50), st.integers(1, 40)), min_size=2, max_size=8), st.integers(2, 5))
def test_sequences_are_weighed_by_their_length(rows, copies):
    nats, counts = [row[0] for row in rows], [row[1] for row in rows]
    whole = perplexities(result_of(nats, counts))
    doubled = perplexities(result_of([copies * v for v in nats], [copies * n for n in counts]))
    assert doubled.perplexity.value == pytest.approx(whole.perplexity.value)
    rounding = 1e-6 * whole.perplexity.value  # of an error that may be zero
    assert doubled.perplexity.stderr == pytest.approx(whole.perplexity.stderr, abs=rounding)
    total = perplexities(result_of([sum(nats)], [sum(counts)]))
    assert total.perplexity.value == pytest.approx(whole.perplexity.value)
    assert math.isnan(total.perplexity.stderr)


def test_errors_are_those_of_repeated_samples():
    """The spread of the figure over 2,000 samples of 60 sequences is the stated error; off by 10 % is 6 deviations."""
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(2000):
        counts = torch.randint(5, 50, (60,), generator=generator)
        nats = counts * (2 + 0.3 * torch.randn(60, generator=generator)) + 4 * torch.randn(60, generator=generator)
        figure = perplexities(result_of(nats, counts)).perplexity
        values.append(figure.value)
        errors.append(figure.stderr**2)
    spread, stated = torch.tensor(values).std(), torch.tensor(errors).mean().sqrt()
    assert abs(float(stated / spread) - 1) < 0.1


def test_sequences_of_equal_rate_leave_no_error():
    figures = perplexities(result_of([2.0, 8.0, 20.0], [1, 4, 10]))
    assert figures.perplexity.stderr == pytest.approx(0, abs=1e-12)


def test_a_total_is_shared_among_the_sequences_as_their_tokens_are():
    result = result_of([9.0, 3.0], [4, 2])
    by_total, by_row = (perplexities(result, num_words=words) for words in (3, torch.tensor([2, 1])))
    assert by_total.word_perplexity == pytest.approx(by_row.word_perplexity, nan_ok=True)
    assert perplexities(result, num_tokens=6).perplexity == pytest.approx(perplexities(result).perplexity, nan_ok=True)
    # Tokens of another count, as where a published figure leaves some out.
    assert perplexities(result, num_tokens=torch.tensor([5, 1])).perplexity.value == pytest.approx(math.exp(2.0))


@pytest.mark.parametrize("unit", UNITS)
def test_a_figure_needs_its_count(unit):
    figures = perplexities(result_of([9.0, 3.0], [4, 2]))
    if unit == "perplexity":
        assert getattr(figures, unit).value > 0
        return
    with pytest.raises(ConfigError, match=UNITS[unit]):
        getattr(figures, unit)


def evaluate(bound, latent_dim=1, **options):
    model = tiny_model(2, 2, atoms=ATOMS if latent_dim else None, latent_dim=latent_dim, seed=1)
    if bound == "finite-step":
        options["num_steps"] = 2
    result = log_likelihood_bound(model, guide_for(model), sequences_of(model), bound=bound, **options)
    return result, perplexities(result, num_words=3, num_characters=8)


def test_the_delbo_goes_by_its_own_names():
    result, figures = evaluate("delbo")
    for unit in UNITS:
        with pytest.raises(NotABoundError, match=f"delbo_{unit}"):
            getattr(figures, unit)
        assert math.isfinite(getattr(figures, f"delbo_{unit}").value)
    assert figures.delbo_perplexity.value == pytest.approx(result.delbo_perplexity)
    assert "delbo_perplexity" in repr(figures)
    assert "bounds no likelihood" in repr(figures)


def test_a_delbo_of_several_latents_has_no_name_at_all():
    _, figures = evaluate("delbo", num_latents=2)
    for unit in UNITS:
        for name in (unit, f"delbo_{unit}"):
            with pytest.raises(NotABoundError):
                getattr(figures, name)
    assert "perplexity" not in repr(figures)


def test_bounds_go_by_the_plain_names_alone():
    result, figures = evaluate("finite-step")
    assert figures.perplexity.value == pytest.approx(result.perplexity)
    for unit in UNITS:
        assert math.isfinite(getattr(figures, unit).value)
        with pytest.raises(NotABoundError):
            getattr(figures, f"delbo_{unit}")
    assert "2 steps" in repr(figures)


def test_without_a_latent_the_delbo_is_a_bound():
    _, figures = evaluate("delbo", latent_dim=0)
    assert figures.perplexity == figures.delbo_perplexity


def test_one_jump_that_scores_a_part_of_the_text_has_no_words():
    model = tiny_model(2, 2, atoms=ATOMS, seed=1)
    result = log_likelihood_bound(model, guide_for(model), sequences_of(model), bound="conditional", mask_ratio=0.5)
    assert perplexities(result).perplexity.value > 1
    for name in ("num_words", "num_characters"):
        with pytest.raises(ConfigError, match="conditional"):
            perplexities(result, **{name: 3})


@pytest.mark.parametrize("name", ["num_tokens", "num_words", "num_characters"])
@pytest.mark.parametrize(
    ("counts", "error"),
    [
        (0, DomainError),
        (torch.tensor([0, 0]), DomainError),
        (torch.tensor([3, -1]), DomainError),
        (torch.tensor([1, 2, 3]), ShapeError),
    ],
    ids=str,
)
def test_counts_that_are_none_are_refused(name, counts, error):
    with pytest.raises(error, match=name):
        perplexities(result_of([9.0, 3.0], [4, 2]), **{name: counts})


def test_a_sequence_may_have_nothing_to_count():
    figures = perplexities(result_of([9.0, 3.0], [4, 2]), num_words=torch.tensor([3, 0]))
    assert figures.word_perplexity.value == pytest.approx(math.exp(12 / 3))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("counts", [torch.tensor([True, True]), torch.tensor([1.0, 2.0]), 2.0, True], ids=str)
def test_counts_that_are_no_integers_are_refused_also_without_the_type_checker(counts):
    with pytest.raises(DtypeError, match="num_words"):
        perplexities(result_of([9.0, 3.0], [4, 2]), num_words=counts)


def test_a_result_of_nothing_is_refused():
    with pytest.raises(DomainError, match="nothing was scored"):
        perplexities(result_of([0.0, 0.0], [0, 0]))
