"""Priors with a network of their own, and the categorical one."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from vadd.backbones import MLPRecognition
from vadd.backbones.base import EmptyRecognition, Recognition
from vadd.errors import ConfigError
from vadd.priors import CategoricalPrior, ConditionalCategoricalPrior, ConditionalPrior

from .parts import LENGTH, NETWORK, VOCAB, TinyRecognition, recognition_of


class Spy(Recognition):
    """Notes what it is called with."""

    latent_shape = torch.Size([2])

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, tokens, target, t, **options):
        self.calls.append((tokens, target, t, options))
        loc = torch.tensor([3.0, -1.0]).expand(len(tokens), 2)
        return dist.Normal(loc, torch.tensor([2.0, 0.5]).expand(len(tokens), 2)).to_event(1)


def test_the_network_reads_what_the_prior_may_know():
    """Tokens of ``x_t``, with the masked positions that hold data as target; keywords only where given."""
    spy = Spy()
    prior, x_t, t = ConditionalPrior(spy, VOCAB), torch.tensor([[0, VOCAB, VOCAB]]), torch.tensor([0.6])
    is_padding, condition = torch.tensor([[False, False, True]]), torch.tensor([1])
    prior(x_t, t)
    prior(x_t, t, is_padding=is_padding, condition=condition)
    (tokens, target, times, options), (_, padded_target, _, padded_options) = spy.calls
    assert torch.equal(tokens, x_t)
    assert torch.equal(times, t)
    assert target.tolist() == [[False, True, True]]
    assert options == {}
    assert padded_target.tolist() == [[False, True, False]]
    assert padded_options == {"is_padding": is_padding, "condition": condition}


def test_gates_scale_location_and_scale():
    prior = ConditionalPrior(Spy(), VOCAB)
    with torch.no_grad():
        prior.loc_gate.copy_(torch.tensor([0.5, 1.0]))
        prior.scale_gate.copy_(torch.tensor([1.0, -0.5]))
    normal = prior(torch.full((1, 3), VOCAB), torch.ones(1)).base_dist
    torch.testing.assert_close(normal.loc, torch.tensor([[1.5, -1.0]]))
    log_scale = torch.tensor([[2.0, 0.5]]).log() + torch.tensor([[3.0, -1.0]]) / 2
    torch.testing.assert_close(normal.scale.log(), torch.tensor([1.0, -0.5]) * log_scale)


def test_any_normal_of_the_latents_can_be_learned():
    """The gates restrict nothing: location and scale of three inputs are fitted apart."""
    encoder = MLPRecognition(VOCAB, LENGTH, 1, **NETWORK)
    prior = ConditionalPrior(encoder, VOCAB)
    x_t = torch.stack([torch.full((LENGTH,), k) for k in (0, 1, VOCAB)])
    loc, scale = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([[0.3], [1.5], [0.8]])
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        fitted = prior(x_t, torch.ones(3))
        goal = dist.Normal(loc, scale).to_event(1)
        torch.distributions.kl_divergence(goal, fitted).mean().backward()
        optimizer.step()
    torch.testing.assert_close(fitted.base_dist.loc, loc, atol=0.05, rtol=0)
    torch.testing.assert_close(fitted.base_dist.scale, scale, atol=0.05, rtol=0)


def test_encoders_of_another_family_are_refused():
    x_t, t = torch.zeros(1, 2).long(), torch.ones(1)
    discrete = TinyRecognition(2, 2, (2, 3), is_discrete=True)
    with pytest.raises(ConfigError, match="ConditionalPrior needs .* Normal .*TinyRecognition with a OneHot"):
        ConditionalPrior(discrete, 2)(x_t, t)
    with pytest.raises(ConfigError, match="ConditionalCategoricalPrior needs .* OneHotCategorical .* with a Normal"):
        ConditionalCategoricalPrior(TinyRecognition(2, 2, (2, 3)), 2)(x_t, t)
    with pytest.raises(ConfigError, match="ConditionalPrior needs .* with a Reshaped"):
        ConditionalPrior(MLPRecognition(VOCAB, LENGTH, 3, **NETWORK, family="low-rank"), VOCAB)(
            torch.zeros(1, LENGTH).long(), t
        )
    with pytest.raises(ConfigError, match="latent_shape must have components"):
        ConditionalPrior(EmptyRecognition(), VOCAB)


@pytest.mark.usefixtures("_unchecked")
def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="encoder must be a Recognition, got Linear"):
        ConditionalPrior(nn.Linear(2, 2), VOCAB)
    with pytest.raises(ConfigError, match="vocab_size must be an integer of at least 1, got 0"):
        ConditionalPrior(recognition_of((2,)), 0)


def test_discrete_draws_are_one_hot_floats():
    for prior in (CategoricalPrior((2, 3)), CategoricalPrior(3), CategoricalPrior((4, 2, 3), is_learned=False)):
        z = prior(torch.zeros(50, 4).long(), torch.ones(50)).sample()
        assert z.dtype == torch.float32
        assert torch.equal(z.sum(-1), torch.ones(z.shape[:-1]))
        assert set(z.unique().tolist()) == {0.0, 1.0}


def test_uniform_probabilities_are_no_parameter():
    prior = CategoricalPrior((2, 3), is_learned=False)
    assert not list(prior.parameters())
    assert not prior.state_dict()
    with pytest.raises(ConfigError, match=r"at least 2 categories, got \(3, 1\)"):
        CategoricalPrior((3, 1))
