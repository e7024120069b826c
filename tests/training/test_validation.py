"""Validation by a bound: the same numbers for any number of processes, and the training is left alone."""

import json
import math
import random

import numpy
import pyro.distributions as dist
import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition, Recognition
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.evaluation import log_likelihood_bound
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.training.validation import BoundValidation

VOCAB, LENGTH, LATENT = 5, 3, 2
SIZE = {"hidden_size": 16, "depth": 1, "embedding_size": 4, "modulation_size": 8}


class NoisyRecognition(Recognition):
    """Draws noise from the global generator in evaluation mode, too."""

    latent_shape = torch.Size([LATENT])

    def __init__(self):
        super().__init__()
        self.inner = MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE)

    def forward(self, tokens, target, t):
        posterior = self.inner(tokens, target, t)
        return dist.Normal(posterior.base_dist.loc + torch.rand(()), posterior.base_dist.scale).to_event(1)


def make_pair(recognition=None):
    torch.manual_seed(0)
    denoiser = MLPDenoiser(VOCAB, LENGTH, LATENT, dropout=0.5, **SIZE)
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), MaskingProcess(LinearSchedule(), VOCAB))
    guide = RecognitionGuide(recognition or MLPRecognition(VOCAB, LENGTH, LATENT, dropout=0.5, **SIZE))
    for network in (model, guide):  # away from the start, where the denoiser does not read the latent
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model, guide


def sequences(num):
    return torch.randint(VOCAB, (num, LENGTH), generator=torch.Generator().manual_seed(1))


class OneOf:
    """Stands for the Accelerator of one of several processes: sums its totals with those of the others."""

    device = torch.device("cpu")

    def __init__(self, others):
        self.others = others

    def reduce(self, tensor, reduction):
        assert reduction == "sum"
        assert tensor.dtype == torch.float64
        return sum(self.others, tensor)


class Recorder:
    """Takes down what a process would send."""

    device = torch.device("cpu")

    def reduce(self, tensor, reduction):
        self.totals = tensor
        return torch.ones_like(tensor)


def metrics_of(validation, pair, num_processes):
    """Metrics that process 0 computes, as if there were this many, and the sequences of each."""
    values = [validation(*pair, process_index=r, num_processes=num_processes) for r in range(num_processes)]
    others = []
    for value in values[1:]:
        recorder = Recorder()
        validation.reduce(recorder, value)
        others.append(recorder.totals)
    return validation.reduce(OneOf(others), values[0]), values


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("recognition", [None, NoisyRecognition], ids=["quiet", "noisy"])
def test_metrics_do_not_depend_on_the_number_of_processes(num_rows, recognition):
    pair = make_pair(recognition and recognition())
    validation = BoundValidation(sequences(num_rows), num_steps=(1, 3), num_latents=4, batch_rows=4)
    alone = validation.reduce(None, validation(*pair))
    for num_processes in (1, 2, 3):
        together, values = metrics_of(validation, pair, num_processes)
        assert together == pytest.approx(alone, rel=1e-12, nan_ok=True)
        assert sum(len(value["validation/nats@1"]) for value in values) == num_rows
        assert all(len(value["validation/nats@3"]) == len(value["validation/nats@1"]) for value in values)


def test_each_row_is_evaluated_once():
    pair = make_pair()
    validation = BoundValidation(sequences(11), num_steps=2, num_latents=2, batch_rows=2)
    alone = validation(*pair)["validation/nats@2"]
    parts = [validation(*pair, process_index=r, num_processes=4)["validation/nats@2"] for r in range(4)]
    assert [len(part) for part in parts] == [4, 3, 2, 2]  # blocks 0 and 4, 1 and the short 5, 2, 3
    assert torch.equal(torch.cat(parts).sort().values, alone.sort().values)
    assert len(set(alone.tolist())) == 11


def test_the_metrics_are_mean_and_standard_error_of_the_bound():
    model, guide = make_pair()
    x_0 = sequences(40)
    validation = BoundValidation(x_0, num_steps=(1, 2), num_latents=2, batch_rows=16)
    values = validation(model, guide)
    metrics = validation.reduce(None, values)
    assert list(metrics) == validation.metrics
    for steps in (1, 2):
        nats = values[f"validation/nats@{steps}"]
        assert nats.dtype == torch.float64
        assert metrics[f"validation/nats@{steps}"] == pytest.approx(float(nats.mean()), rel=1e-12)
        assert metrics[f"validation/stderr@{steps}"] == pytest.approx(float(nats.std() / math.sqrt(40)), rel=1e-9)
        # Other masks and latents, the same bound: six standard errors.
        other = log_likelihood_bound(model, guide, x_0, bound="finite-step", num_steps=steps, num_latents=2, seed=9)
        assert abs(other.nats - metrics[f"validation/nats@{steps}"]) < 6 * math.hypot(
            other.estimator_stderr if other.num_draws > 1 else other.stderr, metrics[f"validation/stderr@{steps}"]
        )
    assert metrics["validation/score"] == pytest.approx(
        (metrics["validation/nats@1"] + metrics["validation/nats@2"]) / 2, rel=1e-12
    )
    assert validation.score == "validation/score"
    assert json.loads(json.dumps(metrics)) == metrics


def test_without_steps_and_under_another_name():
    pair = make_pair()
    validation = BoundValidation(
        sequences(6), bound="marginal", num_latents=2, name="test/nats", score="test/nats/nats"
    )
    metrics = validation.reduce(None, validation(*pair))
    assert list(metrics) == ["test/nats/nats", "test/nats/stderr", "test/nats/score"]
    assert validation.score == "test/nats/nats"
    assert metrics["test/nats/nats"] == metrics["test/nats/score"]


