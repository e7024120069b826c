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
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmbeddingRecognition, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.data import TOY_LIMITS, discretize, load_digits_tokens, load_mnist_tokens, sample_toy
from vadd.evaluation import diagnose_latent, fit_gate, log_likelihood_bound
from vadd.objectives import (
    DELBO,
    DiffusionELBO,
    FiniteStepELBO,
    MixedELBO,
    NullLatentELBO,
    SharedLatentELBO,
    StepLaw,
)
from vadd.priors import (
    CategoricalPrior,
    ConditionalPrior,
    FlowPrior,
    LatentPrior,
    StandardNormalPrior,
    TrunkPrior,
    VampPrior,
)
from vadd.recipes import DEFAULT_LAW, Recipe, get_recipe
from vadd.reporting import environment, write_report
from vadd.samplers.gate import resolve_plan
from vadd.samplers.latents import default_latents
from vadd.schedules import LinearSchedule

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STEPS = (1, 2, 4, 8, 16, 64)
GATE_STEPS = (1, 2, 4, 8, 16)  # more steps take the plan of the last


@dataclass(frozen=True)
class Data:
    """A data set, split, and the networks and training that fit it.

    Attributes:
        train, validation, test: tokens; the gate is chosen on the validation part.
        vocab_size: number of tokens.
        latent_size: components of a vector latent.
        denoiser: options of the MLP denoiser.
        recognition: options of a recognition network of the denoiser's size.
        light: options of the default recipe's smaller one.
        num_updates, batch_size, learning_rate, weight_decay: of the optimizer.
        gate_draws: masks drawn for each validation sequence when the gate is chosen.
        gate_steps: numbers of steps that it is chosen for.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    vocab_size: int
    latent_size: int
    denoiser: dict[str, Any]
    recognition: dict[str, Any]
    light: dict[str, Any]
    num_updates: int
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gate_draws: int = 1
    gate_steps: tuple[int, ...] = GATE_STEPS


def digits(args: argparse.Namespace) -> Data:
    """8x8 digits of 17 grey levels."""
    data = load_digits_tokens()
    size = {"hidden_size": 256, "depth": 2, "embedding_size": 4, "modulation_size": 64}
    return Data(
        data.train[:-180],
        data.train[-180:],
        data.heldout,
        data.num_levels,
        16,
        denoiser={**size, "feature_size": 8, "dropout": 0.4},
        recognition={**size, "dropout": 0.1},
        light={**size, "hidden_size": 128, "dropout": 0.1},
        num_updates=2500,
        batch_size=128,
        weight_decay=1.0,
    )


def mnist14(args: argparse.Namespace) -> Data:
    """MNIST of 14x14 pixels, binarized at 0.5."""
    if args.data_root is None:
        raise SystemExit("mnist14 needs --data-root or the environment variable VADD_DATA: a folder with MNIST/raw.")
    train = load_mnist_tokens(args.data_root, train=True, side=14).tokens
    test = load_mnist_tokens(args.data_root, train=False, side=14).tokens
    size = {"hidden_size": 256, "depth": 2, "embedding_size": 2, "modulation_size": 128}
    return Data(
        train[:-1000],
        train[-1000:][:300],
        test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:400]],
        2,
        32,
        denoiser={**size, "feature_size": 8},
        recognition=size,
        light={**size, "hidden_size": 128},
        num_updates=4000,
        batch_size=128,
    )


def toy(name: str) -> Callable[[argparse.Namespace], Data]:
    """Two tokens of 50 values."""

    def load(args: argparse.Namespace) -> Data:
        def draw(num: int, seed: int) -> Tensor:
            return discretize(sample_toy(name, num, torch.Generator().manual_seed(seed)), 50, TOY_LIMITS)

        size = {"hidden_size": 128, "depth": 2, "embedding_size": 32, "modulation_size": 32}
        return Data(
            draw(200_000, 1),
            draw(1000, 3),
            draw(1000, 2),
            50,
            8,
            denoiser={**size, "feature_size": 32},
            recognition=size,
            light={**size, "hidden_size": 64},
            num_updates=3000,
            batch_size=512,
            learning_rate=2e-3,
            weight_decay=0.0,
            gate_draws=8,
            gate_steps=(*GATE_STEPS, 64),
        )

    return load


DATA: dict[str, Callable[[argparse.Namespace], Data]] = {
    "digits": digits,
    "mnist14": mnist14,
    "checkerboard": toy("checkerboard"),
    "swiss_roll": toy("swiss_roll"),
}


@dataclass(frozen=True)
class Design:
    """One way to use the latent.

    Attributes:
        about: what it is.
        recipe: the recipe that it is, or that it varies.
        objective: the objective, where not the recipe's.
        prior: the prior, where not the recipe's; gets the data, the recognition network and the denoiser.
        family: the recognition family.
        latent_shape: the latent's shape, where not one vector.
        explains: as in the guide.
        is_light: whether the recognition network is the smaller one.
        reads_embedding: whether it is a small transformer on the denoiser's embedding instead.
        refits_prior: whether a mixture is fitted to the posteriors after training.
        latent_dropout: as in the model.
        modes: modes that the gate chooses from; none for no gate.
        curves: modes whose bound is reported beside the sampler's own.
        kl_warmup: share of the updates, where not the recipe's.
    """

    about: str
    recipe: str = "default"
    objective: Callable[[MaskingProcess], DiffusionELBO] | None = None
    prior: Callable[[Data, Recognition, MLPDenoiser], LatentPrior] | None = None
    family: str = "diagonal"
    latent_shape: tuple[int, ...] | Callable[[Data], tuple[int, ...]] | None = None
    explains: str = "masked"
    is_light: bool = True
    reads_embedding: bool = False
    refits_prior: bool = False
    latent_dropout: float = 0.0
    modes: tuple[str, ...] = ("shared", "fresh", "null")
    curves: tuple[str, ...] = field(default=())
    kl_warmup: float | None = None


def shared(law: StepLaw, null_share: float = 0.2) -> Callable[[MaskingProcess], DiffusionELBO]:
    """The default recipe's objective with another law of steps or share of null rows."""

    def build(process: MaskingProcess) -> DiffusionELBO:
        if null_share == 0:
            return SharedLatentELBO(process, law)
        return MixedELBO([(SharedLatentELBO(process, law), 1 - null_share), (NullLatentELBO(process), null_share)])

    return build


