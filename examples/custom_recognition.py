"""A recognition network of your own: it counts the tokens and does not care where they stand.

The data are bags of forty tokens: one of four topics is drawn, then each token from the topic's law, so that their
order means nothing. :class:`BagRecognition` knows that; the library's perceptron has to learn it. Trains a model, then
fits both networks to it on a few sequences only, and compares bounds for sampling in one step, on these and on others.
Run ``python examples/custom_recognition.py``; it takes seconds, ``--smoke`` fewer.
"""

import argparse
import tempfile

import pyro
import torch
from torch import Tensor, nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition, Recognition, diagonal_normal
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import LinearKL
from vadd.priors import StandardNormalPrior
from vadd.registry import register
from vadd.schedules import LinearSchedule
from vadd.testing import check_recognition, kl_mode
from vadd.training import load_checkpoint, save_checkpoint
from vadd.types import Distribution, Flags, Times, Tokens

VOCAB_SIZE, LENGTH, NUM_TOPICS, LATENT = 8, 40, 4, 4


@register
class BagRecognition(Recognition):
    """Sums a vector for each token, one table for those to explain and one for those that are known.

    References:
        Zaheer et al., "Deep Sets", arXiv 1703.06114.
    """

    def __init__(self, vocab_size: int, latent_size: int, hidden_size: int = 64) -> None:
        super().__init__()
        self.latent_shape = torch.Size([latent_size])
        self.explained = nn.Embedding(vocab_size + 1, hidden_size)  # and the mask token
        self.known = nn.Embedding(vocab_size + 1, hidden_size)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.loc = nn.Linear(hidden_size, latent_size)
        self.log_variance = nn.Linear(hidden_size, latent_size)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.zeros_(self.log_variance.bias)

    def forward(self, tokens: Tokens, target: Flags, t: Times) -> Distribution:
        vectors = torch.where(target[..., None], self.explained(tokens), self.known(tokens))
        summary = torch.relu(vectors.sum(1) / tokens.shape[1] ** 0.5)
        summary = torch.relu(self.hidden(summary))
        return diagonal_normal(self.loc(summary), self.log_variance(summary))


def topics() -> Tensor:
    """Log-probabilities of the tokens in each topic, shape ``(topics, vocab)``: two tokens are frequent in each."""
    logits = torch.zeros(NUM_TOPICS, VOCAB_SIZE)
    for k in range(NUM_TOPICS):
        logits[k, 2 * k : 2 * k + 2] = 2.0
    return logits.log_softmax(-1)


def draw(num: int) -> Tensor:
    """Sequences of the data."""
    topic = torch.randint(NUM_TOPICS, (num,))
    return torch.multinomial(topics().exp()[topic], LENGTH, replacement=True)


def surprise(x_0: Tensor) -> float:
    """Mean of ``-log p(x_0)`` under the law of the data, in nats: no model's expected bound is lower."""
    by_topic = topics().double()[:, x_0].sum(-1)
    return float(-(by_topic.logsumexp(0) - torch.tensor(NUM_TOPICS).log()).mean())


def train(
    trained: nn.Module, model: VADDModel, guide: RecognitionGuide, data: Tensor, args: argparse.Namespace
) -> None:
    """Optimize the trained part of model and guide; the rest stays."""
    objective = DELBO(model.process)
    loss_fn = objective(model, guide)
    optimizer = torch.optim.Adam(trained.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_updates)
    kl_weight = LinearKL(max(1, round(0.8 * args.num_updates)))
    for step in range(args.num_updates):
        objective.kl_weight = kl_weight(step)
        optimizer.zero_grad()
        loss_fn(data[torch.randint(len(data), (args.batch_size,))]).backward()
        optimizer.step()
        schedule.step()


def main(argv: list[str] | None = None) -> None:
    """Check the network, train with it, compare it with a perceptron, and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-updates", type=int, default=400, help="updates of the model, and of each network")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-train", type=int, default=5000, help="sequences to train the model on")
    parser.add_argument("--num-few", type=int, default=100, help="sequences to fit the networks on")
    parser.add_argument("--num-heldout", type=int, default=2000, help="sequences to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_heldout = 10, 50

    check_recognition(BagRecognition(VOCAB_SIZE, LATENT), VOCAB_SIZE, LENGTH)
    print("BagRecognition keeps the contract of Recognition")

    pyro.set_rng_seed(args.seed)
    data, heldout = draw(args.num_train), draw(args.num_heldout)
    few = data[: args.num_few]
    denoiser = MLPDenoiser(VOCAB_SIZE, LENGTH, LATENT, hidden_size=32, depth=1, embedding_size=4, feature_size=8)
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), MaskingProcess(LinearSchedule(), VOCAB_SIZE))
    guide = RecognitionGuide(BagRecognition(VOCAB_SIZE, LATENT))
    train(nn.ModuleList([model, guide]), model, guide, data, args)

    print("\none model, two recognition networks fitted to it: bounds on the negative log-likelihood of sampling in")
    print("one step, nats, with 1 latent and 64")
    print(f"{'recognition':<18}{'parameters':>10}{'KL':>12}{'fitted on':>16}{'held out':>16}{'held out, 64':>16}")
    heldout_nats = []
    for recognition in (
        MLPRecognition(VOCAB_SIZE, LENGTH, LATENT, hidden_size=64, depth=1, embedding_size=8),
        BagRecognition(VOCAB_SIZE, LATENT),
    ):
        guide = RecognitionGuide(recognition)
        train(guide, model, guide, few, args)
        mode = kl_mode(guide.encode(heldout[:2]), model.prior(heldout[:2], torch.ones(2)))
        cells = f"{type(recognition).__name__:<18}{sum(p.numel() for p in recognition.parameters()):>10,}{mode:>12}"
        for rows, num_latents in ((few, 1), (heldout, 1), (heldout, 64)):
            bound = log_likelihood_bound(model, guide, rows, bound="finite-step", num_steps=1, num_latents=num_latents)
            cells += f"{bound.nats:>9.2f} ± {bound.stderr:.2f}"
            if rows is heldout and num_latents == 1:
                heldout_nats.append(bound.nats_per_sequence)
        print(cells)
    print(f"{'the law of the data':<40}{surprise(few):>9.2f}{surprise(heldout):>16.2f}{surprise(heldout):>16.2f}")

    gain = heldout_nats[0] - heldout_nats[1]  # the same sequences and masks
    print(f"BagRecognition is {gain.mean():.2f} ± {gain.std() / len(gain) ** 0.5:.2f} nats tighter with 1 latent")

    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, model, guide)
        restored = load_checkpoint(folder).guide
    shuffled = heldout[:1, torch.randperm(LENGTH)]
    distance = (restored.encode(heldout[:1]).mean - restored.encode(shuffled).mean).abs().max()
    print(f"\nloaded from a checkpoint: {type(restored.recognition).__name__}, {distance:.1e} off for shuffled tokens")


if __name__ == "__main__":
    main()
