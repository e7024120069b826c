"""Training steps: the masked diffusion model against a plain one, and VADD against it."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from throughput_shared import Bench
from torch import Tensor, nn

from vadd import MaskingProcess
from vadd.backbones import DIT_PRESETS, Denoiser, DiTDenoiser, EmptyRecognition
from vadd.data import ImageTokens
from vadd.recipes import Pair, get_recipe
from vadd.schedules import LinearSchedule

# What follows is found through throughput_shared.
# isort: split
import binarized_mnist_svi
import cifar10_svi
import images
from image_data import Data
from measuring import TrainingStep, count_operations, count_parameters, goal

MIDDLE = "6 x 384"
NETWORKS = {
    f"tiny, 6 x {DIT_PRESETS['tiny']['hidden_size']}": DIT_PRESETS["tiny"],
    MIDDLE: {"hidden_size": 384, "depth": 6, "num_heads": 6},
    "small, 12 x 768": DIT_PRESETS["small"],
}
VOCABULARIES = (27, 30_522, 50_257)
LENGTHS = {128: 8, 1024: 2, 256: 8}  # with their batch sizes
SMALL_NETWORKS = {
    MIDDLE: {"hidden_size": 16, "depth": 1, "num_heads": 2},
    "small, 12 x 768": {"hidden_size": 32, "depth": 1, "num_heads": 2},
}

#: Least ratios of the plain step's time to ours at 50,257 tokens and length 128, and the largest of memory there.
FASTER = {MIDDLE: 1.3, "small, 12 x 768": 1.1}
LARGEST_MEMORY = 0.6
#: Largest ratio of a default VADD step's time to the MDM's, and of the paper's ratio of times to that of operations.
LARGEST_OF_DEFAULT, LARGEST_OF_PAPER = 1.4, 1.1

EPSILON = 1e-3  # the smallest time of the plain loss
OPERATION_DRAWS = 3


class PlainMDLMLoss(nn.Module):
    """The step that public code of masked diffusion language models takes, with the same network.

    Masks are Bernoulli draws at stratified times, logits and their logarithmic softmax are computed at all positions,
    and the masked tokens' are weighted by ``1/t``. The head has no logit of the mask token, which such code computes
    and excludes, and the probabilities of tokens that are known are not written over: both would cost it more.

    References:
        Sahoo et al., arXiv 2406.07524.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_0: Tensor) -> Tensor:
        """Nats per sequence, the mean over a batch of shape ``(batch, dim)``."""
        batch = len(x_0)
        uniform = (torch.rand((), device=x_0.device) + torch.arange(batch, device=x_0.device) / batch) % 1
        t = EPSILON + (1 - EPSILON) * uniform
        is_masked = torch.rand(x_0.shape, device=x_0.device) < t[:, None]
        x_t = x_0.masked_fill(is_masked, self.denoiser.vocab_size)
        logits = self.denoiser(x_t, t, t.new_zeros(batch, 0))
        log_p = logits.log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
        return -((log_p * is_masked).sum(-1) / t).mean()


def mdm_loss(denoiser: Denoiser) -> nn.Module:
    """The loss of the masked diffusion model of this library."""
    process = MaskingProcess(LinearSchedule(), denoiser.vocab_size)
    recipe = get_recipe("mdm")
    return recipe.objective(process)(*recipe.pair(denoiser, EmptyRecognition(), process))


def compare_expectations(
    seed: int, *, plain: Callable[[Denoiser], nn.Module] = PlainMDLMLoss, num_draws: int = 200
) -> dict[str, Any]:
    """Whether plain loss and ours have one expectation, by many batches on a small network of random weights."""
    torch.manual_seed(seed)
    denoiser = DiTDenoiser(5, 6, 0, hidden_size=8, depth=1, num_heads=2)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        x_0 = torch.randint(5, (1, 6)).expand(1024, -1)
        losses = {"ours": mdm_loss(denoiser), "plain": plain(denoiser)}
        drawn = {name: [float(loss(x_0)) for _ in range(num_draws)] for name, loss in losses.items()}
    means = {name: statistics.fmean(values) for name, values in drawn.items()}
    stderr = math.sqrt(sum(statistics.variance(values) for values in drawn.values()) / num_draws)
    difference = means["plain"] - means["ours"]
    return {"nats": means, "difference": difference, "stderr": stderr, "agree": abs(difference) <= 4 * stderr}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the batch that it is trained on."""

    network: str
    vocab_size: int
    batch_shape: tuple[int, int]
    build: Callable[[], Denoiser]

    @property
    def name(self) -> str:
        """In one line."""
        return f"{self.network}, {self.vocab_size} tokens, {self.batch_shape[0]} x {self.batch_shape[1]}"


def cases(bench: Bench) -> Iterator[Case]:
    """Transformers at the shortest length, the U-Nets of the examples, and then the longer lengths."""
    networks = SMALL_NETWORKS if bench.is_smoke else NETWORKS
    first, *longer = ({8: 4} if bench.is_smoke else LENGTHS).items()

    def transformers(length: int, batch_size: int) -> Iterator[Case]:
        for name, size in networks.items():
            for vocab_size in (27, 50_257) if bench.is_smoke else VOCABULARIES:

                def build(vocab_size: int = vocab_size, size: Any = size) -> Denoiser:
                    return DiTDenoiser(vocab_size, length, 0, **size)

                yield Case(name, vocab_size, (batch_size, length), build)

    yield from transformers(*first)
    yield unet_case("U-Net of binarized MNIST", binarized_mnist_svi, (32, 32), 2, bench)
    yield unet_case("U-Net of CIFAR-10", cifar10_svi, (32, 32, 3), 256, bench)
    for length, batch_size in longer:
        yield from transformers(length, batch_size)


def unet_case(name: str, example: Any, image_shape: Any, num_levels: int, bench: Bench) -> Case:
    """The network of an example on images."""
    batch_shape = (2 if bench.is_smoke else 8, math.prod(image_shape))

    def build() -> Denoiser:
        tokens = ImageTokens(torch.zeros(1, batch_shape[1], dtype=torch.int64), None, image_shape, num_levels)
        preset = example.PRESETS["smoke" if bench.is_smoke else "cpu"]
        args = example.parse(["--baseline", "mdm"])
        return images.build(Data(name, tokens, tokens, tokens, None, ""), preset, args).model.denoiser

    return Case(name, num_levels, batch_shape, build)


def measure_step(bench: Bench) -> dict[str, Any]:
    """Time and memory of the masked diffusion model's step here and of the plain one, on the same network."""
    rows, left_out = [], []
    for case in cases(bench):
        if bench.has_time:
            rows.append(measure_case(case, bench))
        else:
            left_out.append(case.name)
    return {"expectation": compare_expectations(bench.seed), "rows": rows, "left_out": left_out}


