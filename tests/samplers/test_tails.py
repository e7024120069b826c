"""Rare tokens and small reveal probabilities, with the vocabulary of GPT-2 under Zipf's law.

Shares are compared at 4.9 standard errors (false alarms below 1e-6 each). The mass of the 40,257 rarest tokens is
0.14: with 1,500 revealed positions a loss of half of it is caught with probability 0.999 (a gain with 0.995), with
6,000 (slow) one of a quarter (0.997). Drawn in float32 from one categorical over the tokens and "stays masked", tokens
are revealed 0.74 times as often as they should be at this reveal probability, and the tail has 0.4 times its mass.
"""

import pytest
import torch
from scipy import stats

from vadd import MaskingProcess, VADDModel
from vadd.backbones.base import FeatureDenoiser
from vadd.distributions import sample_categorical
from vadd.priors import StandardNormalPrior
from vadd.samplers import AncestralSampler, SamplerRun, SamplerState
from vadd.schedules import LinearSchedule

VOCAB, REVEAL = 50_257, 1e-3
BATCH, LENGTH = 300, 1_000


class ZipfDenoiser(FeatureDenoiser):
    """Every token has the probability of its rank; the head works in one dtype."""

    num_tokens = LENGTH

    def __init__(self, dtype):
        super().__init__()
        self.vocab_size, self.latent_shape = VOCAB, torch.Size([0])
        self.head = torch.nn.Linear(1, VOCAB, bias=False, dtype=dtype)
        with torch.no_grad():
            self.head.weight.copy_(-torch.arange(1, VOCAB + 1).double().log()[:, None])

    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        return torch.ones(*x_t.shape, 1, dtype=self.head.weight.dtype)


@pytest.mark.parametrize(
    ("dtype", "repeats"),
    [
        (torch.float32, 5),
        (torch.bfloat16, 5),
        *(pytest.param(dtype, 20, marks=pytest.mark.slow) for dtype in (torch.float32, torch.float64, torch.bfloat16)),
    ],
)
def test_tail_frequencies_are_those_of_the_logits(dtype, repeats):
    denoiser = ZipfDenoiser(dtype)
    model = VADDModel(denoiser, StandardNormalPrior(0), MaskingProcess(LinearSchedule(), VOCAB))
    theory = denoiser.head.weight.detach()[:, 0].double().softmax(0)  # of the rounded logits, in bfloat16
    sampler, revealed, num_trials = AncestralSampler(), [], 0
    with torch.no_grad():
        for seed in range(repeats):
            run = SamplerRun(
                model,
                start=torch.full((BATCH, LENGTH), VOCAB),
                grid=(1.0, 1 - REVEAL, 0.0),
                latents=lambda run, state, jump: state,
                generator=torch.Generator().manual_seed(seed),
            )
            x = sampler.step(run, SamplerState(run.start), run.jumps()[0]).x
            revealed.append(x[x != VOCAB])
            num_trials += x.numel()
    tokens = torch.cat(revealed)
    assert abs(len(tokens) / num_trials - REVEAL) < 4.9 * (REVEAL / num_trials) ** 0.5
    for first in (10_000, 1_000, 30_000):
        mass = float(theory[first:].sum())
        assert abs((tokens >= first).double().mean() - mass) < 4.9 * (mass * (1 - mass) / len(tokens)) ** 0.5
    # By bins of rank: chi-square at false-alarm rate 1e-6.
    edges = torch.cat([torch.arange(10), torch.logspace(1, torch.tensor(VOCAB).log10(), 30).long()]).unique()
    edges[-1] = VOCAB
    bins = torch.bucketize(torch.arange(VOCAB), edges, right=True)
    expected = torch.zeros(int(bins.max()) + 1, dtype=torch.float64).index_add(0, bins, theory) * len(tokens)
    observed = bins[tokens].bincount(minlength=len(expected)).double()
    kept = expected > 0
    value = float(((observed - expected)[kept] ** 2 / expected[kept]).sum())
    assert value < stats.chi2.isf(1e-6, int(kept.sum()) - 1)


@pytest.mark.parametrize("vocab", [5, 256, 511, 513, 2_000, 50_257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_draws_are_the_inversion_of_the_cumulative_distribution(vocab, dtype):
    """The same token as one float64 running sum gives, but where a uniform lies within rounding of a boundary."""
    generator = torch.Generator().manual_seed(vocab)
    logits = (3 * torch.randn(400, vocab, generator=generator)).to(dtype)
    logits[:, ::3] = -torch.inf
    cumulative = logits.double().softmax(-1).cumsum(-1)
    uniform = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    drawn = sample_categorical(logits, generator=torch.Generator().manual_seed(1))
    assert (drawn == expected).double().mean() > 0.99
    assert (drawn % 3 != 0).all()
    for other in (logits + 100, logits - 100):  # a constant changes nothing but rounding
        assert (sample_categorical(other, generator=torch.Generator().manual_seed(1)) % 3 != 0).all()


@pytest.mark.parametrize("vocab", [3, 700])
def test_impossible_logits_give_no_token(vocab):
    for value in (torch.nan, -torch.inf, torch.inf):
        assert (sample_categorical(torch.full((2, vocab), value)) == vocab).all()
    some = torch.zeros(2, vocab)
    some[1, vocab // 2] = torch.nan
    drawn = sample_categorical(some)
    assert drawn[0] < vocab
    assert drawn[1] == vocab
    assert sample_categorical(torch.zeros(0, vocab)).shape == (0,)
