"""On a GPU the host runs ahead of the device; it has to wait wherever a value decides a shape or a branch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vadd import MaskingProcess
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition
from vadd.recipes import get_recipe
from vadd.schedules import LinearSchedule
from vadd.training.nonfinite import checks_on

WAITING = ("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2", "aten::equal")


class Waits(TorchDispatchMode):
    """Notes the operations that make the host wait; to pick by flags is one, as it counts them."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        if name in WAITING or any(index is not None and index.dtype == torch.bool for index in indices):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("name", ["mdm", "paper", "default"])
def test_an_update_waits_once_for_the_number_of_targets(name, is_padded):
    torch.manual_seed(0)
    latent_size, vocab = (0 if name == "mdm" else 8), 50
    recipe = get_recipe(name)
    size = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    recognition = DiTRecognition(vocab, 12, latent_size, **size) if latent_size else EmptyRecognition()
    denoiser = DiTDenoiser(vocab, 12, latent_size, **size)
    model, guide = recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), vocab))
    objective = recipe.objective(model.process)
    loss = objective(model, guide)
    is_padding = torch.arange(12) >= torch.tensor([12, 3, 7, 12, 1, 12])[:, None]
    x_0 = torch.randint(vocab, (6, 12))
    drawn = objective.draw(model, x_0, is_padding=is_padding if is_padded else None)
    with Waits() as waits, checks_on(False, model.process):
        loss(drawn).backward()
    assert waits.names == ["aten::nonzero"]
    with Waits() as waits:
        x_0[x_0 > 3]
    assert len(waits.names) == 1  # as this sees them
