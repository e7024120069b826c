"""Mixtures of objectives by rows, against enumeration; see ``test_finite_step.py`` for the statistics."""

import itertools
import math

import jaxtyping
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from vadd import (
    DELBO,
    ContinuousTimeELBO,
    FiniteStepELBO,
    MaskingProcess,
    MixedELBO,
    NullLatentELBO,
    RecognitionGuide,
    SharedLatentELBO,
    StepLaw,
)
from vadd.errors import ConfigError, DomainError, NonFiniteError, ShapeError
from vadd.objectives import SiteWeights
from vadd.objectives.mixed import apportion
from vadd.samplers import cosine_grid
from vadd.schedules import LinearSchedule
from vadd.testing import exact_delbo, exact_finite_step_bound, exact_shared_bound

from ..evaluation.enumerated import Pinned
from .test_estimator import seeded
from .test_finite_step import (
    UNEVEN,
    X_0,
    Recorded,
    check_mean,
    make_pair,
    mean_terms,
)
from .test_null_latent import exact_null_bound
from .test_shared import WatchedPrior
from .test_steps import WITH_INFINITY, average

pytestmark = pytest.mark.usefixtures("_double")

LAW = StepLaw((1, 4), (0.6, 0.4))


def parts_of(process, kind):
    """Parts of a mixture, and what the guide explains."""
    return {
        "shared and null": (
            [(SharedLatentELBO(process, WITH_INFINITY), 0.6), (NullLatentELBO(process), 0.4)],
            "masked",
        ),
        "steps and DELBO": ([(FiniteStepELBO(process, LAW), 0.5), (DELBO(process), 0.5)], "masked"),
        "all revealed": (
            [
                (FiniteStepELBO(process, LAW, target="revealed"), 0.3),
                (SharedLatentELBO(process, 2), 0.3),
                (NullLatentELBO(process), 0.2),
                (DELBO(process), 0.2),
            ],
            "revealed",
        ),
    }[kind]


KINDS = ["shared and null", "steps and DELBO", "all revealed"]


def exact_value(part, model, guide, x_0=X_0):
    """Expected value of an objective for each sequence, by enumeration; for a linear schedule."""
    if isinstance(part, NullLatentELBO):
        return exact_null_bound(model, x_0)
    if isinstance(part, DELBO):
        return exact_delbo(model, guide, x_0)
    if isinstance(part, FiniteStepELBO):
        return average(
            part.jumps.law, lambda n: exact_finite_step_bound(model, guide, x_0, num_steps=n, target=part.target)
        )
    return average(part.jumps.law, lambda n: exact_shared_bound(model, guide, x_0, num_steps=n))


# Expected value


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_sum_of_the_parts_by_their_shares(kind):
    process = make_pair()[0].process
    parts, explains = parts_of(process, kind)
    model, guide = make_pair(explains=explains)
    expected = sum(share * exact_value(part, model, guide) for part, share in parts)
    one_less = sum(share * exact_value(part, model, guide) for part, share in parts[1:]) / (1 - parts[0][1])
    assert abs((one_less - expected).mean()) > 0.05 * abs(expected.mean())  # what is compared depends on the shares
    check_mean(mean_terms(MixedELBO(parts), model, guide), expected)


def test_the_mean_of_the_same_objective_twice_is_its_own():
    model, guide = make_pair()
    parts = [(SharedLatentELBO(model.process, 2), 0.3), (SharedLatentELBO(model.process, 2), 0.7)]
    expected = exact_shared_bound(model, guide, X_0, num_steps=2)
    check_mean(mean_terms(MixedELBO(parts), model, guide), expected)


def test_frozen_tokens_and_padding_are_conditioned_on():
    process = make_pair(tokens=4)[0].process
    parts, explains = parts_of(process, "all revealed")
    model, guide = make_pair(tokens=4, explains=explains)
    is_frozen, is_padding = torch.tensor([False, True, False, False]), torch.tensor([False, False, False, True])
    alone = Pinned(model, guide, torch.tensor([0, 1, 0, 1]), is_frozen, is_padding)
    x_0 = alone.fill(X_0)
    flags = {"is_frozen": is_frozen.expand(x_0.shape), "is_padding": is_padding.expand(x_0.shape)}
    expected = sum(share * exact_value(part, alone.pinned, alone.guide) for part, share in parts)
    check_mean(mean_terms(MixedELBO(parts), model, guide, x_0, **flags), expected)
    terms = MixedELBO(parts).terms(model, guide, x_0, is_frozen=torch.ones_like(flags["is_frozen"]))
    assert (terms.total == 0).all()


