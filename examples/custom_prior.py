"""A prior of your own: each component of the latent is a switch, down or up.

The data are four blocks of four bits; the bits of a block agree, but for one in twenty that is flipped. Four
switches explain all dependence, and :class:`SwitchPrior` says so. Trains the same networks with it and with the
standard normal prior for sampling in one step, and compares their bounds with the truth. Run
``python examples/custom_prior.py``; it takes seconds, ``--smoke`` fewer.
"""

import argparse
import math
import tempfile

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vadd import FiniteStepELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.evaluation import log_likelihood_bound
from vadd.objectives import LinearKL
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.registry import register
from vadd.schedules import LinearSchedule
from vadd.testing import check_prior, kl_mode
from vadd.training import load_checkpoint, save_checkpoint
from vadd.types import Distribution, Times, Tokens

NUM_BLOCKS, BLOCK_SIZE, FLIP = 4, 4, 0.05
NUM_TOKENS = NUM_BLOCKS * BLOCK_SIZE


@register
class SwitchPrior(LatentPrior):
    """Independent components, each a mixture of two normals about ``-loc`` and ``loc``.

    With ``d`` components it has ``2 ** d`` modes and ``2 d`` parameters. It starts with mean 0 and variance 1.
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_shape = torch.Size([latent_size])
        self.loc = nn.Parameter(torch.full((latent_size,), 0.8))
        self.log_scale = nn.Parameter(torch.full((latent_size,), math.log(0.6)))

    def forward(self, x_t: Tokens, t: Times) -> Distribution:
        batch, (size,) = x_t.shape[0], self.latent_shape
        loc = torch.stack([-self.loc, self.loc], -1).float().expand(batch, size, 2)
        scale = self.log_scale[:, None].float().exp().expand_as(loc)
        weights = dist.Categorical(logits=torch.zeros_like(loc), validate_args=False)
        normals = dist.Normal(loc, scale, validate_args=False)
        return dist.MixtureSameFamily(weights, normals, validate_args=False).to_event(1)


def draw(num: int) -> Tensor:
    """Sequences of the data."""
    switches = torch.randint(2, (num, NUM_BLOCKS, 1)).expand(-1, -1, BLOCK_SIZE)
    is_flipped = torch.rand(num, NUM_BLOCKS, BLOCK_SIZE) < FLIP
    return (switches ^ is_flipped.long()).flatten(1)


def surprise(x_0: Tensor) -> float:
    """Mean of ``-log p(x_0)`` under the law of the data, in nats: no model's expected bound is lower."""
    ups = x_0.reshape(-1, NUM_BLOCKS, BLOCK_SIZE).sum(-1).double()
    up, down = ((1 - FLIP) ** k * FLIP ** (BLOCK_SIZE - k) for k in (ups, BLOCK_SIZE - ups))
    return float(-((up + down) / 2).log().sum(1).mean())


def train(prior: LatentPrior, args: argparse.Namespace) -> tuple[VADDModel, RecognitionGuide]:
    """The same networks, data and number of updates for every prior."""
    pyro.set_rng_seed(args.seed)
    size = {"hidden_size": 64, "depth": 1, "embedding_size": 8, "modulation_size": 32}
    latent_size = prior.latent_shape.numel()
    process = MaskingProcess(LinearSchedule(), 2)
    model = VADDModel(MLPDenoiser(2, NUM_TOKENS, latent_size, **size), prior, process)
    guide = RecognitionGuide(MLPRecognition(2, NUM_TOKENS, latent_size, **size))
    objective = FiniteStepELBO(process, num_steps=1)
    loss_fn = objective(model, guide)
    optimizer = torch.optim.Adam(loss_fn.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_updates)
    kl_weight = LinearKL(max(1, args.num_updates // 2))
    for step in range(args.num_updates):
        objective.kl_weight = kl_weight(step)
        optimizer.zero_grad()
        loss_fn(draw(args.batch_size)).backward()
        optimizer.step()
        schedule.step()
    return model.eval(), guide.eval()


def main(argv: list[str] | None = None) -> None:
    """Check the prior, train with it and without, compare, and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-updates", type=int, default=400, help="updates of each model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-heldout", type=int, default=2000, help="sequences on which bounds are evaluated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_heldout = 10, 50

    check_prior(SwitchPrior(NUM_BLOCKS), vocab_size=2, num_tokens=NUM_TOKENS)
    print("SwitchPrior keeps the contract of LatentPrior")

    torch.manual_seed(args.seed + 1)
    heldout = draw(args.num_heldout)
    print("\nnegative log-likelihood of held-out sequences, nats: upper bounds for sampling in one step")
    print(f"{'prior':<22}{'KL':<14}{'1 latent':>15}{'64 latents':>15}")
    for prior in (StandardNormalPrior(NUM_BLOCKS), SwitchPrior(NUM_BLOCKS)):
        model, guide = train(prior, args)
        ones = torch.ones(2)
        mode = kl_mode(guide.encode(heldout[:2]), prior(heldout[:2], ones))
        cells = ""
        for num_latents in (1, 64):
            bound = log_likelihood_bound(
                model, guide, heldout, bound="finite-step", num_steps=1, num_latents=num_latents
            )
            cells += f"{bound.nats:>8.2f} ± {bound.stderr:.2f}"
        print(f"{type(prior).__name__:<22}{mode:<14}{cells}")
    print(f"{'the law of the data':<36}{surprise(heldout):>8.2f}")

    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, model, guide)
        restored = load_checkpoint(folder).model.prior
    print(f"\nloaded from a checkpoint: {type(restored).__name__} with switches at ±{restored.loc.tolist()}")


if __name__ == "__main__":
    main()
