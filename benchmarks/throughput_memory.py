"""A training step that computes norms and activations again in the backward pass, against the plain one."""

from typing import Any

import torch
from throughput_shared import Bench

from vadd.backbones import DiTDenoiser

# What follows is found through throughput_shared.
# isort: split
from measuring import TrainingStep, goal
from throughput_training import FASTER, LARGEST_MEMORY, NETWORKS, SMALL_NETWORKS, VOCABULARIES, PlainMDLMLoss, mdm_loss


def measure_memory(bench: Bench) -> dict[str, Any]:
    """Time and memory of the step with and without ``recompute``, at the sizes that have goals."""
    rows, left_out = [], []
    vocab_size, batch_shape = VOCABULARIES[-1], (4, 8) if bench.is_smoke else (8, 128)
    for name, speedup in FASTER.items():
        if not bench.has_time:
            left_out.append(name)
            continue
        torch.manual_seed(bench.seed)
        size: dict[str, Any] = (SMALL_NETWORKS if bench.is_smoke else NETWORKS)[name]
        denoiser = DiTDenoiser(vocab_size, batch_shape[1], 0, **size).to(bench.device)
        again = DiTDenoiser(vocab_size, batch_shape[1], 0, **size, recompute=True).to(bench.device)
        again.load_state_dict(denoiser.state_dict())
        x_0 = bench.tokens(vocab_size, *batch_shape)
        plain = TrainingStep(PlainMDLMLoss(denoiser), x_0, fused=True)
        steps = {
            "plain": plain,
            "ours": TrainingStep(mdm_loss(denoiser), x_0, optimizer=plain.optimizer),
            "ours, recomputing": TrainingStep(mdm_loss(again), x_0, fused=True),
        }
        comparison = bench.compare(steps)
        peaks = {key: step.peak_memory(bench.seed) for key, step in steps.items()}
        memory = {key: peak / peaks["plain"] for key, peak in peaks.items()}
        times = {key: step["ratio"]["median"] for key, step in comparison["steps"].items() if "ratio" in step}
        rows.append(
            {
                "network": name,
                "vocab_size": vocab_size,
                "batch_shape": list(batch_shape),
                "time": comparison,
                "bytes": peaks,
                "ratio_of_memory": memory,
                "goals": {
                    "time": goal(times["ours, recomputing"], at_most=round(1 / speedup, 2)),
                    "memory": goal(memory["ours, recomputing"], at_most=LARGEST_MEMORY),
                },
            }
        )
    return {"rows": rows, "left_out": left_out}
