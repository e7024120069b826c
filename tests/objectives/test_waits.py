"""On a GPU the host runs ahead of the device; it has to wait wherever a value decides a shape or a branch."""

import threading

import pytest
import torch

from vadd import MaskingProcess
from vadd._modes import checks_on
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition
from vadd.recipes import get_recipe
from vadd.schedules import LinearSchedule
from vadd.training import Trainer, TrainerConfig

from ..waits import Waits

TARGETS = ("aten::nonzero", "token_log_prob")


def counting(function, calls):
    """The function, which takes its calls down."""

    def counted(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return counted


def pair_of(name, vocab=50):
    latent_size = 0 if name == "mdm" else 8
    recipe = get_recipe(name)
    size = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    recognition = DiTRecognition(vocab, 12, latent_size, **size) if latent_size else EmptyRecognition()
    denoiser = DiTDenoiser(vocab, 12, latent_size, **size)
    return recipe, *recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), vocab))


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("name", ["mdm", "paper", "default"])
def test_loss_and_gradient_wait_once_for_the_number_of_targets(name, is_padded):
    torch.manual_seed(0)
    recipe, model, guide = pair_of(name)
    objective = recipe.objective(model.process)
    loss = objective(model, guide)
    is_padding = torch.arange(12) >= torch.tensor([12, 3, 7, 12, 1, 12])[:, None]
    x_0 = torch.randint(50, (6, 12))
    drawn = objective.draw(model, x_0, is_padding=is_padding if is_padded else None)
    with Waits() as waits, checks_on(False, of_pyro=True):
        loss(drawn).backward()
    assert waits.found == [TARGETS]
    with Waits() as waits:
        x_0[x_0 > 3]
    assert len(waits.found) == 1  # as this sees them


@pytest.mark.parametrize("name", ["mdm", "paper", "default"])
def test_an_update_waits_for_the_targets_and_for_the_gradients_norm(name, monkeypatch):
    recipe, model, guide = pair_of(name)
    # As on a GPU, where the first update alone is checked.
    monkeypatch.setattr("vadd.training.trainer.checks_on", lambda is_on, of_pyro: checks_on(False, of_pyro=True))
    x_0 = torch.randint(50, (24, 12))
    config = TrainerConfig(4, 6, log_every=1000, ema_decay=0.9)
    trainer = Trainer(model, guide, recipe.objective(model.process), x_0, config, progress=False)
    found, update = [], trainer._update

    def watched(*args):
        with Waits() as waits:
            update(*args)
        found.append(waits.found)

    monkeypatch.setattr(trainer, "_update", watched)
    trainer.fit()
    assert trainer.weights.average.n_averaged.device.type == "cpu"  # made without a device, wherever the weights are
    of_host = ("move", "updated")  # so that the host reads it
    assert [[w for w in waits if w[1] not in of_host] for waits in found[1:]] == [
        [
            *([("aten::_local_scalar_dense", "_uniform")] if name == "default" else []),
            TARGETS,
            ("aten::_local_scalar_dense", "_update"),
        ]
    ] * 3


def test_a_mixture_apportions_rows_without_a_draw_on_the_gpu():
    objective = get_recipe("default").objective(MaskingProcess(LinearSchedule(), 5))

    class OnGPU:
        """Knows its state, as a GPU's generator does; a draw with it would fail."""

        device = torch.device("cuda")

        def __init__(self, offset):
            self.offset = offset

        def get_state(self):
            return torch.tensor([7, 0, 0, 0, 0, 0, 0, 0, self.offset], dtype=torch.uint8)

    uniform = []
    for offset in range(200):
        objective.generator = OnGPU(offset)
        uniform.append(objective._uniform())
    objective.generator = OnGPU(3)
    assert objective._uniform() == uniform[3]
    counts = torch.histc(torch.tensor(uniform), 4, 0, 1)
    assert counts.sum() == 200
    assert counts.min() > 25  # 50 each; four standard deviations


@pytest.mark.parametrize("name", ["mdm", "paper", "default"])
def test_a_step_of_ancestral_sampling_waits_once_and_its_network_never(name, monkeypatch):
    _, model, _ = pair_of(name)
    monkeypatch.setattr("vadd.samplers.generation.checks_on", lambda is_on: checks_on(False))
    listed = []
    monkeypatch.setattr(torch.Tensor, "tolist", counting(torch.Tensor.tolist, listed))
    monkeypatch.setattr(torch.Tensor, "numpy", counting(torch.Tensor.numpy, listed))
    waits_of, lists_of = {}, {}
    for num_steps in (4, 9):
        listed.clear()
        with Waits() as waits:
            model.sample(3, num_steps=num_steps, progress=False)
        waits_of[num_steps], lists_of[num_steps] = waits.found, len(listed)
    assert lists_of[9] == lists_of[4]  # of what a call begins with
    assert len(waits_of[9]) - len(waits_of[4]) == 5
    assert sum(by == "logits_at" for _, by in waits_of[9]) == 9
    x_t, t, z = torch.full((3, 12), 50), torch.ones(3), torch.zeros(3, *model.latent_shape)
    with torch.no_grad(), Waits() as waits:
        model.denoiser.features(x_t, t, z)
    assert not waits.found


def test_checks_that_are_left_out_in_one_thread_stay_in_another():
    process = MaskingProcess(LinearSchedule(), 5)
    seen = []
    with checks_on(False):
        thread = threading.Thread(target=lambda: seen.append(process.checks_values))
        thread.start()
        thread.join()
        seen.append(process.checks_values)
        with checks_on(True):
            seen.append(process.checks_values)
    assert [*seen, process.checks_values, process.validate_args] == [True, False, False, True, True]