def measure_case(case: Case, bench: Bench) -> dict[str, Any]:
    """Of one network; both steps share its parameters and optimizer, and nothing of it outlives the call."""
    torch.manual_seed(bench.seed)
    denoiser = case.build().to(bench.device)
    x_0 = bench.tokens(case.vocab_size, *case.batch_shape)
    ours = TrainingStep(mdm_loss(denoiser), x_0, fused=True)
    plain = TrainingStep(PlainMDLMLoss(denoiser), x_0, optimizer=ours.optimizer)
    is_large = count_parameters(denoiser) > 5e7 and x_0.numel() > 1024
    comparison = bench.compare({"ours": ours, "plain": plain}, least=3 if is_large else 5)
    memory: dict[str, float] = {
        "ours": ours.peak_memory(bench.seed),
        "plain": plain.peak_memory(bench.seed),
    }
    memory["ratio"] = memory["ours"] / memory["plain"]
    row = {
        "network": case.network,
        "vocab_size": case.vocab_size,
        "batch_shape": list(case.batch_shape),
        "parameters": count_parameters(denoiser),
        "time": comparison,
        "memory": memory,
    }
    if case.network in FASTER and case.vocab_size == VOCABULARIES[-1] and case.batch_shape == (8, 128):
        ratio = comparison["steps"]["plain"]["ratio"]["median"]
        row["goals"] = {
            "speedup": goal(ratio, at_least=FASTER[case.network]),
            "memory": goal(memory["ratio"], at_most=LARGEST_MEMORY),
        }
    return row


def measure_vadd(bench: Bench) -> dict[str, Any]:
    """VADD's step against the masked diffusion model's, in time and in counted operations."""
    preset, rows = bench.text_preset("gpu-30min"), []
    kinds = [("default", kind) for kind in ("own", "shared", "embedding")] + [("paper", "own")]
    for vocab_size in (VOCABULARIES[0], VOCABULARIES[-1]):
        torch.manual_seed(bench.seed)
        x_0 = bench.tokens(vocab_size, 4 if bench.is_smoke else 8, preset.length)
        steps = {"MDM": step_of("mdm", bench.text_pair("mdm", vocab_size, preset), x_0)}
        for recipe, kind in kinds:
            pair = bench.text_pair(recipe, vocab_size, preset, recognition=kind)
            steps[f"{recipe}, {kind}"] = step_of(recipe, pair, x_0)
        operations = {name: mean_operations(step, bench.seed) for name, step in steps.items()}
        comparison = bench.compare(steps, seconds=60)
        ratios = {name: count / operations["MDM"] for name, count in operations.items()}
        times = {name: step["ratio"]["median"] for name, step in comparison["steps"].items() if name != "MDM"}
        overhead = times["paper, own"] / ratios["paper, own"]
        rows.append(
            {
                "network": f"{preset.dit['depth']} x {preset.dit['hidden_size']}",
                "vocab_size": vocab_size,
                "batch_shape": list(x_0.shape),
                "latent_size": preset.latent_size,
                "time": comparison,
                "operations": operations,
                "ratio_of_operations": ratios,
                "goals": {
                    "time of default": goal(times["default, own"], at_most=LARGEST_OF_DEFAULT),
                    "time to operations of paper": goal(overhead, at_most=LARGEST_OF_PAPER),
                },
            }
        )
    return {"rows": rows}


def step_of(recipe: str, pair: Pair, x_0: Tensor) -> TrainingStep:
    """A step of the recipe's objective."""
    return TrainingStep(get_recipe(recipe).objective(pair.model.process)(*pair), x_0, fused=True)


def mean_operations(step: TrainingStep, seed: int) -> float:
    """Counted operations of loss and gradient, the mean over draws of masks."""
    counts = []
    for draw in range(OPERATION_DRAWS):
        torch.manual_seed(seed + draw)
        counts.append(count_operations(lambda: step.loss_fn(step.x_0).backward())[1])
    step.loss_fn.zero_grad()
    return statistics.fmean(counts)
