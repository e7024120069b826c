"""The mixture of normals."""

import math

import pytest
import torch

from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.priors import MixturePrior

X_T, T = torch.zeros(1, 2).long(), torch.ones(1)


def test_the_density_is_that_of_the_mixture():
    prior = MixturePrior(1, 2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-1.0], [2.0]]))
        prior.log_variance.copy_(torch.tensor([[0.0], [math.log(4.0)]]))
        prior.logits.copy_(torch.tensor([1.0, 3.0]).log())
    z = torch.tensor([[0.5]])

    def normal(z, mean, std):
        return math.exp(-0.5 * ((z - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    expected = math.log(0.25 * normal(0.5, -1, 1) + 0.75 * normal(0.5, 2, 2))
    assert prior(X_T, T).log_prob(z).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(1,), (4,), (64,), (8, 8)])
def test_it_starts_spread_and_close_to_the_standard_normal(shape):
    """Moments over 2,000 components; the cost to standard normal latents, about a nat whatever the size."""
    many = MixturePrior(shape, 2000)
    with torch.no_grad():
        overall = many.loc.var(0) + many.log_variance.exp().mean(0)
    torch.testing.assert_close(overall, torch.ones(shape), atol=0.15, rtol=0)
    prior = MixturePrior(shape, 16)
    distances = torch.cdist(prior.loc.flatten(1), prior.loc.flatten(1)) + 9 * torch.eye(16)
    # In a latent of one component two of sixteen draws may come close; no two are equal.
    assert distances.min() > (0.0 if shape == (1,) else 0.1)
    z = torch.randn(4000, *shape)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    with torch.no_grad():
        cost = float((standard - prior(X_T.expand(4000, -1), T.expand(4000)).log_prob(z)).mean())
    assert 0 < cost < 1.6


def test_equal_weights_are_no_parameter():
    prior = MixturePrior(2, 3, learns_weights=False)
    assert [key for key, _ in prior.named_parameters()] == ["loc", "log_variance"]
    assert "logits" not in prior.state_dict()


def test_starting_on_latents_puts_the_components_there():
    prior, z = MixturePrior(2, 3), torch.randn(10, 2) * torch.tensor([1.0, 3.0])
    prior.start_at(z)
    assert torch.equal(prior.loc, z[:3])
    torch.testing.assert_close(prior.log_variance.exp(), z.var(0).expand(3, 2))
    with pytest.raises(ShapeError, match=r"z must have shape \(draws, 2\)"):
        prior.start_at(torch.zeros(10, 3))
    with pytest.raises(DomainError, match="at least 3 latents, got 2"):
        prior.start_at(z[:2])


@pytest.mark.usefixtures("_unchecked")
def test_bad_counts_are_refused():
    for count in (0, -1, 2.0, True):
        with pytest.raises(ConfigError, match="num_components must be an integer of at least 1"):
            MixturePrior(2, count)


def test_components_part_in_training():
    """Two bumps at +-2: each takes a component, and the loss falls to their entropy, ln 2 + ln 0.3 + 1.42."""
    prior = MixturePrior(1, 2)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(300):
        z = 2.0 * (2 * torch.randint(2, (256, 1)) - 1) + 0.3 * torch.randn(256, 1)
        optimizer.zero_grad()
        loss = -prior(X_T.expand(256, -1), T.expand(256)).log_prob(z).mean()
        loss.backward()
        optimizer.step()
    assert sorted(prior.loc[:, 0].tolist()) == pytest.approx([-2, 2], abs=0.15)
    assert float(loss.detach()) == pytest.approx(math.log(2) + math.log(0.3) + 1.419, abs=0.2)


def test_weights_become_the_shares_of_the_components():
    prior = MixturePrior(1, 2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-2.0], [2.0]]))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(100):
        z = 4.0 * (torch.rand(256, 1) < 0.75) - 2 + 0.3 * torch.randn(256, 1)
        optimizer.zero_grad()
        (-prior(X_T.expand(256, -1), T.expand(256)).log_prob(z).mean()).backward()
        optimizer.step()
    # Standard error of the last batches' shares, some 0.01.
    assert prior.logits.softmax(-1).tolist() == pytest.approx([0.25, 0.75], abs=0.06)


@pytest.mark.parametrize("latent_shape", [3, (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_by_products_is_that_of_any_mixture(latent_shape, dtype):
    prior = MixturePrior(latent_shape, 5).to(dtype)
    with torch.no_grad():
        prior.log_variance.uniform_(-6, 2)
        prior.logits.normal_()
    x_t, t = torch.zeros(4, 6, dtype=torch.int64), torch.ones(4, dtype=dtype)
    fast = prior(x_t, t)
    assert fast.expand((4,)) is fast
    plain = fast.expand((7, 4))  # knows nothing of the rows being alike
    assert plain._parameters is None
    z = fast.sample((7,)).requires_grad_()
    values, gradients = [], []
    for distribution in (fast, plain):
        value = distribution.log_prob(z)
        values.append(value)
        gradients.append(torch.autograd.grad(value.sum(), [z, *prior.parameters()], retain_graph=True))
    assert values[0].dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(values[0], values[1], **tolerance)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
