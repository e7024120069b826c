"""A denoiser of your own: a recurrent network, which takes sequences of any length.

The data are words of twelve letters that use two letters of six, such as ``accacaaaccca``. Trains masked diffusion
without a latent (MDM) and with one (VADD), both with :class:`GRUDenoiser`, and VADD with the library's perceptron, and
compares samples drawn in one step, the recurrent ones also at twice the length that they were trained on. Run
``python examples/custom_backbone.py``; it takes seconds, ``--smoke`` fewer.
"""

import argparse
import math
import string
import tempfile
from collections.abc import Sequence

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import LinearKL
from vadd.priors import StandardNormalPrior
from vadd.registry import register
from vadd.schedules import LinearSchedule
from vadd.testing import check_denoiser, kl_mode
from vadd.training import load_checkpoint, save_checkpoint
from vadd.types import Latents, Logits, Times, Tokens, as_latent_shape

NUM_LETTERS, LENGTH, OTHER_LENGTH, LATENT = 5, 12, 24, 6


@register
class GRUDenoiser(Denoiser):
    """Reads the tokens from both sides; the latent is added to every token's embedding.

    Its weight starts at zero: a fresh network is that of the plain masked diffusion model.
    """

    def __init__(self, vocab_size: int, latent_shape: int | Sequence[int] = 0, hidden_size: int = 48) -> None:
        super().__init__()
        self.vocab_size, self.latent_shape = vocab_size, as_latent_shape(latent_shape)
        self.embedding = nn.Embedding(vocab_size + 1, hidden_size)  # and the mask token
        self.read = nn.GRU(hidden_size, hidden_size, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden_size, vocab_size)
        if self.latent_shape.numel():
            self.latent = nn.Linear(self.latent_shape.numel(), hidden_size, bias=False)
            nn.init.zeros_(self.latent.weight)

    def forward(self, x_t: Tokens, t: Times, z: Latents) -> Logits:
        embedded = self.embedding(x_t)
        if self.latent_shape.numel():
            embedded = embedded + self.latent(z.flatten(1))[:, None]
        return self.head(self.read(embedded)[0])


def draw(num: int, length: int = LENGTH) -> Tensor:
    """Words of the data: two different letters, each position one of them."""
    pairs = torch.rand(num, NUM_LETTERS).argsort(-1)[:, :2]
    return pairs.gather(1, torch.randint(2, (num, length)))


def letters_used(x: Tensor) -> float:
    """Mean number of different letters in a word; 2 in the data."""
    return float(F.one_hot(x, NUM_LETTERS).any(1).sum(-1).double().mean())


def surprise(x_0: Tensor) -> float:
    """Mean of ``-log p(x_0)`` under the law of the data, in nats: no model's expected bound is lower."""
    num_pairs = NUM_LETTERS * (NUM_LETTERS - 1) / 2
    is_single = (x_0 == x_0[:, :1]).all(-1)  # a word of one letter has as many pairs as there are other letters
    count = torch.where(is_single, NUM_LETTERS - 1.0, 1.0).double()
    return float((LENGTH * math.log(2) + math.log(num_pairs) - count.log()).mean())


def train(denoiser: Denoiser, args: argparse.Namespace) -> tuple[VADDModel, RecognitionGuide]:
    """The same data, recognition network and number of updates for every denoiser."""
    latent_size = denoiser.latent_shape.numel()
    process = MaskingProcess(LinearSchedule(), NUM_LETTERS)
    model = VADDModel(denoiser, StandardNormalPrior(latent_size), process)
    size = {"hidden_size": 64, "depth": 1, "embedding_size": 8}
    guide = RecognitionGuide(
        MLPRecognition(NUM_LETTERS, LENGTH, latent_size, **size) if latent_size else EmptyRecognition()
    )
    objective = DELBO(process)
    loss_fn = objective(model, guide)
    optimizer = torch.optim.Adam(loss_fn.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_updates)
    kl_weight = LinearKL(max(1, round(0.8 * args.num_updates)))
    for step in range(args.num_updates):
        objective.kl_weight = kl_weight(step)
        optimizer.zero_grad()
        loss_fn(draw(args.batch_size)).backward()
        optimizer.step()
        schedule.step()
    return model.eval(), guide.eval()


def main(argv: list[str] | None = None) -> None:
    """Check the denoiser, train with it and without, compare, and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-updates", type=int, default=500, help="updates of each model")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_samples = 10, 50

    check_denoiser(GRUDenoiser(NUM_LETTERS, LATENT), num_tokens=LENGTH)
    check_denoiser(GRUDenoiser(NUM_LETTERS), num_tokens=LENGTH)
    print("GRUDenoiser keeps the contract of Denoiser, with a latent and without")

    torch.manual_seed(args.seed + 1)
    heldout = draw(args.num_samples)
    print("\nletters used by words sampled in one step; bound on the negative log-likelihood of that, nats")
    print(f"{'denoiser':<22}{'parameters':>10}{f'length {LENGTH}':>12}{f'length {OTHER_LENGTH}':>12}{'bound':>16}")
    examples = {}
    for name in ("GRUDenoiser, MDM", "MLPDenoiser, VADD", "GRUDenoiser, VADD"):
        pyro.set_rng_seed(args.seed)
        latent_size = LATENT if name.endswith("VADD") else 0
        denoiser = (
            GRUDenoiser(NUM_LETTERS, latent_size)
            if name.startswith("GRU")
            else MLPDenoiser(NUM_LETTERS, LENGTH, latent_size, hidden_size=64, depth=1, embedding_size=8)
        )
        model, guide = train(denoiser, args)
        cells = f"{name:<22}{sum(p.numel() for p in denoiser.parameters()):>10,}"
        for length in (LENGTH, OTHER_LENGTH):
            if denoiser.num_tokens in (None, length):
                x = model.sample(args.num_samples, num_steps=1, length=length)
                cells += f"{letters_used(x):>12.2f}"
            else:
                cells += f"{'-':>12}"
        bound = log_likelihood_bound(model, guide, heldout, bound="finite-step", num_steps=1, num_latents=16)
        print(f"{cells}{bound.nats:>9.2f} ± {bound.stderr:.2f}")
        examples[name] = model.sample(4, num_steps=1, length=LENGTH)
    print(f"{'the law of the data':<32}{2:>12.2f}{2:>12.2f}{surprise(heldout):>9.2f}")
    for name, x in examples.items():
        words = ("".join(string.ascii_lowercase[token] for token in row) for row in x.tolist())
        print(f"{name}: {', '.join(words)}")

    mode = kl_mode(guide.encode(heldout[:2]), model.prior(heldout[:2], torch.ones(2)))
    print(f"\nKL: {mode}")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, model, guide)
        restored = load_checkpoint(folder).model.denoiser
    print(f"loaded from a checkpoint: {type(restored).__name__} of latent shape {tuple(restored.latent_shape)}")


if __name__ == "__main__":
    main()