def test_blocks_have_noise_of_their_own():
    pair = make_pair()
    x_0 = sequences(1).expand(6, -1).contiguous()
    nats = BoundValidation(x_0, num_steps=3, num_latents=1, batch_rows=1)(*pair)["validation/nats@3"]
    assert len(set(nats.tolist())) == 6


@pytest.mark.parametrize(("change", "is_same"), [({}, True), ({"seed": 1}, False), ({"num_draws": 2}, False)])
def test_numbers_follow_from_the_seed(change, is_same):
    pair = make_pair()
    options = {"num_steps": 3, "num_latents": 2, "batch_rows": 4}
    first = BoundValidation(sequences(8), **options)(*pair)["validation/nats@3"]
    torch.rand(7)  # wherever the training's generator stands
    again = BoundValidation(sequences(8), **{**options, **change})(*pair)["validation/nats@3"]
    assert torch.equal(first, again) == is_same


def test_rows_of_padding_and_of_given_tokens_go_with_their_sequences():
    model, guide = make_pair()
    x_0 = sequences(9)
    is_frozen = torch.zeros(9, LENGTH, dtype=torch.bool)
    is_frozen[5:] = True  # nothing is left to score
    nats = BoundValidation(x_0, num_steps=2, num_latents=2, batch_rows=2, is_frozen=is_frozen)(model, guide)
    assert (nats["validation/nats@2"] == 0).tolist() == [False] * 5 + [True] * 4


@pytest.mark.usefixtures("_unchecked")
def test_validation_leaves_modes_random_states_and_gradients_alone():
    model, guide = make_pair(NoisyRecognition())
    model.prior.eval()  # a part whose mode differs from that of the whole
    validation = BoundValidation(sequences(6), num_steps=2, num_latents=2, batch_rows=4)

    def state():
        return {
            "torch": torch.random.get_rng_state().tolist(),
            "numpy": numpy.random.get_state()[1].tolist(),
            "python": random.getstate(),
            "modes": [part.training for network in (model, guide) for part in network.modules()],
            "gradients": [p.grad for network in (model, guide) for p in network.parameters()],
            "enabled": torch.is_grad_enabled(),
        }

    before = state()
    first = validation(model, guide)["validation/nats@2"]
    assert not first.requires_grad
    assert torch.equal(first, validation(model, guide)["validation/nats@2"])  # no dropout
    assert state() == before


def test_alike_values_have_no_error_and_one_has_none_to_tell():
    validation = BoundValidation(sequences(3), num_steps=2)
    metrics = validation.reduce(None, {"validation/nats@2": torch.full((3,), 0.1).double()})
    assert metrics["validation/stderr@2"] == pytest.approx(0.0, abs=1e-8)
    metrics = validation.reduce(None, {"validation/nats@2": torch.ones(1).double()})
    assert math.isnan(metrics["validation/stderr@2"])
    metrics = validation.reduce(None, {"validation/nats@2": torch.tensor([1.0, math.nan]).double()})
    assert math.isnan(metrics["validation/nats@2"])
    assert math.isnan(metrics["validation/stderr@2"])


def test_the_reduction_works_with_accelerate():
    accelerate = pytest.importorskip("accelerate")
    validation = BoundValidation(sequences(5), num_steps=1, num_latents=2)
    values = validation(*make_pair())
    accelerator = accelerate.Accelerator(cpu=True)
    assert validation.reduce(accelerator, values) == validation.reduce(None, values)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bound": "exact"}, ConfigError, "bound must be one of finite-step,"),
        ({"num_steps": None}, ConfigError, "needs num_steps"),
        ({"num_steps": 0}, DomainError, "num_steps must be an integer of at least 1"),
        ({"num_steps": (1, 2, 1)}, DomainError, "each once"),
        ({"num_steps": ()}, DomainError, "at least one number"),
        ({"bound": "marginal"}, ConfigError, "num_steps has no meaning"),
        ({"bound": "continuous", "num_steps": None}, ConfigError, "one guide draw"),
        ({"num_latents": 0}, DomainError, "num_latents must be an integer"),
        ({"num_draws": 0}, DomainError, "num_draws must be an integer"),
        ({"batch_rows": 0}, DomainError, "batch_rows must be an integer"),
        ({"seed": "a"}, DomainError, "seed must be an integer"),
        ({"mask_ratio": 0.5}, ConfigError, "mask_ratio has no meaning"),
        ({"rows_per_call": 8, "steps": 3}, ConfigError, "takes no option rows_per_call, steps; it passes on latents,"),
        ({"time_grid": "cubic"}, ConfigError, "time_grid must be one of"),
        ({"is_padding": torch.zeros(3, LENGTH, dtype=torch.bool)}, ShapeError, "is_padding must have one row"),
        (
            {"score": "validation/nats"},
            ConfigError,
            "score must be one of validation/nats@2, validation/stderr@2, vali",
        ),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_options_that_do_not_fit_are_refused_before_training(options, error, message):
    with pytest.raises(error, match=message):
        BoundValidation(sequences(4), **{"num_steps": 2, **options})


def test_no_sequences_are_refused():
    with pytest.raises(DomainError, match="at least one sequence"):
        BoundValidation(sequences(0), num_steps=2)
    validation = BoundValidation(sequences(1), num_steps=2)
    with pytest.raises(DomainError, match="no process has any values"):
        validation.reduce(None, {"validation/nats@2": torch.zeros(0).double()})


def test_a_process_that_does_not_exist_is_refused():
    validation = BoundValidation(sequences(4), num_steps=2)
    with pytest.raises(DomainError, match=r"process_index must lie in \[0, num_processes\), got 2 of 2"):
        validation(*make_pair(), process_index=2, num_processes=2)
