"""The objective as a Pyro program against a loss written by hand, and Pyro's SVI."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pyro
import torch
from throughput_shared import Bench
from torch import Tensor, nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition
from vadd.data import load_digits_tokens
from vadd.distributions.projection import token_scores
from vadd.priors import StandardNormalPrior
from vadd.recipes import Pair, get_recipe
from vadd.schedules import LinearSchedule

# What follows is found through throughput_shared.
# isort: split
import digits_svi
from measuring import LEARNING_RATE, Step, TrainingStep, goal

VOCAB_SIZES = (27, 30_522)
LENGTH = 128
GOAL = 1.03  # of the Pyro step's time to that of plain PyTorch, for the transformer


@dataclasses.dataclass(frozen=True)
class Workload:
    """A pair of networks, built anew at each call, and a batch to train them on."""

    name: str
    x_0: Tensor
    latent_size: int
    build: Callable[[], Pair]
    goal: float | None = None


def transformer_workload(batch_size: int, vocab_size: int, *, is_small: bool) -> Workload:
    """Transformers on random tokens; small ones to see that everything runs."""
    latent_size = 64
    size = (
        {"hidden_size": 32, "depth": 2, "num_heads": 2, "modulation_size": 16}
        if is_small
        else {"hidden_size": 384, "depth": 6, "num_heads": 6}
    )

    def build() -> Pair:
        denoiser = DiTDenoiser(vocab_size, LENGTH, latent_size, **size)
        recognition = DiTRecognition(vocab_size, LENGTH, latent_size, **size)
        model = VADDModel(denoiser, StandardNormalPrior(latent_size), MaskingProcess(LinearSchedule(), vocab_size))
        return Pair(model, RecognitionGuide(recognition))

    name = f"DiT {size['depth']} x {size['hidden_size']}"
    x_0 = torch.randint(vocab_size, (batch_size, LENGTH))
    return Workload(name, x_0, latent_size, build, goal=None if is_small else GOAL)


def digits_workload(batch_size: int) -> Workload:
    """The networks of the digits example."""
    data, latent_size = load_digits_tokens(), 16
    recipe = get_recipe("paper")
    return Workload(
        "digits MLP", data.train[:batch_size], latent_size, lambda: digits_svi.build(data, recipe, latent_size)
    )


class PlainLoss(nn.Module):
    """The training loss written by hand for the linear schedule and a standard normal prior.

    It uses the two networks and the projection on the vocabulary alone: no Pyro program, trace or estimator, and none
    of the library's model, process and objective. Random numbers are drawn in the library's order.
    """

    def __init__(self, model: VADDModel, guide: RecognitionGuide) -> None:
        super().__init__()
        self.denoiser, self.recognition = model.denoiser, guide.recognition
        self.mask_id = model.process.mask_id

    def forward(self, x_0: Tensor) -> Tensor:
        batch, dim = x_0.shape
        exact: dict[str, Any] = {"dtype": torch.float64, "device": x_0.device}
        # As many masked tokens as a uniform draw from 1..dim says, stratified over the batch in random order.
        shift = torch.rand((), **exact)
        grid = torch.arange(batch, **exact) / batch
        uniform = torch.remainder(grid + shift, 1.0)[torch.randperm(batch, device=x_0.device)]
        counts = (1 + (uniform * dim).long()).clamp(max=dim)
        noise = torch.rand(x_0.shape, **exact)
        threshold = noise.sort(-1).values.gather(-1, counts[:, None] - 1)
        is_masked = noise <= threshold
        x_t = x_0.masked_fill(is_masked, self.mask_id)
        t = threshold[:, 0].float()
        weight = dim / counts

        posterior = self.recognition(x_0, is_masked, t).base_dist
        z = posterior.loc + posterior.scale * torch.randn_like(posterior.loc)
        variance = posterior.scale**2
        kl = 0.5 * (variance + posterior.loc**2 - 1 - variance.log()).sum(-1)

        features = self.denoiser.features(x_t, t, z)
        surprise = -token_scores(features[is_masked], self.denoiser.head, x_0[is_masked], self.mask_id)
        weights = weight[:, None].expand(batch, dim)[is_masked]
        return ((weights * surprise).sum() + (weight * kl).sum()) / batch


def assert_same_loss(workload: Workload, model: VADDModel, guide: RecognitionGuide, seed: int) -> float:
    """Compare loss and gradients of the ELBO module and the plain loss; return the largest difference.

    Every parameter is first moved off its initial value, so that those initialized to zero count. The
    difference is that of a parameter's gradient relative to its norm.
    """
    model, guide = copy.deepcopy((model, guide))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.add_(0.02 * torch.randn_like(parameter))
    networks = nn.ModuleList([model.denoiser, guide.recognition])
    values, gradients = [], []
    for loss_fn in (PlainLoss(model, guide), DELBO(model.process)(model, guide)):
        networks.zero_grad()
        torch.manual_seed(seed)
        loss = loss_fn(workload.x_0)
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append([parameter.grad.clone() for parameter in networks.parameters()])
    if abs(values[0] - values[1]) > 1e-5 * abs(values[0]):
        raise AssertionError(f"{workload.name}: plain loss {values[0]}, ELBO module {values[1]}.")
    # Gradients that vanish but for rounding, as those of the keys' biases do, have no relative difference.
    largest = max(float(gradient.norm()) for gradient in gradients[0])
    worst = max(
        float((mine - theirs).norm() / mine.norm().clamp(min=1e-4 * largest))
        for mine, theirs in zip(*gradients, strict=True)
    )
    if worst > 1e-3:
        raise AssertionError(f"{workload.name}: gradients differ by {worst} of their norm.")
    return worst


def svi_step(model: VADDModel, guide: RecognitionGuide, x_0: Tensor) -> Step:
    """A training step with Pyro's SVI, which keeps one optimizer a parameter."""
    optimizer = pyro.optim.AdamW({"lr": LEARNING_RATE, "fused": True})
    svi = pyro.infer.SVI(model, guide, optimizer, loss=DELBO(model.process))
    return lambda: svi.step(x_0)


