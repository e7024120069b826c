"""Time of a training and a sampling step: Pyro against plain PyTorch, VADD against masked diffusion.

The alternatives of a comparison run in turns, one step each a round, in an order that rotates. Reported
are medians over rounds, and the median and quartiles of the ratio to the first alternative within a
round, which drifts of the machine's speed leave alone. Run ``python benchmarks/step_overhead.py``.
"""

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition
from vadd.data import load_digits_tokens
from vadd.distributions.projection import token_scores
from vadd.priors import StandardNormalPrior
from vadd.recipes import get_recipe
from vadd.reporting import write_report
from vadd.samplers import AncestralSampler, SamplerRun, SamplerState
from vadd.samplers.latents import resolve_latents
from vadd.samplers.time_grid import resolve_grid
from vadd.schedules import LinearSchedule

ROOT = Path(__file__).resolve().parent.parent

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import digits_svi  # noqa: E402
from measuring import (  # noqa: E402
    LEARNING_RATE,
    Step,
    TrainingStep,
    compare,
    count_operations,
    count_parameters,
    parse_timing,
    timing_parser,
)

Pair = tuple[VADDModel, RecognitionGuide]

GOAL = 1.03  # of the Pyro step's time to that of plain PyTorch, for the transformer


@dataclasses.dataclass(frozen=True)
class Workload:
    """A pair of networks and a batch to train them on."""

    name: str
    x_0: Tensor
    latent_size: int
    build: Callable[[int], Pair]  # from the size of the latent, 0 for masked diffusion
    rounds: int
    goal: float | None = None


def transformer_workload(batch_size: int, rounds: int, *, is_small: bool, vocab_size: int = 27) -> Workload:
    """Transformers for 128 letters, or other tokens; small ones to see that everything runs."""
    length, latent_size = 128, 64
    size = (
        {"hidden_size": 32, "depth": 2, "num_heads": 2, "modulation_size": 16}
        if is_small
        else {"hidden_size": 384, "depth": 6, "num_heads": 6}
    )

    def build(latent_size: int) -> Pair:
        denoiser = DiTDenoiser(vocab_size, length, latent_size, **size)
        recognition = DiTRecognition(vocab_size, length, latent_size, **size) if latent_size else EmptyRecognition()
        process = MaskingProcess(LinearSchedule(), vocab_size)
        return VADDModel(denoiser, StandardNormalPrior(latent_size), process), RecognitionGuide(recognition)

    name = f"DiT {size['depth']} x {size['hidden_size']}"
    x_0 = torch.randint(vocab_size, (batch_size, length))
    return Workload(name, x_0, latent_size, build, rounds, goal=None if is_small else GOAL)


def digits_workload(batch_size: int, rounds: int) -> Workload:
    """The networks of the digits example."""
    data = load_digits_tokens()

    def build(latent_size: int) -> Pair:
        return digits_svi.build(data, get_recipe("paper" if latent_size else "mdm"), latent_size)

    return Workload("digits MLP", data.train[:batch_size], 16, build, rounds)


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


def svi_step(model: VADDModel, guide: RecognitionGuide, x_0: Tensor, *, fused: bool = False) -> Step:
    """A training step with Pyro's SVI, which keeps one optimizer a parameter."""
    optimizer = pyro.optim.AdamW({"lr": LEARNING_RATE, "fused": fused})
    svi = pyro.infer.SVI(model, guide, optimizer, loss=DELBO(model.process))
    return lambda: svi.step(x_0)


def sampling_step(model: VADDModel, x_t: Tensor) -> Step:
    """The step from t = 1/2 to 3/8, one of eight, with a fresh latent."""
    run = SamplerRun(
        model=model,
        start=torch.full_like(x_t, model.process.mask_id),
        grid=tuple(resolve_grid(8, None).tolist()),
        latents=resolve_latents("fresh", model, 8, x_t.shape[1]),
    )
    sampler, state, jump = AncestralSampler(), SamplerState(x_t), run.jumps()[4]

    @torch.no_grad()
    def step() -> None:
        sampler.step(run, state, jump)

    return step


def operations_of(loss_fn: nn.Module, x_0: Tensor, sampler: Step, seed: int) -> dict[str, int]:
    """Floating-point operations of the matrix products, attention's included."""
    torch.manual_seed(seed)
    loss, forward = count_operations(lambda: loss_fn(x_0))
    _, backward = count_operations(lambda: loss.backward())
    loss_fn.zero_grad()
    _, sampling = count_operations(sampler)
    return {"forward": forward, "backward": backward, "sampling_step": sampling}