class Constant(FiniteStepELBO):
    """The one-step bound, multiplied; without a latent it is the same in every draw."""

    def __init__(self, process, factor):
        super().__init__(process, 1)
        self.factor = factor

    def weigh(self, batch):
        return SiteWeights(*(self.factor * weight for weight in super().weigh(batch)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 12])
def test_batches_of_every_size_are_unbiased(size, monkeypatch):
    """Exactly: over all ways to round, each the same number of times."""
    model, guide = make_pair(latent_dim=0)
    elbo = MixedELBO(
        [(Constant(model.process, 1.0), 0.3), (Constant(model.process, 5.0), 0.5), (DELBO(model.process), 0.2)]
    )
    elbo.parts[2].weigh = lambda batch: SiteWeights(*[torch.zeros_like(batch.t)] * 2)
    x_0 = X_0[1:2].expand(size, -1)
    base = FiniteStepELBO(model.process, 1)(model, guide)(x_0)
    losses = []
    for k in range(10):
        monkeypatch.setattr(elbo, "_uniform", lambda k=k: (k + 0.5) / 10)
        losses.append(elbo(model, guide)(x_0))
    torch.testing.assert_close(torch.stack(losses).mean(), 2.8 * base)
    if size < 10:
        assert len({round(loss.item(), 9) for loss in losses}) > 1  # rounding is at work


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 40))
def test_row_numbers_are_rounded_without_bias(weights, size):
    total = sum(weights)
    shares = [weight / total for weight in weights]
    draws = [apportion(shares, size, (k + 0.5) / total) for k in range(total)]
    for counts in draws:
        assert sum(counts) == size
        assert all(abs(count - size * share) < 1 for count, share in zip(counts, shares, strict=True))
    for k, weight in enumerate(weights):
        assert sum(counts[k] for counts in draws) == size * weight


@pytest.mark.parametrize(
    "shares", [[0.1] * 10, [1.0], [0.3, 0.3, 0.4], [0.5, 0.5 + 5e-10, 1e-12], [1 - 1e-12, 1e-12], [1e-12, 1 - 1e-12]]
)
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 1e-8, 1 - 2**-53])
@pytest.mark.parametrize("size", [1, 7, 512])
def test_no_row_is_lost_or_counted_twice_by_rounding_errors(shares, uniform, size):
    counts = apportion(shares, size, uniform)
    assert sum(counts) == size
    assert min(counts) >= 0


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("size", [1, 3])
def test_every_row_belongs_to_a_part_with_the_probability_of_its_share(size):
    """2,000 batches, threshold 5.2 standard errors for each row: false-alarm rate below 1e-6 in all.

    A probability off by 0.09 is caught with probability above 0.999.
    """
    process = make_pair()[0].process
    elbo = MixedELBO([(DELBO(process), 0.3), (NullLatentELBO(process), 0.7)], generator=seeded())
    parts = torch.stack([elbo.corrupt(X_0[:size]).part for _ in range(2000)])
    error = (0.3 * 0.7 / 2000) ** 0.5
    assert ((parts == 0).double().mean(0) - 0.3).abs().max() < 5.2 * error
    if size == 3:
        joint = [(parts[:, i] + parts[:, j] == 0).double().mean() for i, j in itertools.combinations(range(3), 2)]
        # One of three rows, or none: the two are never together.
        assert joint == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_the_batch_and_weights_of_its_part(kind):
    process = make_pair()[0].process
    parts, _ = parts_of(process, kind)
    x_0 = X_0.repeat(30, 1)
    elbo = MixedELBO(parts, generator=seeded())
    batch, weights = elbo.draw(None, x_0)
    generator = seeded()
    torch.rand((), generator=generator, dtype=torch.float64)
    order, start = torch.randperm(len(x_0), generator=generator), 0
    assert torch.equal(batch.x_0, x_0)
    for k, (part, share) in enumerate(parts):
        rows = order[start : start + int((batch.part == k).sum())]
        start += len(rows)
        assert abs(len(rows) - share * len(x_0)) < 1
        assert (batch.part[rows] == k).all()
        part.generator = generator
        own, own_weights = part.draw(None, x_0[rows])
        for name in ("x_t", "t", "s", "is_masked", "target"):
            assert torch.equal(getattr(batch, name)[rows], getattr(own, name)), name
        for whole, single in zip(batch.recognition_inputs, own.recognition_inputs, strict=True):
            assert torch.equal(whole[rows], single)
        for whole, single in zip(batch.latent_inputs, own.latent_inputs, strict=True):
            assert torch.equal(whole[rows], single)
        for whole, single in zip(weights, own_weights, strict=True):
            torch.testing.assert_close(whole[rows], single.to(whole.dtype))


