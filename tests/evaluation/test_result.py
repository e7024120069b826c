"""Names, units and errors of a result."""

import math

import pytest
import torch

from vadd.errors import DomainError
from vadd.evaluation import BoundResult, NotABoundError, log_likelihood_bound
from vadd.evaluation.result import collect
from vadd.testing import tiny_model

from .enumerated import ATOMS, guide_for, sequences_of

PLAIN, NAMED = ["bits_per_dim", "perplexity"], ["delbo_bits_per_dim", "delbo_perplexity"]
ALL = ["finite-step", "continuous", "marginal", "shared-latent", "delbo", "conditional"]


def evaluate(bound, latent_dim=1, **options):
    model = tiny_model(2, 2, atoms=ATOMS if latent_dim else None, latent_dim=latent_dim, seed=1)
    if bound in ("finite-step", "shared-latent"):
        options.setdefault("num_steps", 2)
    return log_likelihood_bound(model, guide_for(model), sequences_of(model), bound=bound, **options)


def test_values_and_errors_follow_their_definitions():
    draws = [torch.tensor([1.0, 2.0, 7.0]), torch.tensor([3.0, 2.0, 3.0])]
    result = collect("finite-step", "a sampler", draws, torch.tensor([2, 1, 3]), 4, 7)
    assert result.nats_per_sequence.tolist() == [2.0, 2.0, 5.0]
    assert result.nats == 3.0
    assert result.stderr == pytest.approx(math.sqrt(3.0) / math.sqrt(3))
    # Each sequence: standard deviation over the two draws by the square root of two.
    assert result.stderr_per_sequence.tolist() == pytest.approx([1.0, 0.0, 2.0])
    assert result.estimator_stderr == pytest.approx(math.sqrt(5.0) / 3)
    assert result.bits_per_dim == pytest.approx(9 / 6 / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(9 / 6))
    assert (result.num_latents, result.num_draws, result.seed, result.kind) == (4, 2, 7, "finite-step")
    assert result.num_scored.tolist() == [2, 1, 3]


def test_an_unknown_error_is_nan_rather_than_zero():
    one = collect("marginal", "s", [torch.tensor([1.0, 2.0])], torch.tensor([2, 2]), 1, 0)
    assert one.stderr_per_sequence.isnan().all()
    assert math.isnan(one.estimator_stderr)
    assert one.stderr == pytest.approx(0.5)
    single = collect("marginal", "s", [torch.tensor([1.0])] * 2, torch.tensor([2]), 1, 0)
    assert math.isnan(single.stderr)
    assert single.estimator_stderr == 0


def test_delbo_with_a_latent_has_no_plain_names():
    result = evaluate("delbo")
    assert result.bounds is None
    for name in PLAIN:
        assert not hasattr(result, name)
        with pytest.raises(NotABoundError, match=f"delbo_{name}"):
            getattr(result, name)
    per_token = result.nats / 2
    assert result.delbo_bits_per_dim == pytest.approx(per_token / math.log(2))
    assert result.delbo_perplexity == pytest.approx(math.exp(per_token))
    assert "no likelihood" in repr(result)


@pytest.mark.parametrize("bound", [kind for kind in ALL if kind != "delbo"])
def test_only_delbo_has_delbo_names(bound):
    result = evaluate(bound)
    for name in NAMED:
        assert not hasattr(result, name)
        with pytest.raises(NotABoundError, match="delbo"):
            getattr(result, name)
    for name in PLAIN:
        assert getattr(result, name) > 0


@pytest.mark.parametrize("options", [{"latent_dim": 0}, {"latents": "null"}])
def test_delbo_without_a_latent_is_the_bound_of_masked_diffusion(options):
    result = evaluate("delbo", **options)
    assert "infinitely many steps" in result.bounds
    assert result.bits_per_dim == result.delbo_bits_per_dim
    assert result.perplexity == result.delbo_perplexity
    other = evaluate("continuous", **options)
    assert torch.equal(other.nats_per_sequence, result.nats_per_sequence)


@pytest.mark.parametrize("proposal", ["prior", "mixture"])
def test_delbo_of_another_proposal_has_no_name_at_all(proposal):
    result = evaluate("delbo", proposal=proposal, num_latents=1 if proposal == "prior" else 2)
    assert (result.proposal, math.isfinite(result.nats)) == (proposal, True)
    for name in PLAIN + NAMED:
        assert not hasattr(result, name)
    with pytest.raises(NotABoundError, match=f"one latent of the guide, not of .*proposal='{proposal}'"):
        _ = result.delbo_perplexity


@pytest.mark.parametrize("options", [{"latent_dim": 0}, {"latents": "null"}])
@pytest.mark.parametrize("bound", ["finite-step", "marginal", "delbo", "conditional"])
def test_where_no_latent_is_drawn_the_result_names_none(bound, options):
    one = evaluate(bound, **options)
    many = evaluate(bound, num_latents=4, proposal="mixture", **options)
    assert torch.equal(many.nats_per_sequence, one.nats_per_sequence)
    assert (many.num_latents, many.proposal) == (one.num_latents, one.proposal) == (1, None)
    if bound == "delbo":
        assert many.delbo_perplexity == one.perplexity
    drawn = evaluate(bound, num_latents=4)
    assert (drawn.num_latents, drawn.proposal) == (4, "prior" if bound == "marginal" else "guide")


@pytest.mark.parametrize(
    ("bound", "options", "parts"),
    [
        ("finite-step", {"num_steps": 5}, ["5 steps", "fresh latent"]),
        ("shared-latent", {"num_steps": 5}, ["5 steps", "one latent a trajectory"]),
        ("shared-latent", {"num_steps": None}, ["infinitely many steps", "one latent a trajectory"]),
        ("marginal", {}, ["infinitely many steps", "fresh latent"]),
        ("continuous", {}, ["infinitely many steps", "fresh latent"]),
        ("conditional", {"mask_ratio": 0.5}, ["one jump", "50%", "given the others"]),
        ("finite-step", {"num_steps": 5, "latents": "null"}, ["5 steps", "null latent"]),
        ("finite-step", {"num_steps": 5, "latent_dim": 0}, ["5 steps", "no latent"]),
        ("shared-latent", {"num_steps": 5, "latent_dim": 0}, ["5 steps", "no latent"]),
    ],
)
def test_claims_name_the_sampler(bound, options, parts):
    claim = evaluate(bound, **options).bounds
    for part in parts:
        assert part in claim
    if options.get("latents") == "null" or options.get("latent_dim") == 0:
        assert "fresh" not in claim
        assert "trajectory" not in claim


def test_values_are_in_double_precision_whatever_the_network():
    torch.set_default_dtype(torch.float32)
    result = evaluate("finite-step")
    assert result.nats_per_sequence.dtype == torch.float64
    assert isinstance(result, BoundResult)


def test_there_are_no_nats_a_token_where_none_was_scored():
    result = collect("finite-step", "a sampler", [torch.zeros(2)], torch.zeros(2).long(), 1, 0)
    assert result.nats == 0.0
    for name in PLAIN:
        with pytest.raises(DomainError, match="no token was scored"):
            getattr(result, name)


def test_a_small_ratio_is_named():
    assert "revealing 0.4% of the tokens" in evaluate("conditional", mask_ratio=0.004).bounds
