"""Which latent? Priors, recognition families, layouts and objectives on one backbone, on real images and toys.

Trains the plain masked diffusion model (MDM), the paper's recipe, the library's default and variations of both with
equal numbers of updates, and reports the finite-step bound by number of steps, the marginal bound, what the latent
carries, and what training and sampling cost. Each run is kept as a file under ``outputs/latent_design``; ``--merge``
writes them together to ``results/latent_design.json`` and draws the curves. MNIST is read from the folder that the
environment variable ``VADD_DATA`` (or ``--data-root``) names; without it only digits and toys run.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from vadd import RecognitionGuide, VADDModel
from vadd.evaluation import diagnose_latent, fit_gate, log_likelihood_bound
from vadd.recipes import get_recipe
from vadd.reporting import environment
from vadd.samplers.gate import resolve_plan
from vadd.samplers.latents import default_latents

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

sys.path.insert(0, str(ROOT / "benchmarks"))
from latent_design_data import DATA, Data  # noqa: E402
from latent_design_report import STEPS, merge  # noqa: E402
from latent_designs import DESIGNS, FINALISTS, Design, build  # noqa: E402


def train(
    design: Design, data: Data, seed: int, *, quiet: bool, label: str
) -> tuple[VADDModel, RecognitionGuide, dict[str, Any]]:
    """Optimize; returns the moving average of the weights, and how training went."""
    pyro.set_rng_seed(seed)
    model, guide, objective = build(design, data)
    pair = nn.ModuleList([model, guide])
    average = AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    loss_fn = objective(model, guide)
    optimizer = torch.optim.AdamW(
        pair.parameters(), data.learning_rate, betas=(0.9, 0.99), weight_decay=data.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 200) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / data.num_updates)))
    )
    recipe = get_recipe(design.recipe)
    if design.kl_warmup is not None:
        recipe = replace(recipe, kl_warmup=design.kl_warmup)
    kl_weight = recipe.kl_schedule(data.num_updates)
    history: dict[str, list[float]] = {"step": [], "reconstruction": [], "kl": []}
    start = time.process_time()
    with tqdm(range(data.num_updates), desc=label, disable=quiet, mininterval=10.0) as bar:
        for step in bar:
            objective.kl_weight = kl_weight(step)
            rows = torch.randint(len(data.train), (data.batch_size,))
            optimizer.zero_grad()
            loss_fn(data.train[rows]).backward()
            nn.utils.clip_grad_norm_(pair.parameters(), 100.0)
            optimizer.step()
            scheduler.step()
            average.update_parameters(pair)
            if step % 100 == 0 and objective.last_terms is not None:
                history["step"].append(step)
                history["reconstruction"].append(objective.last_terms.reconstruction.item())
                history["kl"].append(objective.last_terms.kl.item())
    model, guide = average.module.eval()
    if design.refits_prior:
        recipe.refit_prior(model, guide, data.train)
    return model, guide, {"cpu_seconds": round(time.process_time() - start, 1), "history": history}


def cost(design: Design, data: Data) -> dict[str, float]:
    """Counted operations of a training step and of a sampling step, and parameters, as ratios to the MDM's."""

    def count(which: Design) -> dict[str, float]:
        model, guide, objective = build(which, data)
        loss_fn = objective(model, guide)
        x_0 = data.train[: data.batch_size]
        with FlopCounterMode(display=False) as training:
            loss_fn(x_0).backward()
        with FlopCounterMode(display=False) as sampling:
            model.eval().sample(data.batch_size, num_steps=4)
        parameters = sum(p.numel() for p in nn.ModuleList([model, guide]).parameters())
        return {
            "training_flops": training.get_total_flops(),
            "sampling_flops": sampling.get_total_flops(),
            "parameters": parameters,
        }

    own, reference = count(design), count(DESIGNS["mdm"])
    return {name: own[name] / reference[name] for name in own}


