"""On a GPU: the share of its arithmetic that a step uses, where the host waits for it, and samples, in bfloat16."""

import copy
from typing import Any

import torch
from throughput_shared import Bench

from vadd._modes import checks_on
from vadd.recipes import get_recipe
from vadd.training.compiling import compile_networks

# What follows is found through throughput_shared.
# isort: split
from measuring import Step, TrainingStep, count_waits
from throughput_running import sampler_of
from throughput_training import PlainMDLMLoss

VOCAB_SIZE = 50_257
STEPS = (16, 64)


def peak_of(name: str) -> float | None:
    """Operations per second of dense bfloat16 products by the name of a GPU; None for one that is not known here."""
    if "A100" in name:
        return 312e12
    is_sxm = "HBM3" in name if "H100" in name else "H200" in name and "NVL" not in name
    return 989e12 if is_sxm else None


def model_operations(
    *, hidden_size: int, depth: int, vocab_size: int, length: int, num_tokens: float, num_scored: float
) -> float:
    """Floating-point operations that a training step of the masked diffusion transformer needs.

    A block has 12 products of the hidden size squared a token, and attention two with the length; the gradient takes
    twice the operations of the value. The head works at the scored tokens alone.

    Args:
        hidden_size, depth, vocab_size, length: of the network and its sequences.
        num_tokens: of the batch.
        num_scored: those that the loss scores.
    """
    block = 12 * hidden_size**2 + 2 * length * hidden_size
    return 6 * (depth * block * num_tokens + hidden_size * vocab_size * num_scored)


def measure_accelerator(bench: Bench, *, compiles: bool = True) -> dict[str, Any]:
    """The published size on text: share of the peak with and without compilation, waits, and tokens per second."""
    preset = bench.text_preset("paper")
    vocab_size, batch_size = (100, 2) if bench.is_smoke else (VOCAB_SIZE, 32)
    length, dit = preset.length, preset.dit
    torch.manual_seed(bench.seed)
    pair = bench.text_pair("mdm", vocab_size, preset)
    x_0 = bench.tokens(vocab_size, batch_size, length)
    loss = get_recipe("mdm").objective(pair.model.process)
    eager = TrainingStep(loss(*pair), x_0, fused=True, is_bf16=True)
    steps = {"eager": eager, "plain": TrainingStep(PlainMDLMLoss(pair.model.denoiser), x_0, fused=True, is_bf16=True)}
    if compiles:
        compiled = copy.deepcopy(pair)
        compile_networks(*compiled)
        steps["compiled"] = TrainingStep(loss(*compiled), x_0, fused=True, is_bf16=True)
    comparison = bench.compare(steps, most=50, warmup=3)
    operations = model_operations(
        hidden_size=dit["hidden_size"],
        depth=dit["depth"],
        vocab_size=vocab_size,
        length=length,
        num_tokens=x_0.numel(),
        num_scored=batch_size * (length + 1) / 2,  # the mean: their number is uniform
    )
    peak = peak_of(torch.cuda.get_device_name(bench.device)) if bench.device.type == "cuda" else None
    ours = {name: step for name, step in comparison["steps"].items() if name != "plain"}
    rates = {name: 1e3 * operations / step["ms"]["median"] for name, step in ours.items()}
    waits = {name: count_waits(step, bench.device) for name, step in steps.items()}
    with checks_on(False, of_pyro=True):  # as the trainer runs it
        waits["eager, without checks"] = count_waits(eager, bench.device)
    return {
        "network": f"{dit['depth']} x {dit['hidden_size']}",
        "vocab_size": vocab_size,
        "batch_shape": list(x_0.shape),
        "precision": "bf16",
        "time": comparison,
        "model_operations": operations,
        "operations_per_second": rates,
        "peak": peak,
        "share_of_peak": None if peak is None else {name: rate / peak for name, rate in rates.items()},
        "waits": waits,
        "sampling": sampling(bench, vocab_size),
    }


def sampling(bench: Bench, vocab_size: int) -> list[dict[str, Any]]:
    """Tokens per second of both models under autocast, and waits of a run."""
    preset, num_samples = bench.text_preset("paper"), 2 if bench.is_smoke else 16
    models = {
        name: bench.text_pair(recipe, vocab_size, preset).model.eval()
        for name, recipe in (("MDM", "mdm"), ("VADD", "default"))
    }
    rows = []
    for num_steps in (2,) if bench.is_smoke else STEPS:
        runs = {name: sampler_of(model, num_samples, num_steps) for name, model in models.items()}
        runs["VADD, static"] = sampler_of(models["VADD"], num_samples, num_steps, method="static")
        steps = {name: under_autocast(run, bench) for name, run in runs.items()}
        comparison = bench.compare(steps, least=3)
        rows.append(
            {
                "steps": num_steps,
                "batch_shape": [num_samples, preset.length],
                "time": comparison,
                "tokens_per_second": {
                    name: 1e3 * num_samples * preset.length / step["ms"]["median"]
                    for name, step in comparison["steps"].items()
                },
                "waits": {name: count_waits(step, bench.device) for name, step in steps.items()},
            }
        )
    return rows


def under_autocast(run: Step, bench: Bench) -> Step:
    """The function with its networks in bfloat16."""

    def cast_run() -> Any:
        with torch.autocast(bench.device.type, torch.bfloat16):
            return run()

    return cast_run