def measure(workload: Workload, args: argparse.Namespace) -> dict[str, Any]:
    """All comparisons of one workload."""
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pyro.clear_param_store()
    timing: dict[str, Any] = {
        "rounds": args.rounds or workload.rounds,
        "warmup": 1 if args.smoke else 3,
        "seed": args.seed,
        "device": device,
        "clock": time.perf_counter,
    }
    x_0 = workload.x_0
    pair = tuple(part.to(device) for part in workload.build(workload.latent_size))
    worst = assert_same_loss(workload, *pair, args.seed)

    # Each alternative has networks of its own, of equal weights.
    model, guide = copy.deepcopy(pair)
    elbo_module = DELBO(model.process)(model, guide)
    engines = {
        "plain PyTorch": TrainingStep(PlainLoss(*copy.deepcopy(pair)), x_0),
        "ELBO module": TrainingStep(elbo_module, x_0),
        "SVI": svi_step(*copy.deepcopy(pair), x_0),
    }
    mdm, mdm_guide = (part.to(device) for part in workload.build(0))
    mdm_module = DELBO(mdm.process)(mdm, mdm_guide)
    x_t = x_0.masked_fill(torch.rand_like(x_0, dtype=torch.float64) < 0.5, model.process.mask_id)
    samplers = {"MDM": sampling_step(mdm, x_t), "VADD": sampling_step(model, x_t)}
    operations = {
        "MDM": operations_of(mdm_module, x_0, samplers["MDM"], args.seed),
        "VADD": operations_of(elbo_module, x_0, samplers["VADD"], args.seed),
    }
    training = {"MDM": TrainingStep(mdm_module, x_0), "VADD": TrainingStep(elbo_module, x_0)}
    result = {
        "batch_shape": list(x_0.shape),
        "latent_size": workload.latent_size,
        "parameters": {
            "denoiser": count_parameters(model),
            "recognition": count_parameters(guide),
            "MDM": count_parameters(mdm),
        },
        "largest_relative_gradient_difference": worst,
        "training_step": compare(engines, **timing),
        "vadd_training_step": compare(training, **timing),
        "vadd_sampling_step": compare(samplers, **timing),
        "operations": operations,
    }
    if workload.goal is not None:
        ratio = result["training_step"]["steps"]["ELBO module"]["ratio"]["median"]
        result["goal"] = {"ratio_at_most": workload.goal, "ratio": ratio, "met": ratio <= workload.goal}
    return result


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """The medians, ratios with quartiles, and counted operations."""
    titles = {
        "training_step": "training step",
        "vadd_training_step": "training step, MDM and VADD",
        "vadd_sampling_step": "sampling step, MDM and VADD",
    }
    for name, result in results.items():
        print(f"\n{name}, batch of {' x '.join(map(str, result['batch_shape']))} tokens")
        for key, title in titles.items():
            comparison = result[key]
            heading = f"{title} ({comparison['rounds']} rounds)"
            print(f"  {heading:<42}{'ms':>9}{'more, ms':>10}   ratio [quartiles]")
            for step, row in comparison["steps"].items():
                line = f"    {step:<40}{row['ms']['median']:>9.2f}"
                if "ratio" in row:
                    ratio = row["ratio"]
                    line += f"{row['difference_ms']['median']:>10.2f}   {ratio['median']:.3f}"
                    line += f" [{ratio['lower_quartile']:.3f}, {ratio['upper_quartile']:.3f}]"
                print(line)
        print(f"  {'counted operations, 1e9':<42}{'MDM':>9}{'VADD':>10}   ratio")
        for kind, mdm in result["operations"]["MDM"].items():
            vadd = result["operations"]["VADD"][kind]
            print(f"    {kind.replace('_', ' '):<40}{mdm / 1e9:>9.3f}{vadd / 1e9:>10.3f}   {vadd / mdm:.3f}")
        if "goal" in result:
            goal = result["goal"]
            verdict = "met" if goal["met"] else "MISSED"
            print(f"  goal: ELBO module to plain PyTorch at most {goal['ratio_at_most']}: {verdict}")


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    parser = timing_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=4, help="sequences of the transformer's batch")
    args = parse_timing(parser, argv)
    if args.smoke:
        args.batch_size = 2
    torch.manual_seed(args.seed)

    workloads = [
        transformer_workload(args.batch_size, rounds=40, is_small=args.smoke),
        digits_workload(8 if args.smoke else 128, rounds=200),
    ]
    results = {}
    for workload in workloads:
        workload = dataclasses.replace(workload, x_0=workload.x_0.to(args.device))
        results[workload.name] = measure(workload, args)
    print_table(results)
    name = "step_overhead" if args.device == "cpu" else f"step_overhead-{args.device}"
    path = write_report(name, results, seed=args.seed, device=args.device, folder=args.out)
    print(f"\nwrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


if __name__ == "__main__":
    main()