def evaluate(
    name: str, model: VADDModel, guide: RecognitionGuide, data: Data, args: argparse.Namespace
) -> dict[str, Any]:
    """Bounds by number of steps, the marginal bound, and what the latent carries."""
    design, x_0 = DESIGNS[name], data.test[: args.num_rows]
    num_latents = args.num_latents if model.has_latent else 1
    report: dict[str, Any] = {"curves": {}, "rows": {}}
    if design.modes and model.has_latent:
        fit = fit_gate(
            model,
            guide,
            data.validation[: args.num_rows],
            num_steps=data.gate_steps,
            modes=design.modes,
            num_latents=16,
            num_draws=data.gate_draws,
        )
        model.gate = fit.gate
        report["gate"] = fit.gate.to_json()
    choices: dict[str, Any] = {"sampler": None, **{mode: mode for mode in design.curves}}
    for label, latents in choices.items():
        rows = {}
        # To the number of tokens where "never worse than the MDM" is to be seen.
        last = {x_0.shape[1]} if name in FINALISTS and label == "sampler" and args.to_the_end else set()
        for steps in sorted({*STEPS, *last} if x_0.shape[1] > STEPS[-1] else STEPS):
            result = log_likelihood_bound(
                model,
                guide,
                x_0,
                bound="finite-step",
                num_steps=steps,
                num_latents=num_latents,
                proposal=_proposal(model, latents, steps),
                latents=latents,
                num_draws=args.num_draws,
                num_jumps=None if design.modes else steps,  # all of them, as where latents are shared
            )
            rows[str(steps)] = {"nats": result.nats, "stderr": result.stderr, "bounds": result.bounds}
            if label == "sampler":
                report["rows"][str(steps)] = [round(v, 4) for v in result.nats_per_sequence.tolist()]
        report["curves"][label] = rows
    marginal = log_likelihood_bound(model, guide, x_0, bound="marginal", num_latents=num_latents, num_draws=16)
    report["marginal"] = {"nats": marginal.nats, "stderr": marginal.stderr}
    if not model.has_latent:  # the reference of all excesses
        reference = log_likelihood_bound(model, guide, x_0, bound="marginal", num_draws=512)
        report["infinite"] = {"nats": reference.nats, "estimator_stderr": reference.estimator_stderr}
    if model.has_latent:
        latent = diagnose_latent(model, guide, x_0)
        report["latent"] = {
            "kl": float(latent.kl_per_bin[-1]),  # with three quarters or more of the tokens masked
            "kl_per_token": float(latent.kl_per_bin[-1]) / x_0.shape[1],
            "active_units": latent.active_units,
            "num_latent": latent.num_latent,
            "mutual_information": _finite(latent.mutual_information),
            "mixture_off_loss": latent.mixture_off_loss,
            "is_collapsed": latent.is_collapsed,
            "summary": str(latent),
        }
    return report


def _proposal(model: VADDModel, latents: str | None, num_steps: int) -> str:
    """The tighter one: a guide that explains all masked tokens is too narrow for what a short jump reveals."""
    plan = resolve_plan(latents or default_latents(model), num_steps)
    return "mixture" if "fresh" in plan and num_steps > 1 and model.has_latent else "guide"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def run(data_name: str, data: Data, design: str, seed: int, args: argparse.Namespace) -> None:
    """One run, kept as a file; skipped where the file is there."""
    path = args.runs / f"{data_name}-{design}-{seed}.json"
    if path.exists() and not args.again:
        print(f"{path.name} is there")
        return
    label = f"{data_name}, {design}, seed {seed}"
    model, guide, training = train(DESIGNS[design], data, seed, quiet=args.quiet, label=label)
    report = {
        "data": data_name,
        "design": design,
        "about": DESIGNS[design].about,
        "seed": seed,
        "num_updates": data.num_updates,
        "batch_size": data.batch_size,
        "num_rows": min(args.num_rows, len(data.test)),
        "num_latents": args.num_latents,
        **training,
        "cost": cost(DESIGNS[design], data),
        **evaluate(design, model, guide, data, args),
        "environment": environment(seed=seed),
    }
    args.runs.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, allow_nan=False))
    partial.replace(path)
    curve = ", ".join(f"{t}: {row['nats']:.2f}" for t, row in report["curves"]["sampler"].items())
    print(f"{label}: {curve}; {training['cpu_seconds']:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run what is asked for, or merge what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=list(DESIGNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VADD_DATA"), help="folder with MNIST/raw")
    parser.add_argument("--num-rows", type=int, default=300, help="most sequences to evaluate on")
    parser.add_argument("--num-latents", type=int, default=16, help="latents inside the bounds' logarithms")
    parser.add_argument("--num-draws", type=int, default=1, help="masks drawn for each sequence")
    parser.add_argument("--runs", type=Path, default=Path("outputs/latent_design"), help="folder of single runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures", help="folder of the picture")
    parser.add_argument("--to-the-end", action="store_true", help="finalists at as many steps as tokens, too")
    parser.add_argument("--again", action="store_true", help="repeat runs whose file is there")
    parser.add_argument("--merge", action="store_true", help="run nothing, write the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few updates, to see that everything runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.merge:
        merge(args)
        return
    if args.smoke:
        args.num_rows, args.num_latents = 8, 2
    for data_name in args.data:
        data = DATA[data_name](args)
        if args.smoke:
            data = replace(data, num_updates=5)
        for seed in args.seeds:
            for design in args.designs:
                run(data_name, data, design, seed, args)


if __name__ == "__main__":
    main()
