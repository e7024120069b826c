"""What follows training: samples and bounds of VADD beside the masked diffusion model and the bare network."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from throughput_shared import Bench
from torch import Tensor

from vadd import VADDModel
from vadd.backbones import DiTDenoiser
from vadd.evaluation import log_likelihood_bound
from vadd.recipes import Pair
from vadd.samplers.methods import Method

# What follows is found through throughput_shared.
# isort: split
from measuring import Step, count_operations, goal, peak_memory

VOCAB_SIZE = 50_257
STEPS = (1, 4, 16, 64)  # and as many as there are tokens

#: Characters, where the bounds' cost is that of the network, and in one bound many tokens.
EVALUATED_VOCAB_SIZE = 27
NUM_LATENTS, FEW_LATENTS = 64, 8
RECIPES = {"MDM": "mdm", "VADD": "default"}
LARGEST_GROWTH = 1.2  # of the peak memory from few latents to many
BOUNDS: dict[str, dict[str, Any]] = {
    "marginal": {"bound": "marginal", "num_draws": 1},
    "continuous": {"bound": "continuous", "num_draws": 1},
    "finite-step, T=4": {"bound": "finite-step", "num_steps": 4},
    "shared-latent, T=4": {"bound": "shared-latent", "num_steps": 4},
    "conditional": {"bound": "conditional", "mask_ratio": 0.5, "num_draws": 1},
    "delbo": {"bound": "delbo", "num_draws": 1},
}


def sampler_of(model: VADDModel, num_samples: int, num_steps: int, method: Method = "ancestral") -> Step:
    """A call of a sampler with the model's default latents."""
    return lambda: model.sample(num_samples, num_steps=num_steps, method=method, progress=False)


def measure_sampling(bench: Bench) -> dict[str, Any]:
    """Tokens per second by number of steps, and counted operations, of VADD's default and the MDM."""
    preset = bench.text_preset("gpu-30min")
    vocab_size = 300 if bench.is_smoke else VOCAB_SIZE
    models = {name: bench.text_pair(recipe, vocab_size, preset).model.eval() for name, recipe in RECIPES.items()}
    num_samples = 2 if bench.is_smoke else 4
    rows, left_out = [], []
    for num_steps in (*(steps for steps in STEPS if steps < preset.length), preset.length):
        if not bench.has_time:
            left_out.append(f"T={num_steps}")
            continue
        steps = {name: sampler_of(model, num_samples, num_steps) for name, model in models.items()}
        operations = {}
        for name, step in steps.items():
            torch.manual_seed(bench.seed)
            operations[name] = count_operations(step)[1]
        comparison = bench.compare(steps, least=3, warmup=0)  # counting has warmed up
        num_tokens = num_samples * preset.length
        rows.append(
            {
                "steps": num_steps,
                "time": comparison,
                "tokens_per_second": {
                    name: 1e3 * num_tokens / step["ms"]["median"] for name, step in comparison["steps"].items()
                },
                "operations": operations,
                "ratio_of_operations": operations["VADD"] / operations["MDM"],
            }
        )
    return {
        "network": f"{preset.dit['depth']} x {preset.dit['hidden_size']}",
        "vocab_size": vocab_size,
        "batch_shape": [num_samples, preset.length],
        "latent_size": preset.latent_size,
        "latents": models["VADD"].latents,
        "rows": rows,
        "left_out": left_out,
    }


def rows_read(denoiser: DiTDenoiser, run: Step) -> list[int]:
    """Rows of each call of a network while a function runs."""
    found: list[int] = []
    handle = denoiser.trunk.register_forward_pre_hook(lambda _, args: found.append(len(args[0])))
    try:
        run()
    finally:
        handle.remove()
    return found


def network_alone(model: VADDModel, calls: list[int], length: int) -> Step:
    """The denoiser's features of as many rows in as many calls, all positions masked."""
    device = model.null_latent.device
    inputs = {}
    for rows in set(calls):
        x_t = torch.full((rows, length), model.process.mask_id, device=device)
        inputs[rows] = (x_t, torch.ones(rows, device=device), torch.zeros(rows, *model.latent_shape, device=device))

    @torch.no_grad()
    def run() -> None:
        for rows in calls:
            cast(DiTDenoiser, model.denoiser).features(*inputs[rows])

    return run


def measure_evaluation(bench: Bench) -> dict[str, Any]:
    """Sequences per second of every bound against the network alone, and whether memory grows with the latents."""
    preset = bench.text_preset("cpu")
    rows_per_call, batch_size = (8, 2) if bench.is_smoke else (16, 4)
    large = 300 if bench.is_smoke else VOCAB_SIZE
    cases = [(name, EVALUATED_VOCAB_SIZE, batch_size, title) for name in RECIPES for title in BOUNDS]
    cases.append(("VADD", large, 1, "marginal"))
    pairs = {
        (name, size): bench.text_pair(RECIPES[name], size, preset) for name, size in {case[:2]: None for case in cases}
    }
    rows, left_out = [], []
    for name, vocab_size, num, title in cases:
        pair = pairs[name, vocab_size]
        if title.startswith("shared-latent") and not pair.model.has_latent:
            continue
        if not bench.has_time:
            left_out.append(f"{name}, {title}, {vocab_size} tokens")
            continue
        x_0 = bench.tokens(vocab_size, num, preset.length)
        found = measure_bound(bench, pair, x_0, title, rows_per_call)
        rows.append({"model": name, "vocab_size": vocab_size, "batch_shape": list(x_0.shape), **found})
    return {
        "network": f"{preset.dit['depth']} x {preset.dit['hidden_size']}",
        "latent_size": preset.latent_size,
        "rows_per_call": rows_per_call,
        "rows": rows,
        "left_out": left_out,
    }


def measure_bound(bench: Bench, pair: Pair, x_0: Tensor, title: str, rows_per_call: int) -> dict[str, Any]:
    """One bound of one pair."""
    model = pair.model
    evaluate: Callable[..., Any] = partial(
        log_likelihood_bound, *pair, x_0, rows_per_call=rows_per_call, **BOUNDS[title]
    )
    has_several = model.has_latent and title != "continuous"
    most = (16 if bench.is_smoke else NUM_LATENTS) if has_several else 1
    run = partial(evaluate, num_latents=most)
    calls = rows_read(cast(DiTDenoiser, model.denoiser), run)
    steps = {"network alone": network_alone(model, calls, x_0.shape[1]), title: run}
    comparison = bench.compare(steps, seconds=5, warmup=0)  # the calls have been counted
    row: dict[str, Any] = {
        "bound": title,
        "num_latents": most,
        "rows_read": sum(calls),
        "time": comparison,
        "sequences_per_second": 1e3 * len(x_0) / comparison["steps"][title]["ms"]["median"],
    }
    if has_several:
        memory = {k: peak_memory(partial(evaluate, num_latents=k), bench.device) for k in (FEW_LATENTS, most)}
        growth = memory[most] / memory[FEW_LATENTS]
        row["memory"] = {"bytes": {str(k): v for k, v in memory.items()}, "ratio": growth}
        row["goals"] = {"memory": goal(growth, at_most=LARGEST_GROWTH)}
    return row