def stepwise(target: str) -> Callable[[MaskingProcess], DiffusionELBO]:
    """Steps with a fresh latent each, mixed with the DELBO where the recognition network sees all masked tokens."""

    def build(process: MaskingProcess) -> DiffusionELBO:
        steps = FiniteStepELBO(process, StepLaw.log_uniform(16), target=target)
        parts: list[tuple[DiffusionELBO, float]] = [(steps, 0.4), (NullLatentELBO(process), 0.2)]
        parts.append((DELBO(process), 0.4) if target == "masked" else (FiniteStepELBO(process, 1, target=target), 0.4))
        return MixedELBO(parts)

    return build


def normal(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """The standard normal prior of the recognition network's latent."""
    return StandardNormalPrior(tuple(recognition.latent_shape))


def trunk(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """A prior that reads ``x_t`` by the denoiser's trunk."""
    return TrunkPrior(data.latent_size, denoiser.context_size)


def conditional(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """A prior that reads ``x_t``, by a network of the light size."""
    encoder = MLPRecognition(data.vocab_size, data.train.shape[1], data.latent_size, **data.light)
    return ConditionalPrior(encoder, data.vocab_size)


DESIGNS = {
    "mdm": Design("masked diffusion, no latent", "mdm", modes=()),
    "paper": Design("the paper's recipe", "paper", is_light=False, modes=()),
    "paper-slow": Design(
        "the paper's recipe, KL warm-up over 70 % of the updates",
        "paper",
        is_light=False,
        modes=(),
        kl_warmup=0.7,
    ),
    "default": Design("the default recipe", curves=("null",), refits_prior=True),
    "no-refit": Design("the default recipe, its prior not fitted anew after training (A)", curves=("null",)),
    "vae": Design(
        "A trained for one step alone: a VAE with a mixture prior",
        objective=shared(StepLaw((1,), (1.0,)), 0),
        modes=("shared",),
    ),
    "standard-prior": Design("A with a standard normal prior", prior=normal),
    "no-null": Design("A without null rows", objective=shared(DEFAULT_LAW, 0), modes=("shared",)),
    "uniform-law": Design("A with a uniform law of steps", objective=shared(StepLaw.uniform((1, 2, 4, 8, 16, None)))),
    "flow-prior": Design("A with a flow prior", prior=lambda d, r, _: FlowPrior(d.latent_size)),
    "vamp-prior": Design(
        "A with a VampPrior of 50 validation sequences",
        prior=lambda d, r, _: VampPrior.from_data(r, d.validation, 50),
    ),
    "low-rank": Design("A with a covariance of low rank plus diagonal", family="low-rank"),
    "full-posterior": Design("A with a full covariance", family="full"),
    "flow-posterior": Design("A with a flow posterior", family="flow"),
    "discrete": Design(
        "A with a discrete latent of 16 groups of 8",
        latent_shape=(16, 8),
        family="relaxed",
        prior=lambda d, r, _: CategoricalPrior((16, 8)),
    ),
    "per-position": Design("A with a number a position", latent_shape=lambda d: (d.train.shape[1], 1)),
    "embedding-recognition": Design(
        "A with a small transformer on the denoiser's embedding for recognition", reads_embedding=True
    ),
    "fresh-null": Design(
        "fresh latents: DELBO, null rows (40 %), gate, light recognition",
        "paper",
        prior=normal,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-conditional": Design(
        "fresh latents: the same with a prior that reads x_t",
        "paper",
        prior=conditional,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-trunk": Design(
        "fresh latents: the same with a prior that reads x_t by the denoiser's trunk",
        "paper",
        prior=trunk,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-steps": Design(
        "fresh latents trained for 1 to 16 steps and by DELBO, prior that reads x_t",
        "paper",
        objective=stepwise("masked"),
        prior=conditional,
        modes=("fresh", "null"),
    ),
    "fresh-revealed": Design(
        "fresh latents for 1 to 16 steps, recognition sees only what the jump reveals",
        "paper",
        objective=stepwise("revealed"),
        prior=conditional,
        explains="revealed",
        modes=("fresh", "null"),
    ),
}
FINALISTS = ("mdm", "paper", "default")


def build(design: Design, data: Data) -> tuple[VADDModel, RecognitionGuide, DiffusionELBO]:
    """Model, guide and objective of a design."""
    recipe: Recipe = get_recipe(design.recipe)
    num_tokens, has_latent = data.train.shape[1], design.recipe != "mdm"
    shape: Any = design.latent_shape or (data.latent_size if has_latent else 0)
    shape = shape(data) if callable(shape) else shape
    process = MaskingProcess(LinearSchedule(), data.vocab_size)
    denoiser = MLPDenoiser(data.vocab_size, num_tokens, shape, **data.denoiser)
    recognition: Recognition = EmptyRecognition()
    if has_latent:
        size = data.light if design.is_light else data.recognition
        recognition = MLPRecognition(data.vocab_size, num_tokens, shape, family=design.family, **size)
        if design.reads_embedding:
            recognition = EmbeddingRecognition.for_denoiser(denoiser, hidden_size=64, depth=1, positions="learned")
    if design.prior is None:
        model, guide = recipe.pair(denoiser, recognition, process)
    else:
        prior = design.prior(data, recognition, denoiser)
        model = VADDModel(denoiser, prior, process, latents=recipe.latents, latent_dropout=design.latent_dropout)
        guide = RecognitionGuide(recognition, explains=design.explains)
    objective = recipe.objective(process) if design.objective is None else design.objective(process)
    return model, guide, objective


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


def merge(args: argparse.Namespace) -> None:
    """All runs in one result file, with means over seeds, the goals, and the picture."""
    runs = [json.loads(path.read_text()) for path in sorted(args.runs.glob("*.json"))]
    if not runs:
        raise SystemExit(f"no runs in {args.runs}: run the benchmark first.")
    results: dict[str, Any] = {}
    for name in dict.fromkeys(run["data"] for run in runs):
        here = [run for run in runs if run["data"] == name]
        results[name] = {
            "designs": {
                design: summarize([run for run in here if run["design"] == design])
                for design in DESIGNS
                if any(run["design"] == design for run in here)
            },
            "num_updates": here[0]["num_updates"],
            "num_rows": here[0]["num_rows"],
            "num_latents": here[0]["num_latents"],
            "goals": goals(here),
        }
    commits = sorted({run["environment"]["git"]["commit"] or "unknown" for run in runs})
    dirty = any(run["environment"]["git"]["dirty"] for run in runs)
    results_with = {"runs_at": {"commits": commits, "dirty": dirty}, "data": results}
    write_report("latent_design", results_with, seed=0, folder=args.out)
    draw_curves(results, args.figures)
    print_table(results)


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; the spread is their standard deviation."""

    def mean_of(get: Callable[[dict[str, Any]], float | None]) -> dict[str, float] | None:
        values = [value for run in runs if (value := get(run)) is not None]
        if not values:
            return None
        return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}

    curves = {
        label: {
            t: {
                **(mean_of(lambda run, label=label, t=t: run["curves"][label].get(t, {}).get("nats")) or {}),
                "stderr": runs[0]["curves"][label][t]["stderr"],
            }
            for t in runs[0]["curves"][label]
        }
        for label in runs[0]["curves"]
    }
    latent = {
        key: mean_of(lambda run, key=key: run["latent"][key])
        for key in ("kl", "kl_per_token", "active_units", "mutual_information", "mixture_off_loss")
        if "latent" in runs[0]
    }
    return {
        "about": DESIGNS[runs[0]["design"]].about,
        "seeds": [run["seed"] for run in runs],
        "curves": curves,
        "claims": {t: row["bounds"] for t, row in runs[0]["curves"]["sampler"].items()},
        "marginal": mean_of(lambda run: run["marginal"]["nats"]),
        "latent": latent,
        "num_latent": runs[0].get("latent", {}).get("num_latent"),
        "is_collapsed": any(run["latent"]["is_collapsed"] for run in runs) if "latent" in runs[0] else None,
        "gate": runs[0].get("gate"),
        "cpu_seconds": mean_of(lambda run: run["cpu_seconds"]),
        "cost": {key: mean_of(lambda run, key=key: run["cost"][key]) for key in runs[0]["cost"]},
    }


def goals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Excess over the MDM's bound of infinitely many steps, and differences to the MDM with paired rows and masks."""
    by_seed: dict[tuple[str, int], dict[str, Any]] = {(run["design"], run["seed"]): run for run in runs}
    seeds = sorted({seed for design, seed in by_seed if design == "mdm"})
    if not seeds:
        return {}
    references = [by_seed["mdm", seed]["infinite"] for seed in seeds]
    reference = statistics.fmean(r["nats"] for r in references)
    report: dict[str, Any] = {
        "reference": reference,
        "reference_estimator_stderr": max(r["estimator_stderr"] for r in references),
        "excess": {},
        "minus_mdm": {},
    }
    for design in dict.fromkeys(run["design"] for run in runs):
        own = [run for run in runs if run["design"] == design]
        report["excess"][design] = {
            t: statistics.fmean(r["curves"]["sampler"][t]["nats"] for r in own if t in r["curves"]["sampler"])
            - reference
            for t in own[0]["curves"]["sampler"]
        }
        paired = [(run, by_seed["mdm", run["seed"]]) for run in own if run["seed"] in seeds]
        report["minus_mdm"][design] = {
            t: _paired(
                [(run["rows"][t], mdm["rows"][t]) for run, mdm in paired if t in run["rows"] and t in mdm["rows"]]
            )
            for t in own[0]["rows"]
            if paired
        }
    return report


def _paired(pairs: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    """Mean of the rows' differences, averaged over the seeds first, and its standard error over the rows."""
    gap = torch.stack([torch.tensor(own) - torch.tensor(other) for own, other in pairs]).double().mean(0)
    return {"nats": float(gap.mean()), "stderr": float(gap.std() / math.sqrt(len(gap)))}


def draw_curves(results: dict[str, Any], folder: Path) -> None:
    """The bound against the number of steps, one panel a data set."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4.2 * len(results), 3.8), layout="constrained")
    styles = {"mdm": ("#c4501b", "MDM"), "paper": ("#7a7a7a", "the paper's recipe"), "default": ("#1f5a99", "default")}
    for k, (name, result) in enumerate(results.items()):
        axes = figure.add_subplot(1, len(results), k + 1)
        for design, (colour, label) in styles.items():
            if design not in result["designs"]:
                continue
            curve = result["designs"][design]["curves"]["sampler"]
            steps = [int(t) for t in curve]
            axes.errorbar(
                steps,
                [row["mean"] for row in curve.values()],
                [row["sd"] for row in curve.values()],
                marker="o",
                color=colour,
                label=label,
            )
        if result["goals"]:
            axes.axhline(
                result["goals"]["reference"], color="#c4501b", ls=":", lw=1, label="MDM, infinitely many steps"
            )
        axes.set(title=name.replace("_", " "), xscale="log", xlabel="steps T", ylabel="bound, nats per sequence")
        axes.set_xticks(STEPS, [str(t) for t in STEPS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(folder / "latent_design.png", dpi=140)


def print_table(results: dict[str, Any]) -> None:
    """Bounds of each design's own sampler by number of steps."""
    for name, result in results.items():
        print(f"\n{name}: {result['num_updates']} updates, {result['num_rows']} rows")
        print(f"{'design':<20}" + "".join(f"{f'T={t}':>9}" for t in STEPS) + f"{'KL':>8}{'active':>8}{'FLOPs':>7}")
        for design, row in result["designs"].items():
            cells = "".join(f"{row['curves']['sampler'][str(t)]['mean']:>9.2f}" for t in STEPS)
            latent = row["latent"]
            kl = f"{latent['kl']['mean']:>8.2f}{latent['active_units']['mean']:>8.0f}" if latent else " " * 16
            print(f"{design:<20}{cells}{kl}{row['cost']['training_flops']['mean']:>7.2f}")


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
