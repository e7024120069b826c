"""What the examples on images and text share: a run's sizes and options, its training, and its table of bounds."""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vadd import RecognitionGuide, VADDModel
from vadd.errors import ConfigError, DataError, VADDError
from vadd.evaluation import BoundResult, LatentDiagnosis, log_likelihood_bound
from vadd.recipes import Pair, Recipe, get_recipe
from vadd.training import (
    BoundValidation,
    SamplePictures,
    Trainer,
    TrainerConfig,
    TrainingResult,
    read_metrics,
    warmup_constant,
)

Loaded = TypeVar("Loaded")

RATIOS = (0.25, 0.5, 0.75, 1.0)
# What a bound may cost: network calls for one sequence and one draw; beyond it, fewer latents are taken.
MOST_CALLS = 4000
# Options that say how a trained model is judged.
OF_EVALUATION = ("guidance", "fid", "judge", "mauve", "zero_shot", "stride", "classifier")
MOST_GATED = 20  # steps; more of them take the plan of the last


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a run is.

    Attributes:
        latent_size: components of the latent.
        num_updates, batch_size, learning_rate, ema_decay, precision, minutes: of training; see ``TrainerConfig``.
        warmup: updates over which the learning rate rises to its value.
        num_validation: training sequences held out for validation and the choice of each jump's latent.
        num_refit: training sequences that the prior is fitted to anew, where the recipe does so.
        num_rows: test sequences on which bounds are evaluated.
        num_latents: latents inside the bounds' logarithms.
        num_draws: masks of each sequence, for bounds that take few network calls a draw.
        num_jumps: most jumps visited in a draw of a finite-step bound, where each jump's latent is its own.
        steps: numbers of sampling steps.
        num_samples: samples for each of them.
        rows_per_call: sequences that run through a network together, in evaluation.
    """

    latent_size: int
    num_updates: int
    batch_size: int
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    precision: str = "no"
    minutes: float | None = None
    warmup: int = 0
    num_validation: int = 1000
    num_refit: int = 10_000
    num_rows: int = 256
    num_latents: int = 8
    num_draws: int = 4
    num_jumps: int = 16
    steps: tuple[int, ...] = (1, 2, 4, 8, 10, 20, 30, 50, 100)
    num_samples: int = 1000
    rows_per_call: int = 64


def add_options(parser: argparse.ArgumentParser, presets: Sequence[str], out: str) -> None:
    """The options of every example."""
    add = parser.add_argument
    add("--preset", choices=tuple(presets), default="cpu", help="size of the run")
    add("--recipe", choices=("default", "default-many", "paper"), default="default", help="how VADD is trained")
    add("--baseline", choices=("mdm",), help="train the masked diffusion model without a latent instead")
    add("--num-updates", type=int, help="instead of the preset's")
    add("--kl-warmup", type=float, help="share of the updates over which the KL weight rises; default the recipe's")
    add("--minutes", type=float, help="of training in this call; the next one goes on")
    add("--precision", choices=("no", "bf16"), help="of training, instead of the preset's; no is float32")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path(out), help="folder for the results")
    add("--again", action="store_true", help="train anew instead of going on from what is in --out")
    add("--trackers", nargs="*", default=(), choices=("tensorboard", "wandb"))
    add("--quiet", action="store_true", help="no progress bars")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Of the model that was asked for.

    Raises:
        ConfigError: if two were, or on a share that is none.
    """
    if args.baseline and args.recipe not in (None, "default"):
        raise ConfigError(f"give --baseline {args.baseline} or --recipe {args.recipe}, not both.")
    recipe = get_recipe(args.baseline or args.recipe)
    if args.kl_warmup is None:
        return recipe
    if args.baseline == "mdm":
        raise ConfigError(f"--kl-warmup {args.kl_warmup:g} is of a latent, which the baseline mdm has not.")
    if not 0 <= args.kl_warmup <= 1:
        raise ConfigError(f"--kl-warmup is a share of the updates, from 0 to 1, got {args.kl_warmup:g}.")
    return replace(recipe, kl_warmup=args.kl_warmup)


