"""With a latent, one step draws dependent tokens; without one it cannot."""

import pytest
import torch

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.objectives import LinearKL
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule

VOCAB, STEPS, BATCH = 2, 250, 128
SIZE = {"hidden_size": 32, "depth": 1, "embedding_size": 8, "modulation_size": 16}


def train(latent):
    """Train on two tokens of which the second copies the first."""
    torch.manual_seed(0)
    process = MaskingProcess(LinearSchedule(), VOCAB)
    model = VADDModel(MLPDenoiser(VOCAB, 2, latent, **SIZE), StandardNormalPrior(latent), process)
    guide = RecognitionGuide(MLPRecognition(VOCAB, 2, latent, **SIZE) if latent else EmptyRecognition())
    elbo = DELBO(process)
    loss_fn, warm_up = elbo(model, guide), LinearKL(STEPS // 2)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-2)
    for step in range(STEPS):
        elbo.kl_weight = warm_up(step)
        loss = loss_fn(torch.randint(VOCAB, (BATCH, 1)).expand(-1, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def agreement(model, **options):
    """How often the two tokens of a sample agree."""
    x = model.sample(4_000, generator=torch.Generator().manual_seed(1), **options)
    assert 0.3 < (x == 0).double().mean() < 0.7  # both values are drawn
    return float((x[:, 0] == x[:, 1]).double().mean())


@pytest.fixture(scope="module")
def vadd():
    return train(latent=1)


@pytest.fixture(scope="module")
def mdm():
    return train(latent=0)


def test_one_step_is_dependent_with_a_latent_and_at_chance_without(vadd, mdm):
    """Chance is 0.5, with a standard error of 0.008 over 4,000 samples."""
    assert agreement(vadd, num_steps=1) > 0.8
    assert abs(agreement(mdm, num_steps=1) - 0.5) < 0.05


def test_the_dependence_is_in_the_latent(vadd):
    """With the latent held fixed the tokens are independent given it: their product law."""
    x_t = torch.full((1, 2), VOCAB)
    z = vadd.prior(x_t, torch.ones(1)).sample((500,))
    probability = vadd.denoise(x_t, torch.ones(1), z).logits.softmax(-1)[:, 0, :, 0]
    assert probability[:, 0].std() > 0.25  # the latent decides which value it will be
    assert torch.corrcoef(probability.T)[0, 1] > 0.9  # of both tokens alike


def test_many_steps_are_dependent_with_and_without(vadd, mdm):
    """A step then reveals one token, and the second reads the first: about 1 - 1 / 32 agree at least."""
    for model in (vadd, mdm):
        assert agreement(model, num_steps=32) > 0.93