def test_a_mixture_of_one_part_is_that_part():
    model, guide = make_pair(latent_dim=0)
    x_0 = X_0.repeat(5, 1)
    for part in (FiniteStepELBO(model.process, 3), DELBO(model.process), DELBO(model.process, times="uniform")):
        loss = MixedELBO([(part, 1)], generator=seeded())(model, guide)(x_0)
        generator = seeded()
        torch.rand((), generator=generator, dtype=torch.float64)
        order = torch.randperm(len(x_0), generator=generator)
        part.generator = generator
        torch.testing.assert_close(loss, part(model, guide)(x_0[order]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_parts_may_have_no_row(size):
    """All parts are weighed, also those that drew nothing."""
    process = make_pair()[0].process
    parts, explains = parts_of(process, "all revealed")
    model, guide = make_pair(explains=explains)
    elbo = MixedELBO(parts)
    seen = set()
    for _ in range(40):
        terms = elbo.terms(model, guide, X_0[:size])
        assert terms.total.isfinite().all()
        seen.update(elbo.corrupt(X_0[:size]).part.tolist())
    assert seen == {0, 1, 2, 3}


# Latents


def test_prior_and_guide_see_the_start_in_the_rows_that_share_their_latent():
    model, guide = make_pair(explains="revealed")
    recorded, watched = Recorded(guide.recognition), WatchedPrior(model.prior)
    model, guide = type(model)(model.denoiser, watched, model.process), RecognitionGuide(recorded, explains="revealed")
    parts = [
        (SharedLatentELBO(model.process, 2), 0.5),
        (FiniteStepELBO(model.process, 2, target="revealed"), 0.5),
    ]
    elbo = MixedELBO(parts)
    batches = []
    corrupt = elbo.corrupt
    elbo.corrupt = lambda *args, **kwargs: (batches.append(corrupt(*args, **kwargs)), batches[-1])[1]
    elbo.terms(model, guide, X_0.repeat(50, 1))
    (batch,) = batches
    shares = batch.part == 0
    assert int(shares.sum()) == 100
    assert (watched.x_t[shares] == 2).all()
    assert (watched.t[shares] == 1).all()
    assert torch.equal(watched.x_t[~shares], batch.x_t[~shares])
    assert torch.equal(watched.t[~shares], batch.t[~shares])
    assert torch.equal(recorded.tokens[shares], batch.x_0[shares])
    assert recorded.target[shares].all()
    assert torch.equal(recorded.tokens[~shares], batch.x_s[~shares])
    assert torch.equal(recorded.target[~shares], batch.target[~shares])


def test_null_rows_carry_no_kl_and_no_gradient_to_the_guide():
    model, guide = make_pair()
    elbo = MixedELBO([(DELBO(model.process), 0.5), (NullLatentELBO(model.process), 0.5)], free_bits=0.1)
    seen = []
    original = type(guide).posterior

    def posterior(self, batch):
        result = original(self, batch)
        result.base_dist.loc.retain_grad()
        seen.append((batch, result.base_dist.loc))
        return result

    type(guide).posterior = posterior
    try:
        elbo(model, guide)(X_0.repeat(10, 1)).backward()
        ((batch, loc),) = seen
        is_null = batch.part == 1
        assert torch.equal(batch.is_null, is_null)
        assert int(is_null.sum()) == 20
        assert (loc.grad[is_null] == 0).all()
        assert (loc.grad[~is_null] != 0).all()
        terms = elbo.terms(model, guide, X_0.repeat(10, 1))
        is_null = seen[-1][0].is_null
        assert (terms.kl[is_null] == 0).all()
        assert (terms.kl[~is_null] > 0).all()
        assert (terms.reconstruction > 0).all()
    finally:
        type(guide).posterior = original


def test_free_bits_are_charged_by_row_and_not_to_null_rows():
    model, guide = make_pair()
    parts = [
        (SharedLatentELBO(model.process, 2), 0.4),
        (DELBO(model.process), 0.3),
        (NullLatentELBO(model.process), 0.3),
    ]
    x_0 = X_0.repeat(10, 1)
    elbo = MixedELBO(parts, generator=seeded(), free_bits=0.3, kl_weight=0.5)
    batch, weights = elbo.draw(model, x_0)
    kl = kl_divergence(guide.posterior(batch), model.prior(*batch.latent_inputs))
    assert (kl < 0.3).any()
    assert (kl > 0.3).any()
    elbo.generator = seeded()
    loss = elbo(model, guide)(x_0)
    charged = (weights.latent * kl.clamp(min=0.3)).mean()
    torch.testing.assert_close(loss, elbo.last_terms.reconstruction + 0.5 * charged)
    assert (weights.latent[batch.part == 0] == 1).all()
    assert (weights.latent[batch.part == 2] == 0).all()
    only_null = MixedELBO([(NullLatentELBO(model.process), 0.5), (NullLatentELBO(model.process), 0.5)], free_bits=9.0)
    loss = only_null(model, guide)(x_0)
    torch.testing.assert_close(loss.detach(), only_null.last_terms.reconstruction)


def test_latent_dropout_goes_on_in_the_other_rows():
    """2,000 rows at rate 0.3, threshold 4.9 standard errors: false-alarm rate 1e-6; 0.1 more is caught."""
    model, _ = make_pair()
    model.latent_dropout = 0.3
    elbo = MixedELBO([(DELBO(model.process), 0.5), (NullLatentELBO(model.process), 0.5)])
    batch, weights = elbo.draw(model, X_0.repeat(1000, 1))
    is_null_part = batch.part == 1
    assert batch.is_null[is_null_part].all()
    share = batch.is_null[~is_null_part].double().mean()
    assert abs(share - 0.3) < 4.9 * (0.3 * 0.7 / 2000) ** 0.5
    assert (weights.latent[batch.is_null] == 0).all()
    model.eval()
    batch, _ = elbo.draw(model, X_0.repeat(10, 1))
    assert torch.equal(batch.is_null, batch.part == 1)


# Engines and options


@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_give_the_same_loss_and_gradients(kind):
    process = make_pair()[0].process
    parts, explains = parts_of(process, kind)
    model, guide = make_pair(explains=explains)
    x_0 = X_0.repeat(7, 1)
    named = [*model.named_parameters("model"), *guide.named_parameters("guide")]

    def elbo():
        return MixedELBO(parts, generator=seeded(), kl_weight=0.4, free_bits=0.1)

    loss = elbo()(model, guide)(x_0)
    expected = torch.autograd.grad(loss, [p for _, p in named])
    assert all(g.any() for g in expected)
    value = elbo().loss_and_grads(model, guide, x_0)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for (name, p), gradient in zip(named, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, msg=name)
    terms = elbo().terms(model, guide, x_0)
    mixture = elbo()
    mixture(model, guide)(x_0)
    torch.testing.assert_close(terms.reconstruction.mean().detach(), mixture.last_terms.reconstruction)
    torch.testing.assert_close(terms.kl.mean().detach(), mixture.last_terms.kl)


def test_both_engines_train_the_same_weights():
    x_0, results = X_0.repeat(5, 1), []
    for is_svi in (True, False):
        process = make_pair()[0].process
        parts, explains = parts_of(process, "shared and null")
        model, guide = make_pair(explains=explains)
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        elbo = MixedELBO(parts, generator=seeded())
        if is_svi:
            svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
            losses = [svi.step(x_0) for _ in range(4)]
        else:
            loss_fn, losses = elbo(model, guide), []
            optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.05)
            for _ in range(4):
                loss = loss_fn(x_0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        after = [p.detach() for p in (*model.parameters(), *guide.parameters())]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        results.append((losses, after))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_vectorized", [False, True])
def test_particles_have_the_rows_in_common(is_vectorized):
    process = make_pair()[0].process
    parts, explains = parts_of(process, "all revealed")
    model, guide = make_pair(explains=explains)
    elbo = MixedELBO(parts, num_particles=3, vectorize_particles=is_vectorized)
    x_0 = X_0.repeat(5, 1)
    loss_fn = elbo(model, guide)
    loss_fn(x_0)  # the first call of vectorized particles also counts the plates, with draws of its own
    elbo.generator = seeded()
    loss = loss_fn(x_0)
    elbo.generator = seeded()
    terms = elbo.terms(model, guide, x_0)
    torch.testing.assert_close(terms.total.mean(), loss)
    elbo.generator = seeded()
    batch, weights = elbo.draw(model, x_0)
    kl = kl_divergence(guide.posterior(batch), model.prior(*batch.latent_inputs))
    torch.testing.assert_close(terms.kl, weights.latent * kl)


def test_conditions_follow_their_rows():
    model, guide = make_pair()
    elbo = MixedELBO(parts_of(model.process, "steps and DELBO")[0])
    condition = torch.arange(20)
    batch = elbo.corrupt(X_0.repeat(5, 1), condition=condition)
    assert torch.equal(batch.condition, condition)
    assert not torch.equal(batch.part.sort().values, batch.part)
    terms = elbo.terms(model, guide, X_0.repeat(5, 1), condition=condition)
    assert terms.total.shape == (20,)


def test_the_generator_of_the_mixture_decides_and_the_parts_given_are_left_alone():
    model, _ = make_pair()
    parts = [(DELBO(model.process), 0.5), (FiniteStepELBO(model.process, 3), 0.5)]
    elbo = MixedELBO(parts, generator=seeded(1))
    first = elbo.corrupt(X_0)
    second = elbo.corrupt(X_0)
    torch.manual_seed(99)
    elbo.generator = torch.Generator().manual_seed(1)
    again = elbo.corrupt(X_0)
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.x_t, again.x_t)
    assert not torch.equal(first.t, second.t)
    assert all(part.generator is None for part, _ in parts)


def test_a_divergence_that_is_infinite_is_reported_in_the_rows_that_pay_it(monkeypatch):
    model, guide = make_pair()
    monkeypatch.setattr("vadd.objectives.divergence.kl_divergence", lambda r, p: torch.full(r.batch_shape, torch.inf))
    elbo = MixedELBO([(DELBO(model.process), 0.5), (NullLatentELBO(model.process), 0.5)])
    with pytest.raises(NonFiniteError, match="in 2 of 4 rows"):
        elbo(model, guide)(X_0)
    only_null = MixedELBO([(NullLatentELBO(model.process), 1)])
    assert only_null(model, guide)(X_0).isfinite()
    assert only_null.terms(model, guide, X_0).total.isfinite().all()


# Bounds


def test_it_bounds_a_sampler_where_all_parts_bound_it():
    process = make_pair()[0].process

    def bounds(*parts):
        return MixedELBO([(part, 1 / len(parts)) for part in parts]).bounds

    finite = FiniteStepELBO(process, 3)
    assert bounds(finite) == bounds(finite, FiniteStepELBO(process, 3)) == finite.bounds
    assert bounds(NullLatentELBO(process), NullLatentELBO(process)) == NullLatentELBO(process).bounds
    assert bounds(finite, FiniteStepELBO(process, 2)) is None
    assert bounds(finite, FiniteStepELBO(process, 3, time_grid=UNEVEN)) is None
    assert bounds(FiniteStepELBO(process, LAW), FiniteStepELBO(process, StepLaw.uniform(LAW.steps))) is None
    assert bounds(FiniteStepELBO(process, LAW), FiniteStepELBO(process, LAW, time_grid=cosine_grid)) is None
    assert bounds(FiniteStepELBO(process, LAW), FiniteStepELBO(process, LAW)) is not None
    assert bounds(DELBO(process), DELBO(process)) is None
    assert bounds(finite, DELBO(process)) is None
    assert bounds(NullLatentELBO(process), ContinuousTimeELBO(process)) is None


# Bad input


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: [], ConfigError, "one or more pairs"),
        (lambda p: p, ConfigError, "process is that of the objectives"),
        (lambda p: DELBO(p), ConfigError, "one or more pairs"),
        (lambda p: [DELBO(p), DELBO(p)], ConfigError, "one or more pairs"),
        (lambda p: [(DELBO(p),)], ConfigError, "one or more pairs"),
        (lambda p: [(0.5, DELBO(p)), (0.5, DELBO(p))], ConfigError, "followed by its share, got float"),
        (lambda p: [(MixedELBO([(DELBO(p), 1.0)]), 1.0)], ConfigError, "no mixture"),
        (lambda p: [(DELBO(p), 1.5), (DELBO(p), -0.5)], DomainError, "positive"),
        (lambda p: [(DELBO(p), 1.0), (DELBO(p), 0.0)], DomainError, "positive"),
        (lambda p: [(DELBO(p), math.nan)], DomainError, "positive"),
        (lambda p: [(DELBO(p), math.inf)], DomainError, "positive"),
        (lambda p: [(DELBO(p), True)], DomainError, "positive"),
        (lambda p: [(DELBO(p), "1")], DomainError, "positive"),
        (lambda p: [(DELBO(p), 0.5), (DELBO(p), 0.4)], ConfigError, "sum to one, got 0.9"),
        (lambda p: [(DELBO(p), 1), (DELBO(p), 1)], ConfigError, "sum to one, got 2"),
        (
            lambda p: [(DELBO(p), 0.5), (DELBO(MaskingProcess(LinearSchedule(), 2)), 0.5)],
            ConfigError,
            "the same object",
        ),
        (
            lambda p: [(FiniteStepELBO(p, 2), 0.5), (FiniteStepELBO(p, 2, target="revealed"), 0.5)],
            ConfigError,
            "share the guide",
        ),
        (lambda p: [(DELBO(p, kl_weight=0.5), 1)], ConfigError, "kl_weight of DELBO would have no effect"),
        (lambda p: [(DELBO(p, free_bits=0.5), 1)], ConfigError, "free_bits"),
        (lambda p: [(DELBO(p, num_particles=2, vectorize_particles=True), 1)], ConfigError, "num_particles, vectorize"),
        (lambda p: [(DELBO(p, generator=torch.Generator()), 1)], ConfigError, "generator"),
    ],
)
def test_bad_parts_are_refused(make, error, message):
    process = make_pair()[0].process
    with pytest.raises(error, match=message):
        MixedELBO(make(process))


