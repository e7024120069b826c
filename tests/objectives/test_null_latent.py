"""The objective of the null path, against enumeration; see ``test_finite_step.py`` for the statistics."""

import pyro
import pytest
import torch

from vadd import DELBO, NullLatentELBO
from vadd.testing.oracle import all_sequences

from ..evaluation.enumerated import Pinned, by_count_value, infinite_log_likelihood
from .test_finite_step import (
    COPIES,
    THRESHOLD,
    X_0,
    check_mean,
    make_pair,
    mean_terms,
)

pytestmark = pytest.mark.usefixtures("_double")


@torch.no_grad()
def exact_null_bound(model, x_0):
    """The bound of masked diffusion for the null path; for a linear schedule, where few times are enough."""

    def term(is_masked, t):
        x_t = torch.where(is_masked, model.process.mask_id, x_0)
        return model.denoise(x_t, t.expand(len(x_0)), None, target=is_masked.expand(x_0.shape)).log_prob(x_0)

    return by_count_value(model, x_0, term)


@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_mean_is_the_enumerated_bound(latent_dim):
    model, guide = make_pair(latent_dim=latent_dim, tokens=3)
    x_0 = all_sequences(2, 3)
    check_mean(mean_terms(NullLatentELBO(model.process), model, guide, x_0, copies=3000), exact_null_bound(model, x_0))


def test_it_bounds_the_null_path_in_infinitely_many_steps():
    model, guide = make_pair(latent_dim=0)
    with torch.no_grad():
        model.denoiser.tables[3] = 0.0  # a network that does not read the time
    draws = mean_terms(NullLatentELBO(model.process), model, guide)
    error = draws.std(0) / COPIES**0.5
    assert (draws.mean(0) < infinite_log_likelihood(model, X_0) + THRESHOLD * error).all()
    assert "null latent" in NullLatentELBO.bounds


def test_without_a_latent_it_equals_the_delbo():
    model, guide = make_pair(latent_dim=0)
    losses = [
        objective(model.process, generator=torch.Generator().manual_seed(4))(model, guide)(X_0.repeat(9, 1))
        for objective in (DELBO, NullLatentELBO)
    ]
    assert losses[0] == losses[1]


def test_it_differs_from_the_delbo_with_one():
    model, guide = make_pair()
    losses = [
        objective(model.process, generator=torch.Generator().manual_seed(4))(model, guide)(X_0.repeat(9, 1))
        for objective in (DELBO, NullLatentELBO)
    ]
    assert abs(losses[0] - losses[1]) > 0.01


def test_frozen_tokens_and_padding_are_conditioned_on():
    model, guide = make_pair(tokens=4)
    is_frozen, is_padding = torch.tensor([False, True, False, False]), torch.tensor([False, False, False, True])
    alone = Pinned(model, guide, torch.tensor([0, 1, 0, 1]), is_frozen, is_padding)
    x_0 = alone.fill(X_0)
    flags = {"is_frozen": is_frozen.expand(x_0.shape), "is_padding": is_padding.expand(x_0.shape)}
    elbo = NullLatentELBO(model.process)
    check_mean(mean_terms(elbo, model, guide, x_0, **flags), exact_null_bound(alone.pinned, X_0))
    terms = elbo.terms(model, guide, x_0, is_frozen=torch.ones_like(flags["is_frozen"]))
    assert (terms.total == 0).all()


def test_it_charges_no_kl_and_trains_no_guide():
    model, guide = make_pair()
    elbo = NullLatentELBO(model.process, free_bits=3.0)
    loss = elbo(model, guide)(X_0)
    loss.backward()
    assert elbo.last_terms.kl == 0
    assert not elbo.weigh(elbo.corrupt(X_0)).latent.any()
    assert loss.detach() == elbo.last_terms.reconstruction
    assert not any(p.grad.any() for p in guide.parameters() if p.grad is not None)
    assert model.denoiser.tables.grad.any()


def test_both_engines_train_the_same():
    model, guide = make_pair()
    loss = NullLatentELBO(model.process, generator=torch.Generator().manual_seed(4))(model, guide)(X_0)
    svi = pyro.infer.SVI(
        model,
        guide,
        pyro.optim.Adam({"lr": 0.01}),
        NullLatentELBO(model.process, generator=torch.Generator().manual_seed(4)),
    )
    before = [p.detach().clone() for p in guide.parameters()]
    assert svi.step(X_0) == pytest.approx(loss.item(), rel=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
