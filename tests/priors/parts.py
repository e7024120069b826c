"""Priors to test, by name, and tiny networks with latents of any shape."""

import pyro.distributions as dist
import torch
from torch import nn

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Denoiser, FeatureDenoiser, Recognition, diagonal_normal
from vadd.priors import (
    CategoricalPrior,
    ConditionalCategoricalPrior,
    ConditionalPrior,
    FlowPrior,
    MixturePrior,
    StandardNormalPrior,
    TrunkPrior,
    VampPrior,
    ZukoPrior,
)
from vadd.schedules import LinearSchedule

NETWORK = {"hidden_size": 16, "depth": 1, "modulation_size": 8}


class TinyDenoiser(FeatureDenoiser):
    """Logits ``a + b sin z + c cos z`` from tables with one entry for each ``x_t``."""

    def __init__(self, vocab_size, num_tokens, latent_shape, *, scale=1.0, seed=0):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = vocab_size, num_tokens, torch.Size(latent_shape)
        rows = (vocab_size + 1) ** num_tokens
        self.table = nn.Parameter(scale * random((rows, num_tokens, vocab_size), seed))
        self.waves = nn.Parameter(
            scale * random((rows, 2 * self.latent_shape.numel(), num_tokens, vocab_size), seed + 1)
        )
        self.head = nn.Linear(vocab_size, vocab_size, bias=False).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(vocab_size))

    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        row = number(x_t, self.vocab_size + 1, is_padding)
        flat = z.flatten(1).double()
        waves = torch.cat([flat.sin(), flat.cos()], -1)
        return self.table[row] + torch.einsum("bk,bknv->bnv", waves, self.waves[row])


class TinyRecognition(Recognition):
    """Diagonal normal, or one-hot, from a table with one entry for each pair of tokens and target."""

    def __init__(self, vocab_size, num_tokens, latent_shape, *, is_discrete=False, scale=0.7, seed=0):
        super().__init__()
        self.vocab_size, self.latent_shape, self.is_discrete = vocab_size, torch.Size(latent_shape), is_discrete
        rows = ((vocab_size + 1) ** num_tokens, 2**num_tokens)
        self.table = nn.Parameter(scale * random((*rows, 1 if is_discrete else 2, *latent_shape), seed))

    def forward(self, tokens, target, t, *, is_padding=None, condition=None):
        row = number(tokens, self.vocab_size + 1, is_padding)
        entry = self.table[row, number(target.long(), 2, is_padding)]
        if self.is_discrete:
            one_hot = dist.OneHotCategoricalStraightThrough(logits=entry[:, 0])
            return one_hot.to_event(len(self.latent_shape) - 1)
        return diagonal_normal(entry[:, 0], entry[:, 1])


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(tokens, base, is_padding=None):
    """Rows of tokens read as digits; padding counts as 0."""
    if is_padding is not None:
        tokens = tokens.masked_fill(is_padding, 0)
    return (tokens * base ** torch.arange(tokens.shape[1])).sum(-1)


def perturb(part, strength, seed=0):
    """Move every parameter of a part, so that nothing is at its start."""
    with torch.no_grad():
        for i, p in enumerate(part.parameters()):
            p.add_(strength * random(p.shape, seed + i).to(p.dtype))
    return part


# Priors on tiny models: two components (or two groups) unless the name says otherwise; in float64.
def _conditional(vocab, tokens):
    return ConditionalPrior(TinyRecognition(vocab, tokens, (2,), seed=5), vocab)


def _conditional_discrete(vocab, tokens):
    return ConditionalCategoricalPrior(TinyRecognition(vocab, tokens, (2, 3), is_discrete=True, seed=5), vocab)


def _trunk(vocab, tokens):
    return TrunkPrior((2,), vocab, hidden_size=4).attach(TinyDenoiser(vocab, tokens, (2,), seed=6))


def _vamp(vocab, tokens):
    recognition = TinyRecognition(vocab, tokens, (2,), seed=7)
    return VampPrior.from_data(recognition, torch.randint(vocab, (5, tokens)), 3)


def _vamp_discrete(vocab, tokens):
    recognition = TinyRecognition(vocab, tokens, (2, 3), is_discrete=True, seed=7)
    return VampPrior.from_data(recognition, torch.randint(vocab, (5, tokens)), 3)