@pytest.mark.usefixtures("_unchecked")
def test_model_and_guide_must_fit_all_parts():
    model, guide = make_pair()
    other = make_pair(explains="revealed")[1]
    elbo = MixedELBO([(DELBO(model.process), 0.5), (FiniteStepELBO(model.process, 2), 0.5)])
    for run in (elbo.terms, elbo.loss):
        with pytest.raises(ConfigError, match="swapped"):
            run(guide, model, X_0)
        with pytest.raises(ConfigError, match="explains"):
            run(model, other, X_0)
    elsewhere = MaskingProcess(LinearSchedule(), 3)
    with pytest.raises(ConfigError, match=r"model\.process"):
        MixedELBO([(DELBO(elsewhere), 1)]).loss(model, guide, X_0)


@pytest.mark.usefixtures("_unchecked")
def test_bad_data_are_refused_as_a_whole():
    model, guide = make_pair()
    loss_fn = MixedELBO([(DELBO(model.process), 0.5), (NullLatentELBO(model.process), 0.5)])(model, guide)
    with pytest.raises(ShapeError, match=r"got \(2,\)"):
        loss_fn(X_0[0])
    with pytest.raises(ShapeError, match=r"\(0, 2\)"):
        loss_fn(X_0[:0])
    with pytest.raises(ShapeError, match=r"is_frozen must have the shape of x_0, \(4, 2\)"):
        loss_fn(X_0, is_frozen=X_0[:3] > 5)
    with pytest.raises(ShapeError, match="condition must have one entry for each of the 4 rows"):
        loss_fn(X_0, condition=torch.zeros(3))
    with pytest.raises(DomainError, match="mask token"):
        loss_fn(X_0 + 1)


def test_weights_need_to_know_the_part():
    process = make_pair()[0].process
    elbo = MixedELBO([(DELBO(process), 1)])
    with pytest.raises(ConfigError, match="part"):
        elbo.weigh(DELBO(process).corrupt(X_0))


def test_the_type_checker_of_the_tests_is_on():
    assert not jaxtyping.config.jaxtyping_disable