def measure_pyro(bench: Bench) -> dict[str, Any]:
    """The loss as a Pyro estimator against one written by hand, for VADD by the paper's objective; and Pyro's SVI.

    SVI keeps one optimizer a parameter, here as elsewhere of PyTorch's fused kind. The goal is that of the
    transformers; a small network, on which what does not grow with the size weighs most, is shown beside them.
    """
    workloads = [
        transformer_workload(2 if bench.is_smoke else 8, vocab_size, is_small=bench.is_smoke)
        for vocab_size in VOCAB_SIZES
    ]
    workloads.append(digits_workload(8 if bench.is_smoke else 128))
    return {"rows": [measure_workload(workload, bench) for workload in workloads]}


def measure_workload(workload: Workload, bench: Bench) -> dict[str, Any]:
    """Of one pair of networks, each alternative with its own of equal weights."""
    torch.manual_seed(bench.seed)
    pyro.clear_param_store()
    workload = dataclasses.replace(workload, x_0=workload.x_0.to(bench.device))
    model, guide = (part.to(bench.device) for part in workload.build())
    worst = assert_same_loss(workload, model, guide, bench.seed)
    steps: dict[str, Step] = {
        "plain PyTorch": TrainingStep(PlainLoss(*copy.deepcopy((model, guide))), workload.x_0, fused=True),
        "ELBO module": TrainingStep(DELBO(model.process)(*copy.deepcopy((model, guide))), workload.x_0, fused=True),
        "SVI": svi_step(*copy.deepcopy((model, guide)), workload.x_0),
    }
    row = {
        "network": workload.name,
        "vocab_size": model.process.vocab_size,
        "batch_shape": list(workload.x_0.shape),
        "latent_size": workload.latent_size,
        "largest_relative_gradient_difference": worst,
        "time": bench.compare(steps, seconds=30),
    }
    if workload.goal is not None:
        ratio = row["time"]["steps"]["ELBO module"]["ratio"]["median"]
        row["goals"] = {"ratio of the ELBO module": goal(ratio, at_most=workload.goal)}
    return row
