"""Infilling: known tokens stay, and the law is that of the chain that starts from them; see ``laws.py``."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd import MaskingProcess, VADDModel
from vadd.backbones import DiTDenoiser
from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.priors import StandardNormalPrior
from vadd.samplers import LatentBlocks, PosteriorLatents, Trajectory
from vadd.schedules import LinearSchedule
from vadd.testing import exact_sampler_distribution, tiny_model
from vadd.testing.strategies import tiny_models

from .laws import DRAWS, LENGTH, VOCAB, check_law
from .test_law import ATOMS, EXACT, Reweighted, make_model

METHODS = ("ancestral", "cached", "static", "first-hitting", "confidence", "remasking", "predictor-corrector")
X = torch.tensor([1, 0, 1])
KNOWN = torch.tensor([True, False, False])


def rows(x, num=DRAWS):
    return x.expand(num, -1)


def law(model, num_steps, latents="fresh", is_known=KNOWN, x=X):
    return exact_sampler_distribution(model, LENGTH, num_steps=num_steps, latents=latents, x=x, is_known=is_known)


def conditioned(model, num_steps, latents="fresh", is_known=KNOWN):
    """Bayes conditioning of the law of whole samples."""
    sequences = torch.cartesian_prod(*[torch.arange(VOCAB)] * LENGTH)
    whole = exact_sampler_distribution(model, LENGTH, num_steps=num_steps, latents=latents)
    whole = torch.where(((sequences == X) | ~is_known).all(-1), whole, 0.0)
    return whole / whole.sum()


@given(tiny_models(), st.sampled_from(METHODS), st.integers(1, 4), st.data())
def test_known_tokens_are_never_changed(model, method, num_steps, data):
    dim = model.denoiser.num_tokens
    x = torch.randint(model.process.vocab_size, (3, dim))
    is_known = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=dim, max_size=dim), min_size=3, max_size=3))
    )
    trajectory = Trajectory()
    y = model.infill(x, is_known, num_steps=num_steps, method=method, record=trajectory)
    assert torch.equal(y[is_known], x[is_known])
    assert (trajectory.x[:, is_known] == x[is_known]).all()
    assert 0 <= y.min() <= y.max() < model.process.vocab_size


def test_unknown_positions_may_hold_anything():
    model = make_model("conditional")
    x = torch.tensor([[1, 0, 0]]).repeat(50, 1)
    for anything in (-7, 0, VOCAB, 99):
        y = model.infill(x.masked_fill(~KNOWN, anything), KNOWN.expand_as(x), num_steps=2, seed=0)
        assert torch.equal(y, model.infill(x, KNOWN.expand_as(x), num_steps=2, seed=0))


def test_nothing_known_is_sampling_and_all_known_is_nothing_to_do():
    model = make_model("reads time")
    x = torch.zeros(20, LENGTH, dtype=torch.int64)
    free = torch.zeros_like(x, dtype=torch.bool)
    for method in METHODS:
        options = {"num_steps": 3, "method": method, "seed": 1}
        assert torch.equal(model.infill(x, free, **options), model.sample(20, **options))
        assert torch.equal(model.infill(x, ~free, **options), x)
    for method in ("first-hitting", "entropy-bounded"):
        assert torch.equal(model.infill(x, free, method=method, seed=1), model.sample(20, method=method, seed=1))
        trajectory = Trajectory()
        assert torch.equal(model.infill(x, ~free, method=method, record=trajectory), x)
        assert trajectory.num_calls == 0


@pytest.mark.parametrize("method", EXACT, ids=str)
@pytest.mark.parametrize("latents", ["fresh", "shared", "null", ("shared", "fresh", "null"), LatentBlocks(2)], ids=str)
def test_the_law_is_that_of_the_chain_from_the_known_tokens(method, latents):
    model = make_model("reads time")
    x = model.infill(rows(X), rows(KNOWN), num_steps=3, latents=latents, method=method, seed=0)
    check_law(x, law(model, 3, latents))


def test_the_limit_of_infinitely_many_steps_starts_from_the_known_tokens_too():
    model = make_model("conditional")
    x = model.infill(rows(X), rows(KNOWN), method="first-hitting", seed=0)
    check_law(x, law(model, None), not_law=law(model, 1))


def test_rows_may_know_different_tokens():
    model = make_model("reads time")
    second = torch.tensor([False, True, True])
    is_known = torch.stack([KNOWN, second]).repeat(DRAWS, 1)
    for method in EXACT:
        x = model.infill(rows(X, 2 * DRAWS), is_known, num_steps=3, method=method, seed=0)
        check_law(x[::2], law(model, 3))
        check_law(x[1::2], law(model, 3, is_known=second))


def test_padding_is_hidden_and_keeps_its_token():
    """The tabular network reads padding as the token 0: the law is that of a chain where it is known."""
    model = make_model("reads time")
    is_padding = rows(torch.tensor([False, False, True]))
    x = model.infill(rows(X), rows(KNOWN), num_steps=2, is_padding=is_padding, seed=0)
    assert (x[:, 2] == X[2]).all()
    expected = law(model, 2, is_known=KNOWN | is_padding[0], x=torch.tensor([1, 0, 0]))
    check_law(x.masked_fill(is_padding, 0), expected)


# Latents that explain the known tokens


@pytest.mark.parametrize("kind", ["atoms", "conditional"])
def test_a_reweighted_latent_has_the_law_that_is_said(kind):
    model = make_model(kind)
    x = model.infill(rows(X), rows(KNOWN), num_steps=2, latents=PosteriorLatents(2), seed=0)
    check_law(x, law(Reweighted(model), 2, "shared"))


def test_many_draws_are_the_posterior_in_one_jump():
    """With a prior that does not read ``x_t`` and a decoder that does not read other tokens, Bayes conditioning.

    256 draws; their law is off by ``O(1 / 256)``.
    """
    model = tiny_model(VOCAB, LENGTH, atoms=ATOMS, scale=1.5, seed=11)
    with torch.no_grad():
        model.denoiser.tables.copy_(model.denoiser.tables[:, -1:].expand_as(model.denoiser.tables))
    x = model.infill(rows(X, 4_000), rows(KNOWN, 4_000), num_steps=2, latents=PosteriorLatents(256), seed=0)
    check_law(x, conditioned(model, 2, "shared"), not_law=law(model, 2, "shared"))
    assert torch.equal(
        *(
            model.infill(rows(X), rows(KNOWN), num_steps=2, latents=latents, seed=1)
            for latents in ("posterior", PosteriorLatents(64))
        )
    )


def test_impossible_tokens_are_reported():
    model = tiny_model(VOCAB, LENGTH, atoms=ATOMS)
    with torch.no_grad():
        model.denoiser.tables[0, ..., 1] = -torch.inf
    with pytest.raises(NonFiniteError, match="probability zero"):
        model.infill(rows(X, 4), rows(KNOWN, 4), num_steps=2, latents="posterior")
    with pytest.raises(NonFiniteError, match="probability zero"):
        model.infill(rows(X, 4), rows(KNOWN, 4), num_steps=2, num_candidates=3)


# Importance resampling towards Bayes conditioning


@pytest.mark.parametrize("latents", ["fresh", "shared"])
@pytest.mark.parametrize("method", ["ancestral", "cached", "static", "first-hitting"])
def test_many_candidates_are_bayes_conditioning(method, latents):
    """64 candidates, off by a few thousandths; the chain from the known tokens is told apart."""
    model = make_model("conditional")
    options = {"num_steps": 3, "latents": latents, "seed": 0}
    x = model.infill(rows(X, 4_000), rows(KNOWN, 4_000), num_candidates=64, method=method, batch_size=50_000, **options)
    assert (x[:, 0] == X[0]).all()
    expected = conditioned(model, 3, latents)
    check_law(x, expected, not_law=law(model, 3, latents))


def test_candidates_may_have_latents_of_a_policy_of_ones_own():
    class Null:
        def __call__(self, run, state, jump):
            return replace(state, z=None)

    model = make_model("conditional")
    options = {"num_steps": 2, "num_candidates": 8, "seed": 0}
    x = model.infill(rows(X, 50), rows(KNOWN, 50), latents=Null(), **options)
    assert torch.equal(x, model.infill(rows(X, 50), rows(KNOWN, 50), latents="null", **options))
    one = model.infill(rows(X, 50), rows(KNOWN, 50), latents=PosteriorLatents(1), **options)
    assert torch.equal(one, model.infill(rows(X, 50), rows(KNOWN, 50), latents="shared", **options))


def test_candidates_are_weighted_by_the_probability_of_the_known_tokens():
    """Their mean weight is that probability: 20,000 candidates, threshold of 4.9 standard errors."""
    model, trajectory = make_model("reads time"), Trajectory()
    x = torch.tensor([[1, 0, 1]])
    is_known = torch.tensor([[True, False, True]])
    model.infill(x, is_known, num_steps=2, num_candidates=DRAWS, seed=0, record=trajectory)
    whole = exact_sampler_distribution(model, LENGTH, num_steps=2).reshape(VOCAB, VOCAB, VOCAB)
    assert trajectory.log_weights.dtype == torch.float64
    weights = trajectory.log_weights.exp()
    assert weights.shape == (DRAWS,)
    assert abs(weights.mean() - whole[1, :, 1].sum()) < 4.9 * weights.std() / DRAWS**0.5


def test_candidates_do_not_read_padding():
    """The tabular network reads padding as the token 0: the chain starts where that is known."""
    model = make_model("reads time")
    is_padding = torch.tensor([False, False, True])
    num = 4_000
    x = model.infill(
        rows(X, num), rows(KNOWN, num), num_steps=2, num_candidates=64, is_padding=rows(is_padding, num), seed=0
    )
    assert (x[:, 2] == X[2]).all()
    padded = law(model, 2, is_known=is_padding, x=torch.tensor([1, 0, 0])).reshape(VOCAB, VOCAB, VOCAB)
    expected = torch.zeros_like(padded)
    expected[1, :, 0] = padded[1, :, 0] / padded[1, :, 0].sum()
    check_law(x.masked_fill(is_padding, 0), expected.flatten())


# Bad input


def dit(**options):
    denoiser = DiTDenoiser(VOCAB, LENGTH, 1, hidden_size=8, depth=1, num_heads=2, **options)
    return VADDModel(denoiser, StandardNormalPrior(1), MaskingProcess(LinearSchedule(), VOCAB))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.tensor([[2, 0, 1]])}, DomainError, r"known tokens must lie in \[0, 2\), got 2"),
        ({"x": torch.tensor([[-1, 0, 1]])}, DomainError, "got -1"),
        ({"x": torch.tensor([[1.0, 0.0, 1.0]])}, DtypeError, "int64"),
        ({"x": [[1, 0, 1]]}, DtypeError, "got list"),
        ({"x": torch.tensor([1, 0, 1])}, ShapeError, "batch, dim"),
        ({"x": torch.zeros(0, 3, dtype=torch.int64)}, ShapeError, "at least 1"),
        ({"is_known": torch.tensor([True, False, False])}, ShapeError, "is_known must have the shape of x"),
        ({"is_known": torch.tensor([[True, False]])}, ShapeError, r"\(1, 3\), got \(1, 2\)"),
        ({"is_known": torch.tensor([[1, 0, 0]])}, DtypeError, "is_known must be boolean"),
        ({"is_known": [[True, False, False]]}, DtypeError, "got list"),
        ({"is_padding": torch.tensor([[True, False]])}, ShapeError, "is_padding"),
        ({"x": torch.tensor([[1, 0, 5]]), "is_padding": torch.tensor([[False, False, True]])}, DomainError, "got 5"),
        ({"num_candidates": 0}, DomainError, "num_candidates"),
        ({"num_candidates": 2, "method": "confidence"}, ConfigError, "ConfidenceSampler"),
        ({"num_candidates": 2, "method": "remasking"}, ConfigError, "RemaskingSampler"),
        (
            {"num_candidates": 2, "latents": "posterior"},
            ConfigError,
            "num_candidates is for latents with the model's law",
        ),
        ({"num_candidates": 2, "latents": PosteriorLatents(2, "fresh")}, ConfigError, "several draws"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    options = {
        "x": torch.tensor([[1, 0, 1]]),
        "is_known": torch.tensor([[True, False, False]]),
        "num_steps": 2,
        **change,
    }
    with pytest.raises(error, match=message):
        make_model("atoms").infill(options.pop("x"), options.pop("is_known"), **options)
