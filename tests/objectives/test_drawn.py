"""A batch may be drawn once and worked on in parts."""

import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.errors import ConfigError
from vadd.objectives import DELBO, FiniteStepELBO, MixedELBO, NullLatentELBO, SharedLatentELBO, StepLaw
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule

PROCESS = MaskingProcess(LinearSchedule(), 3)
LAW = StepLaw((1, 2, None), (0.4, 0.3, 0.3))
OBJECTIVES = {
    "delbo": DELBO(PROCESS),
    "steps": FiniteStepELBO(PROCESS, 4),
    "shared": SharedLatentELBO(PROCESS, LAW),
    "null": NullLatentELBO(PROCESS),
    "mixed": MixedELBO([(SharedLatentELBO(PROCESS, LAW), 0.7), (NullLatentELBO(PROCESS), 0.3)]),
}


def pair():
    torch.manual_seed(0)
    size = {"hidden_size": 8, "depth": 1, "embedding_size": 2}
    denoiser = MLPDenoiser(3, 4, 2, num_classes=2, **size).double()
    recognition = MLPRecognition(3, 4, 2, num_classes=2, **size).double()
    for parameter in [*denoiser.parameters(), *recognition.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    model = VADDModel(denoiser, StandardNormalPrior(2), PROCESS, latent_dropout=0.2)
    return model, RecognitionGuide(recognition)


def options():
    is_padding = torch.zeros(8, 4, dtype=torch.bool)
    is_padding[::3, 3] = True
    return {"is_padding": is_padding, "condition": torch.arange(8) % 2}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_of_a_drawn_batch_is_the_loss_of_the_tokens(name):
    model, guide = pair()
    objective, x_0 = OBJECTIVES[name], torch.arange(32).reshape(8, 4) % 3
    loss = objective(model, guide)

    def seeded(function):
        torch.manual_seed(1)
        return function()

    whole = seeded(lambda: loss(x_0, **options()))
    drawn = seeded(lambda: loss(objective.draw(model, x_0, **options())))
    assert drawn.item() == whole.item()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_mean_over_equal_parts(name, monkeypatch):
    # Without noise in the latent, so that only times, masks and weights count.
    model, guide = pair()
    monkeypatch.setattr(torch.Tensor, "normal_", torch.Tensor.zero_)
    objective, x_0 = OBJECTIVES[name], torch.arange(32).reshape(8, 4) % 3
    loss = objective(model, guide)
    drawn = objective.draw(model, x_0, **options())
    parts = [loss(drawn.rows(slice(k, k + 2))) for k in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(drawn), rtol=1e-12, atol=1e-12)


def test_rows_keep_every_field():
    objective = OBJECTIVES["mixed"]
    model, _ = pair()
    drawn = objective.draw(model, torch.zeros(8, 4, dtype=torch.int64), **options())
    part = drawn.rows(slice(3, 5))
    for name, value in vars(drawn.batch).items():
        own = getattr(part.batch, name)
        assert (own is None) == (value is None), name
        if value is not None:
            assert torch.equal(own, value[3:5]) or (own.isnan() == value[3:5].isnan()).all(), name
    assert torch.equal(part.weights.latent, drawn.weights.latent[3:5])


def test_a_drawn_batch_takes_nothing_beside_it():
    model, guide = pair()
    batch = OBJECTIVES["delbo"].draw(model, torch.randint(3, (8, 4)))
    with pytest.raises(ConfigError, match="holds all that the rows have; give is_padding to draw"):
        OBJECTIVES["delbo"](model, guide)(batch, **{"is_padding": torch.zeros(8, 4, dtype=torch.bool)})
