"""What a denoiser shares with other parts, and how they hold it."""

import pytest
import torch
from torch import nn

from vadd.backbones import Denoiser, DiTDenoiser, FeatureDenoiser, MLPDenoiser
from vadd.backbones.sharing import SharesDenoiser
from vadd.errors import ConfigError
from vadd.testing import TabularDenoiser

VOCAB, LENGTH, BATCH = 5, 4, 3
SMALL = {"hidden_size": 16, "depth": 2, "modulation_size": 8}


class Part(SharesDenoiser, nn.Module):
    """A part with nothing of its own."""


class Bare(FeatureDenoiser):
    """Features by one embedding, and the head given."""

    latent_shape = torch.Size([2])

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.vocab_size, self.num_tokens = VOCAB, LENGTH
        self.embedding, self.head = nn.Embedding(VOCAB + 1, 6), head

    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        return self.embedding(x_t) + z.sum(-1)[:, None, None]


def inputs(latent=2):
    return torch.randint(VOCAB + 1, (BATCH, LENGTH)), torch.rand(BATCH), torch.randn(BATCH, latent)


@pytest.mark.parametrize(
    ("denoiser", "positions"),
    [(MLPDenoiser(VOCAB, LENGTH, 2, **SMALL), 1), (DiTDenoiser(VOCAB, LENGTH, 2, **SMALL), LENGTH)],
    ids=["mlp", "dit"],
)
def test_the_context_is_the_output_of_the_trunk(denoiser, positions):
    context = denoiser.context(*inputs())
    assert context.shape == (BATCH, positions, denoiser.context_size)
    assert denoiser.context_size == SMALL["hidden_size"]
    torch.testing.assert_close(context.mean(-1), torch.zeros(BATCH, positions), rtol=0, atol=1e-6)  # ends in a norm


def test_by_default_the_context_is_the_features_and_as_wide_as_the_head_reads():
    denoiser, (x_t, t, z) = Bare(nn.Linear(6, VOCAB)), inputs()
    assert torch.equal(denoiser.context(x_t, t, z), denoiser.features(x_t, t, z))
    assert denoiser.context_size == 6


def test_a_head_of_another_kind_leaves_the_width_to_the_network():
    with pytest.raises(ConfigError, match="override the property context_size"):
        _ = Bare(nn.Sequential(nn.Linear(6, VOCAB))).context_size


def test_a_part_reads_the_context_at_latent_zero_and_holds_no_weights():
    denoiser, (x_t, t, z) = Bare(nn.Linear(6, VOCAB)), inputs()
    part = Part().attach(denoiser)
    assert torch.equal(part.shared_context(x_t, t), denoiser.context(x_t, t, torch.zeros_like(z)))
    assert part.denoiser is denoiser
    assert not list(part.parameters())
    assert not part.state_dict()
    assert not list(part.children())


def test_a_part_without_a_denoiser_or_with_one_without_features_is_refused():
    with pytest.raises(ConfigError, match="call attach"):
        Part().shared_context(*inputs()[:2])
    plain: Denoiser = TabularDenoiser(VOCAB, 2)
    with pytest.raises(ConfigError, match="FeatureDenoiser, got TabularDenoiser"):
        Part().attach(plain)