def recipe_name(args: argparse.Namespace) -> str:
    """The recipe's part of the name of a run's folder."""
    recipe = recipe_of(args)
    return recipe.name if args.kl_warmup is None else f"{recipe.name}-kl{recipe.kl_warmup:g}"


def num_updates_of(size: Size, args: argparse.Namespace) -> int:
    """The preset's, unless others were asked for."""
    return size.num_updates if args.num_updates is None else args.num_updates


def precision_of(size: Size, args: argparse.Namespace) -> str:
    """The preset's, unless another was asked for."""
    return size.precision if args.precision is None else args.precision


def load_or_explain(load: Callable[[], Loaded], hint: str) -> Loaded:
    """The data, or the end of the program with one message that says what to do."""
    try:
        return load()
    except DataError as error:
        raise SystemExit(f"error: {error}\nOn the command line: {hint}") from None


@contextmanager
def explained() -> Iterator[None]:
    """What is wrong with the options, the disk or the machine ends the program with one message."""
    try:
        yield
    except (VADDError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def config_of(size: Size, args: argparse.Namespace) -> TrainerConfig:
    """Settings of the trainer.

    Raises:
        DomainError, ConfigError: on settings out of range.
    """
    num_updates = num_updates_of(size, args)
    often = max(num_updates // 10, min(num_updates, 5))
    return TrainerConfig(
        num_updates,
        size.batch_size,
        seed=args.seed,
        learning_rate=size.learning_rate,
        weight_decay=0.01,
        ema_decay=size.ema_decay,
        precision=precision_of(size, args),  # pyright: ignore[reportArgumentType] - checked there
        minutes=size.minutes if args.minutes is None else args.minutes,
        validate_every=often,
        save_every=min(often, 1000),
    )


def fit(
    pair: Pair,
    data: Any,
    size: Size,
    args: argparse.Namespace,
    folder: Path,
    *,
    validation: Mapping[str, Tensor],
    draw: Callable[[Path, dict[str, Tensor]], None],
    **sampling: Any,
) -> TrainingResult:
    """Optimize the recipe's objective, from where an earlier run in the folder stopped; averaged weights.

    Args:
        pair: fresh model and guide.
        data: what is trained on, as the ``Trainer`` takes it.
        size, args: of the run.
        folder: of the run.
        validation: ``x_0`` of sequences held out, and what goes with it.
        draw: writes a few samples down while training; see ``SamplePictures``.
        **sampling: options of these samples.
    """
    recipe, config = recipe_of(args), config_of(size, args)
    trainer = Trainer(
        *pair,
        recipe.objective(pair.model.process),
        data,
        config,
        schedule=warmup_constant(size.warmup) if size.warmup else None,
        kl_schedule=recipe.kl_schedule(config.num_updates),
        validation=BoundValidation(
            **{name: value[: min(size.num_rows, size.num_validation)] for name, value in validation.items()},
            num_steps=(1, 4),
            num_latents=min(4, size.num_latents) if pair.model.has_latent else 1,
            batch_rows=size.rows_per_call,
        ),
        folder=folder / "training",
        trackers=("csv", *args.trackers),
        progress=not args.quiet,
    )
    on_device = {k: v.to(trainer.device) if isinstance(v, Tensor) else v for k, v in sampling.items()}
    shown = tuple(steps for steps in (1, 4, 20) if steps <= max(size.steps))
    trainer.callbacks.insert(0, SamplePictures(config.validate_every or 1, draw, num_steps=shown, **on_device))
    result = trainer.fit()
    if result.stopped == "signal":
        raise SystemExit(result.exit_code)
    return result


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what a report says, as they are read back from one."""
    others = ("out", "again", "minutes", "quiet", "trackers", "data_root", "download", "num_proc")
    return json.loads(json.dumps({k: v for k, v in vars(args).items() if k not in others}, default=str))


def make_folder(folder: Path, size: Size, args: argparse.Namespace, **data: str) -> Path:
    """The folder of a run, emptied where it is to begin anew, once the settings are known to do.

    Args:
        folder, size, args: of the run.
        **data: what the options do not tell of the data: a fingerprint.

    Raises:
        DomainError, ConfigError: on settings out of range, or if the folder holds a run with other options or data.
    """
    config_of(size, args)
    if args.again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "options.json"
    ours = {name: value for name, value in options_of(args).items() if name not in OF_EVALUATION} | data
    theirs = read_json(path) if path.exists() else ours
    other = [
        f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if other:
        raise ConfigError(
            f"the run in {folder} was made with {'; '.join(other)}: use the same, another --out, or --again."
        )
    if not path.exists():
        path.with_suffix(".partial").write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".partial").replace(path)  # whole or not there
    return folder


def read_json(path: Path) -> Any:
    """A file that a run has written.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; remove it and start again, the snapshots stay.") from error


def latent_figures(diagnosis: LatentDiagnosis, num_tokens: float) -> dict[str, Any]:
    """What the latent carries; the KL is that of the latent of a whole sequence."""
    kl = diagnosis.kl_all_masked
    return {
        "summary": str(diagnosis),
        "kl_nats": kl,
        "kl_nats_per_token": kl / num_tokens,
        "active_units": diagnosis.active_units,
        "mutual_information": diagnosis.mutual_information,
    }


def finish(
    result: TrainingResult,
    training: Mapping[str, Tensor],
    validation: Mapping[str, Tensor],
    size: Size,
    args: argparse.Namespace,
) -> None:
    """What the recipe does after training; both mappings as in :func:`fit`."""
    device = result.model.null_latent.device
    fitted = None
    if getattr(args, "prior", "recipe") == "recipe":  # another that was asked for stays
        fitted = {name: value[: size.num_refit].to(device) for name, value in training.items()}
    chosen = {name: value[: size.num_rows].to(device) for name, value in validation.items()}
    steps = tuple(steps for steps in size.steps if steps <= MOST_GATED)
    options = {"num_latents": size.num_latents, "rows_per_call": size.rows_per_call, **chosen}
    recipe_of(args).finish(result.model, result.guide, options.pop("x_0"), training=fitted, num_steps=steps, **options)


def bounds(
    model: VADDModel, guide: RecognitionGuide, rows: Mapping[str, Any], size: Size, seed: int
) -> tuple[list[dict[str, Any]], dict[str, BoundResult]]:
    """Bounds for samplers, from the model's own one on; the published metric, which bounds none, comes last.

    Returns:
        A row of figures for each, and the results themselves by their titles.
    """
    table: list[dict[str, Any]] = []
    results: dict[str, BoundResult] = {}
    num_latents = size.num_latents if model.has_latent else 1
    dim = rows["x_0"].shape[1]

    def add(kind: str, title: str, latents: int = 1, **options: Any) -> None:
        start = time.perf_counter()
        given = {**rows, "seed": seed, "rows_per_call": size.rows_per_call, **options}
        result = log_likelihood_bound(model, guide, bound=kind, num_latents=latents, **given)  # pyright: ignore
        results[title] = result
        table.append({"name": title, **_figures(result), "seconds": round(time.perf_counter() - start, 2)})
        if "num_steps" in options:  # models are compared sequence by sequence, finite steps on the same masks
            nats = [round(value, 4) for value in result.nats_per_sequence.tolist()]
            table[-1] |= {"steps": options["num_steps"], "of_each_sequence": nats}

    def affordable(jumps: int) -> int:
        return max(1, min(num_latents, MOST_CALLS // jumps))

    def integrated(latents: int) -> dict[str, Any]:
        # Draws of the guide alone pay its KL at every jump, however little is left to reveal.
        return {"latents": latents - latents % 2, "proposal": "mixture"} if latents > 1 else {"latents": latents}

    counts = (*(steps for steps in size.steps if steps < dim), dim)
    for steps in counts:
        plan = modes_of(model, steps)
        visits_all = len(plan) > 1 or plan == {"shared"}
        num_jumps = steps if visits_all else min(steps, size.num_jumps)
        latents = 1 if plan == {"null"} else affordable(num_jumps)
        drawn = integrated(latents) if "fresh" in plan else {"latents": latents}
        options = {} if visits_all else {"num_jumps": num_jumps}
        add("finite-step", f"finite-step, T={steps}", **drawn, num_steps=steps, **options)
    add("marginal", "marginal", num_latents, num_draws=size.num_draws)
    add("continuous", "continuous", num_draws=size.num_draws)
    if model.has_latent:
        for steps in counts:
            if modes_of(model, steps) != {"shared"}:  # else it is the bound above
                add("shared-latent", f"shared-latent, T={steps}", affordable(steps), num_steps=steps)
        add("shared-latent", "shared-latent, infinitely many steps", num_jumps=size.num_jumps)
    for ratio in RATIOS:
        add("conditional", f"one jump, {ratio:.0%} masked", **integrated(num_latents), mask_ratio=ratio, num_draws=1)
    add("delbo", "DELBO, the published metric", num_draws=size.num_draws)
    return table, results


def modes_of(model: VADDModel, num_steps: int) -> set[str]:
    """Where the latents come from in the model's own sampler."""
    return {model.latents} if model.gate is None else set(model.gate.plan(num_steps))


def _figures(result: BoundResult) -> dict[str, Any]:
    bits = result.delbo_bits_per_dim if result.kind == "delbo" else result.bits_per_dim
    return {
        "nats": result.nats,
        "stderr": result.stderr if math.isfinite(result.stderr) else None,
        "bits_per_dim": bits,
        "bounds": result.bounds,
        "num_latents": result.num_latents,
        "proposal": result.proposal,
    }


def updates_of(pair: Pair, rows: Mapping[str, Tensor], args: argparse.Namespace, precision: str) -> Callable[[], None]:
    """One update of the pair a call, always on the same rows, to see how long it takes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, guide = (part.to(device) for part in pair)
    objective = recipe_of(args).objective(model.process)
    loss = objective(model, guide)
    parameters = [p for part in pair for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    rows = {name: value.to(device) for name, value in rows.items()}

    def update() -> None:
        drawn = objective.draw(model, **rows)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            value = loss(drawn)
        value.backward()
        optimizer.step()

    return update


def flops_per_update(pair: Pair, rows: Mapping[str, Tensor], args: argparse.Namespace) -> float:
    """Floating-point operations of an update, counted on these rows with a fresh pair."""
    update = updates_of(pair, rows, args, "no")
    with FlopCounterMode(display=False) as counter:
        update()
    return float(counter.get_total_flops())


def training_figures(folder: Path, result: TrainingResult, size: Size, flops: float) -> dict[str, Any]:
    """What training took; the speed is the median of the log, over all calls."""
    metrics = metrics_of(folder)
    logged = metrics.get("sequences_per_second")  # nothing before the first line of the log
    speed = float(torch.tensor(logged["value"]).median()) if logged else None
    return {
        "sequences_per_second": speed,
        "seconds": result.step * size.batch_size / speed if speed else None,
        "seconds_of_this_call": result.seconds,
        "flops_per_update": flops,
    }


def metrics_of(folder: Path) -> dict[str, Any]:
    """What was logged in a run's folder; of one that was stopped after a few updates there is nothing."""
    return read_metrics(folder / "training") if (folder / "training" / "metrics.csv").exists() else {}


def history_of(folder: Path) -> dict[str, Any]:
    """The curves of the objective's two terms."""
    metrics = metrics_of(folder)
    if "kl" not in metrics:
        return {}
    terms = {key: metrics[key]["value"] for key in ("reconstruction", "kl")}
    return {"step": metrics["kl"]["step"], **terms}


def parameters_of(pair: Pair) -> dict[str, int]:
    """Numbers of parameters."""
    parts = zip(("model", "guide"), pair, strict=True)
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}


def print_bounds(report: Mapping[str, Any]) -> None:
    """A line for each bound."""
    state = "" if report["is_finished"] else " so far"
    print(f"\n{report['model']} on {report['data']} after {report['updates']} updates{state}; {report['unit']}")
    print(f"{'bound':<38}{'nats':>20}{'bits per dim':>14}  of")
    for row in report["bounds"]:
        stderr = "" if row["stderr"] is None else f" ± {row['stderr']:.2f}"
        cells = f"{row['nats']:.2f}{stderr}"
        print(f"{row['name']:<38}{cells:>20}{row['bits_per_dim']:>14.4f}  {row['bounds'] or 'no likelihood'}")
    if "latent" in report:
        print(report["latent"]["summary"])
