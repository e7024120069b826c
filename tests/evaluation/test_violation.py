"""The DELBO of a perfect model lies below the entropy of its data, and no valid bound does.

Both data sets are uniform on the pairs of tokens of one class: two copied bits (each token a class of its own), and
the 4x4 checkerboard (the parity of a token's column of cells). The model is exact: its latent picks the
class of the pair while both tokens are masked, and a shown token decides it otherwise.
"""

import math

import pyro
import pytest
import torch

from vadd import DELBO, FiniteStepELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones.base import Denoiser
from vadd.data.toys import checkerboard_probabilities
from vadd.evaluation import NotABoundError, log_likelihood_bound
from vadd.schedules import LinearSchedule
from vadd.testing import (
    AtomPrior,
    exact_delbo,
    exact_finite_step_bound,
    exact_joint,
    exact_log_likelihood,
    exact_marginal_bound,
    exact_posterior_recognition,
    exact_shared_bound,
)

THRESHOLD = 7.0  # standard errors; a deviation beyond it has probability below 1e-11


class ClassDenoiser(Denoiser):
    """Uniform over the tokens of the right class: the shown token's, or the latent's."""

    latent_shape, num_tokens = torch.Size([1]), 2

    def __init__(self, class_of):
        super().__init__()
        self.vocab_size = len(class_of)
        self.register_buffer("class_of", class_of)

    def forward(self, x_t, t, z, **options):
        is_shown = x_t < self.vocab_size
        shown = self.class_of[x_t.clamp(max=self.vocab_size - 1)]
        known = torch.where(is_shown, shown, 0).max(-1).values
        pair_class = torch.where(is_shown.any(-1), known, z[:, 0].long())
        is_right = self.class_of == pair_class[:, None]
        return torch.where(is_right, 0.0, -60.0)[:, None].expand(-1, 2, -1)


CLASSES = {
    "copied bits": torch.arange(2),
    "checkerboard, 8 bins": torch.arange(8) * 4 // 8 % 2,
    "checkerboard, 64 bins": torch.arange(64) * 4 // 64 % 2,
}
PUBLISHED = {"copied bits": 0.347, "checkerboard, 64 bins": 7.28}


@pytest.fixture(params=CLASSES)
def perfect(request):
    class_of = CLASSES[request.param]
    vocab = len(class_of)
    prior = AtomPrior([0.0, 1.0], vocab, 2)
    torch.nn.init.zeros_(prior.table)
    model = VADDModel(ClassDenoiser(class_of), prior, MaskingProcess(LinearSchedule(), vocab))
    guide = RecognitionGuide(exact_posterior_recognition(model))
    data = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
    data = data[class_of[data[:, 0]] == class_of[data[:, 1]]]
    return request.param, model, guide, data


def enumerate_with(function, *args, **options):
    return float(-function(*args, **options).mean())


def test_the_model_is_exact(perfect):
    name, model, _, data = perfect
    if name.startswith("checkerboard"):
        vocab = model.process.vocab_size
        law = checkerboard_probabilities(vocab)
        assert (law[data[:, 0], data[:, 1]] == 2 / vocab**2).all()
        assert len(data) == vocab**2 // 2
    entropy = math.log(len(data))
    for steps in (1, 2, 5):
        exact = exact_log_likelihood(model, data[:64], num_steps=steps, latents="shared")
        torch.testing.assert_close(exact, torch.full_like(exact, -entropy))


def test_enumerated_delbo_is_below_the_entropy_and_valid_bounds_are_not(perfect):
    name, model, guide, data = perfect
    entropy, data = math.log(len(data)), data[:: max(1, len(data) // 32)]  # all sequences are alike
    delbo = enumerate_with(exact_delbo, model, guide, data)
    given_one = math.log(len(data)) if name == "copied bits" else math.log(model.process.vocab_size / 2)
    given_one = 0.0 if name == "copied bits" else given_one
    assert delbo == pytest.approx(entropy / 2 + given_one)
    assert delbo == pytest.approx(enumerate_with(exact_joint, model, data))
    assert delbo < entropy - 0.3
    if name in PUBLISHED:
        assert delbo == pytest.approx(PUBLISHED[name], abs=0.005)
    valid = [enumerate_with(exact_marginal_bound, model, data)]
    for steps in (1, 2, 4, 16):
        valid.append(enumerate_with(exact_finite_step_bound, model, guide, data, num_steps=steps))
        valid.append(enumerate_with(exact_shared_bound, model, guide, data, num_steps=steps))
    valid.append(enumerate_with(exact_shared_bound, model, guide, data))
    assert min(valid) >= entropy - 1e-9
    assert valid[1] == pytest.approx(entropy)  # one step


def test_estimates_show_the_same(perfect):
    _, model, guide, data = perfect
    entropy = math.log(len(data))
    x_0 = data.repeat(max(1, 2048 // len(data)), 1)
    delbo = log_likelihood_bound(model, guide, x_0, bound="delbo")
    assert delbo.nats + THRESHOLD * delbo.stderr < entropy - 0.2
    assert delbo.bounds is None
    with pytest.raises(NotABoundError, match="below the entropy"):
        _ = delbo.bits_per_dim
    valid = [("finite-step", {"num_steps": t, "num_latents": k}) for t in (1, 2, 4) for k in (1, 4)]
    valid += [("shared-latent", {"num_steps": t, "num_latents": k}) for t in (1, 3, None) for k in (1, 4)]
    valid += [("marginal", {"num_latents": 16}), ("continuous", {}), ("conditional", {"num_latents": 4})]
    for bound, options in valid:
        result = log_likelihood_bound(model, guide, x_0, bound=bound, **options)
        assert result.nats > entropy - THRESHOLD * result.stderr - 1e-9, f"{bound} {options}"
        assert result.bounds is not None
        assert result.bits_per_dim > 0


def test_training_objectives_name_what_they_bound(perfect):
    _, model, _, _ = perfect
    assert DELBO(model.process).bounds is None
    assert "2 steps" in FiniteStepELBO(model.process, 2).bounds
    pyro.clear_param_store()
