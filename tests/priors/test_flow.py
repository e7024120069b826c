"""The flow prior: bijections with the right determinant, and splines."""

import pytest
import torch

from vadd.errors import ConfigError
from vadd.priors import FlowPrior
from vadd.priors.spline import Spline

from .parts import perturb

X_T, T = torch.zeros(1, 2).long(), torch.ones(1)


def random_spline(strength, *, rows=400, bins=6, dtype=torch.float64):
    sizes = (bins, bins, bins - 1)
    return Spline.from_parameters(*(strength * torch.randn(rows, size, dtype=dtype) for size in sizes), 4.0)


@pytest.mark.parametrize("strength", [0.1, 1.0, 4.0])
def test_splines_are_inverted_with_the_opposite_log_derivative(strength):
    spline = random_spline(strength)
    x = torch.linspace(-6, 6, 400, dtype=torch.float64, requires_grad=True)
    y, log_slope = spline.forward(x)
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(log_slope, slope.log())
    back, inverse_log_slope = spline.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_log_slope, -log_slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("strength", "accuracy"), [(0.3, 1e-5), (1.0, 1e-4), (3.0, 1e-2)])
def test_splines_are_inverted_in_float32_too(strength, accuracy):
    spline = random_spline(strength, dtype=torch.float32)
    x = torch.linspace(-6, 6, 400)
    torch.testing.assert_close(spline.inverse(spline.forward(x)[0])[0], x, rtol=0, atol=accuracy)


def test_splines_rise_from_end_to_end_and_are_the_identity_outside():
    x = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    spline = Spline(*(v if isinstance(v, float) else v[:1] for v in random_spline(1.5)))
    y, log_slope = spline.forward(x)
    assert (y.diff() > 0).all()
    outside = x.abs() >= 4
    assert torch.equal(y[outside], x[outside])
    assert not log_slope[outside].any()
    assert (y - x).abs().max() > 0.3
    # Continuous with its derivative, also where bins meet and where the identity takes over.
    assert log_slope.diff().abs().max() < 0.02
    assert log_slope.abs().max() > 0.5


def test_zero_parameters_give_the_identity():
    spline = Spline.from_parameters(torch.zeros(8), torch.zeros(8), torch.zeros(7), 4.0)
    x = torch.linspace(-6, 6, 101)
    for values, log_slope in (spline.forward(x), spline.inverse(x)):
        torch.testing.assert_close(values, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(log_slope, torch.zeros(101), rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_steep", [False, True])
def test_gradients_are_finite_everywhere(is_steep):
    """Also at the bound and outside, where the spline is not used but would have a root of a negative number."""
    parameters = [torch.randn(1, size) for size in (6, 6, 5)]
    if is_steep:  # in the first bin, whose continuation has no inverse
        parameters[0][:, 0], parameters[1][:, 0] = -4, 4
    parameters = [part.requires_grad_() for part in parameters]
    x = torch.tensor([-50.0, -4.0, -3.999, 0.0, 3.999, 4.0, 50.0], requires_grad=True)
    for direction in ("forward", "inverse"):
        spline = Spline.from_parameters(*parameters, 4.0)
        total = sum(value.sum() for value in getattr(spline, direction)(x))
        gradients = torch.autograd.grad(total, [x, *parameters])
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("num_bins", [1, 4])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 2)])
def test_the_log_determinant_is_that_of_the_jacobian(shape, num_bins):
    prior = perturb(FlowPrior(shape, num_layers=3, hidden_size=8, num_bins=num_bins).double(), 0.3)
    distribution = prior(X_T, T)
    flow = distribution.transforms[0]
    u = torch.randn(distribution.base_dist.event_shape, dtype=torch.float64)
    z = flow(u)
    jacobian = torch.autograd.functional.jacobian(flow, u)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_abs_det_jacobian(u, z), expected)
    torch.testing.assert_close(flow.inv(z), u)
    torch.testing.assert_close(flow.log_abs_det_jacobian(flow.inv(z), z), expected)  # from the kept evaluation
    assert (z - u).abs().max() > 0.1


def test_every_component_is_moved_and_read():
    prior = perturb(FlowPrior(5, num_layers=4, hidden_size=8).double(), 0.3)
    flow = prior(X_T, T).transforms[0]
    jacobian = torch.autograd.functional.jacobian(flow, torch.randn(5, dtype=torch.float64))
    assert (jacobian.abs() > 1e-9).all()


def test_scoring_evaluates_each_network_once():
    prior = FlowPrior(4, num_layers=3, hidden_size=8)
    calls = []
    for layer in prior.layers:
        layer.register_forward_hook(lambda *_: calls.append("push"))
        inverse = layer.inverse
        layer.inverse = lambda z, inverse=inverse: (calls.append("pull"), inverse(z))[1]
    distribution = prior(X_T, T)
    z = distribution.sample()
    assert calls == ["push"] * 3
    distribution.log_prob(z)
    assert calls == ["push"] * 3 + ["pull"] * 3


def test_a_latent_of_one_component_may_become_bimodal():
    prior = FlowPrior(1, num_layers=2, hidden_size=16)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    for _ in range(300):
        z = 1.5 * (2 * torch.randint(2, (256, 1)) - 1) + 0.3 * torch.randn(256, 1)
        optimizer.zero_grad()
        loss = -prior(X_T.expand(256, -1), T.expand(256)).log_prob(z).mean()
        loss.backward()
        optimizer.step()
    # Entropy of the bumps: ln 2 + ln 0.3 + 1.42 = 0.91; the best normal has 1.84.
    assert float(loss.detach()) < 1.25


@pytest.mark.usefixtures("_unchecked")
def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="num_layers must be an integer of at least 1, got 0"):
        FlowPrior(2, num_layers=0)
    with pytest.raises(ConfigError, match="at most 50 bins and a finite positive bound, got num_bins=51"):
        FlowPrior(2, num_bins=51)
    for bound in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="finite positive bound"):
            FlowPrior(2, bound=bound)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_layer_stretches_by_e_squared_at_most(sign):
    prior = FlowPrior(1, num_layers=1, num_bins=1)  # an affine map of one number
    with torch.no_grad():
        prior.layers[0].last.bias[-2] = 1e4 * sign
    log_prob = prior(X_T, T).log_prob(torch.zeros(1, 1))
    torch.testing.assert_close(log_prob, torch.distributions.Normal(0, 1).log_prob(torch.zeros(1)) - 2 * sign)