TINY = {
    "normal": lambda vocab, tokens: StandardNormalPrior(2),
    "normal, two axes": lambda vocab, tokens: StandardNormalPrior((2, 1)),
    "conditional": _conditional,
    "trunk": _trunk,
    "mixture": lambda vocab, tokens: MixturePrior(2, 3),
    "mixture, two axes": lambda vocab, tokens: MixturePrior((1, 2), 3, learns_weights=False),
    "vamp": _vamp,
    "affine flow": lambda vocab, tokens: FlowPrior((2, 1), num_layers=2, hidden_size=8, num_bins=1),
    "flow": lambda vocab, tokens: FlowPrior(2, num_layers=2, hidden_size=8, num_bins=4),
    "flow of one component": lambda vocab, tokens: FlowPrior(1, num_layers=2, hidden_size=8, num_bins=4),
    "zuko": lambda vocab, tokens: ZukoPrior(2, "MAF", num_layers=2, hidden_sizes=(8,)),
    "categorical": lambda vocab, tokens: CategoricalPrior((2, 3)),
    "categorical, one group": lambda vocab, tokens: CategoricalPrior(4),
    "conditional categorical": _conditional_discrete,
    "vamp categorical": _vamp_discrete,
}
DISCRETE = [name for name in TINY if "categorical" in name]
CONTINUOUS = [name for name in TINY if name not in DISCRETE]
READS_TOKENS = [name for name in TINY if name.startswith(("conditional", "trunk"))]


def tiny_prior(name, vocab=2, tokens=2, *, strength=0.3, seed=0):
    """A prior moved away from its start, in float64."""
    if name == "zuko":
        strength = strength / 3  # its layers amplify one another
    return perturb(TINY[name](vocab, tokens).double(), strength, seed)


def tiny_pair(name, vocab=2, tokens=2, *, scale=1.0, seed=0, explains="masked"):
    """A model with such a prior, and a random guide of the same kind of latent."""
    prior = tiny_prior(name, vocab, tokens, seed=seed)
    denoiser = TinyDenoiser(vocab, tokens, prior.latent_shape, scale=scale, seed=seed + 10)
    recognition = TinyRecognition(vocab, tokens, prior.latent_shape, is_discrete=name in DISCRETE, seed=seed + 20)
    model = VADDModel(denoiser, prior, MaskingProcess(LinearSchedule(), vocab))
    return model, RecognitionGuide(recognition, explains=explains)


# Priors with the library's networks, in float32.
VOCAB, LENGTH = 4, 6


def _real_trunk(shape):
    if len(shape) == 1:
        return TrunkPrior(shape, 16).attach(MLPDenoiser(VOCAB, LENGTH, shape, **NETWORK))
    denoiser = DiTDenoiser(VOCAB, LENGTH, shape, num_heads=2, **NETWORK)
    return TrunkPrior(shape, 16, per_position=True).attach(denoiser)


def recognition_of(shape, **options):
    if len(shape) == 1:
        return MLPRecognition(VOCAB, LENGTH, shape, **NETWORK, **options)
    return DiTRecognition(VOCAB, LENGTH, shape, num_heads=2, **NETWORK, **options)


def _real_vamp(shape):
    is_padding = torch.zeros(9, LENGTH, dtype=torch.bool)
    is_padding[:, 4:] = True
    x_0 = torch.randint(VOCAB, (9, LENGTH))
    return VampPrior.from_data(recognition_of(shape), x_0, 5, is_padding=is_padding)


REAL = {
    "normal": StandardNormalPrior,
    "conditional": lambda shape: ConditionalPrior(recognition_of(shape), VOCAB),
    "trunk": _real_trunk,
    "mixture": lambda shape: MixturePrior(shape, 4),
    "mixture of equal weights": lambda shape: MixturePrior(shape, 4, learns_weights=False),
    "vamp": _real_vamp,
    "flow": lambda shape: FlowPrior(shape, num_layers=3, hidden_size=8),
    "affine flow": lambda shape: FlowPrior(shape, num_layers=3, hidden_size=8, num_bins=1),
    "zuko": lambda shape: ZukoPrior(shape, num_layers=2, hidden_sizes=(8,)),
    "zuko, affine": lambda shape: ZukoPrior(shape, "MAF", num_layers=2, hidden_sizes=(8,), passes=None),
    "categorical": CategoricalPrior,
    "uniform": lambda shape: CategoricalPrior(shape, is_learned=False),
    "conditional categorical": lambda shape: ConditionalCategoricalPrior(_one_hot(shape), VOCAB),
}
SHAPES = [(1,), (3,), (LENGTH, 2)]


class _OneHot(Recognition):
    """A one-hot network out of a normal one."""

    def __init__(self, shape):
        super().__init__()
        self.latent_shape = torch.Size(shape)
        self.network = recognition_of(shape)

    def forward(self, tokens, target, t, **options):
        logits = self.network(tokens, target, t, **options)
        logits = logits.mean + logits.stddev.log()
        return dist.OneHotCategoricalStraightThrough(logits=logits).to_event(logits.ndim - 2)


def _one_hot(shape):
    return _OneHot(shape)


def real_priors(*, names=None):
    """Every prior with every shape that makes sense for it."""
    return [
        (name, shape)
        for name in names or REAL
        for shape in SHAPES
        if not (shape == (1,) and ("categorical" in name or name == "uniform"))
    ]


class PlainDenoiser(Denoiser):
    """A denoiser without features."""

    vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([3])

    def forward(self, x_t, t, z, **options):
        return torch.zeros(*x_t.shape, VOCAB)
