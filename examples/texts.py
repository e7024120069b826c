"""What the examples on text share: options, networks, training, and one run from a text to a report."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pyro
import torch
from torch import Tensor

from vadd import MaskingProcess
from vadd.backbones import (
    DiTDenoiser,
    DiTRecognition,
    EmbeddingRecognition,
    EmptyRecognition,
    SharedRecognition,
    block_patches,
)
from vadd.errors import ConfigError
from vadd.plotting import training_curves
from vadd.priors import ConditionalPrior, LatentPrior, TrunkPrior
from vadd.recipes import Pair
from vadd.reporting import write_report
from vadd.schedules import LinearSchedule
from vadd.text import DETOKENIZERS, PROTOCOLS, Unit, check_vocabulary, load_tokenizer
from vadd.training import TrainingResult, start_from_mdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
import runs  # noqa: E402
import text_results  # noqa: E402
from runs import num_updates_of, recipe_name, recipe_of  # noqa: E402
from text_data import Preset, TextData  # noqa: E402

LATENTS = ("vector", "positions", "patches")
NUM_SHOWN = 16  # samples written down while training
COUNTED = 4  # rows on which operations are counted


def add_options(parser: argparse.ArgumentParser, presets: Mapping[str, Preset], out: str) -> None:
    """The options of the example."""
    add = parser.add_argument
    add("--data", help="text file, folder, JSON lines, or name of a data set on the Hugging Face Hub")
    add("--protocol", choices=tuple(PROTOCOLS), help="rows of a published corpus; --data then stands in for the Hub")
    add("--heldout-data", help="text of its own to validate and judge on; default the end of --data")
    add("--heldout-split", help="part of --heldout-data; default train")
    add(
        "--data-root", default=os.environ.get("VADD_DATA"), help="folder of --data and vocabularies; default $VADD_DATA"
    )
    add("--split", help="part of a data set, and its range, as train[:-1000]; default train")
    add("--config", help="of a data set on the Hub")
    add("--field", default="text", help="of JSON lines and data sets")
    add("--unit", choices=get_args(Unit), help="what a document of a text file is; default line, or the protocol's")
    add("--tokenizer", help="chars (default), wiki27, gpt2, bert-base-uncased, a folder, or a name on the Hub")
    add("--detokenizer", choices=tuple(DETOKENIZERS), help="rules that the text goes through first")
    add("--length", type=int, help="tokens of a row; default the preset's")
    add("--packing", choices=("packed", "padded"), help="join documents (default), or one a row")
    add("--streaming", action="store_true", help="read the text as it goes, for more of it than memory and disk hold")
    add("--num-proc", type=int, help="processes that tokenize")
    runs.add_options(parser, tuple(presets), out)
    add("--latents", choices=LATENTS, default="vector", help="one for the row, a position, or a few positions")
    add("--prior", choices=("recipe", "conditional", "trunk"), default="recipe", help="the last two read x_t")
    add("--recognition", choices=("own", "shared", "embedding"), default="own", help="what it shares with the denoiser")
    add("--from-mdm", type=Path, help="folder of a trained MDM to start from: RUN/model")
    add("--judge", help="causal language model: of transformers, or a folder of benchmarks/train_judge.py")
    add("--judge-updates", type=int, help="of the small judge, where there is no --judge; default the preset's")
    add("--mauve", action="store_true", help="measure MAUVE in the judge's features, which needs vadd[mauve]")
    add("--zero-shot", nargs="*", default=(), metavar="NAME=SOURCE", help="other texts; NAME may be of a protocol")
    add("--stride", type=int, help="evaluate zero-shot documents in sliding windows with so many new tokens each")


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Options that a protocol or the defaults bring; none is taken that would have no effect.

    Raises:
        ConfigError: if options exclude each other.
    """
    protocol = None if args.protocol is None else PROTOCOLS[args.protocol]
    for name, default in {"split": "train", "tokenizer": "chars", "packing": "packed", "detokenizer": None}.items():
        given = getattr(args, name)
        if protocol is not None and given is not None:
            raise ConfigError(f"--protocol {args.protocol} brings its own {name}: leave --{name} {given} out.")
        setattr(args, name, given or (default if protocol is None else getattr(protocol, name)))
    if args.heldout_split is not None and args.heldout_data is None:
        raise ConfigError("--heldout-split is of --heldout-data FILE, which is not given.")
    args.heldout_split = args.heldout_split or "train"
    if args.num_proc is not None and args.streaming:
        raise ConfigError("--num-proc is of rows on the disk; with --streaming one process reads.")
    if protocol is not None and args.data is None and args.config is not None:
        raise ConfigError(f"--protocol {args.protocol} brings its own config: leave --config {args.config} out.")
    if args.judge_updates is not None and (args.judge is not None or args.judge_updates < 1):
        raise ConfigError(f"--judge-updates must be at least 1, and no --judge be given, got {args.judge_updates}.")
    if args.stride is not None and not args.zero_shot:
        raise ConfigError("--stride is of the documents of --zero-shot NAME=SOURCE, which is not given.")
    if args.latents == "patches" and args.prior == "trunk":
        raise ConfigError("--prior trunk has no latent of patches: take --latents positions, or --prior conditional.")
    for name, default in {"latents": "vector", "prior": "recipe", "recognition": "own"}.items():
        if args.baseline == "mdm" and getattr(args, name) != default:
            raise ConfigError(f"--{name} {getattr(args, name)} is of a latent, which the baseline mdm has not.")
    return args


def build(data: TextData, preset: Preset, args: argparse.Namespace) -> Pair:
    """Model and guide; the default recipe's recognition network has half the denoiser's width."""
    recipe, vocab_size = recipe_of(args), data.tokenizer.vocab_size
    latent, layout = (0, {}) if recipe.name == "mdm" else latent_of(data.length, preset, args)
    denoiser = DiTDenoiser(vocab_size, data.length, latent, **layout, **preset.dit)
    width = preset.dit["hidden_size"] // (1 if recipe.name == "paper" else 2)
    light = {"hidden_size": width, "num_heads": preset.dit["num_heads"], **layout}
    recognition: Any = EmptyRecognition()
    if latent and args.recognition == "own":
        recognition = DiTRecognition(vocab_size, data.length, latent, **{**preset.dit, **light})
    elif latent:
        kind = SharedRecognition if args.recognition == "shared" else EmbeddingRecognition
        recognition = kind.for_denoiser(denoiser, **light)
    prior: LatentPrior | None = None
    if args.prior == "conditional":
        encoder = DiTRecognition(vocab_size, data.length, latent, **{**preset.dit, **light})
        prior = ConditionalPrior(encoder, vocab_size)
    elif args.prior == "trunk":
        prior = TrunkPrior(latent, denoiser.context_size, per_position=args.latents == "positions")
    pair = recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), vocab_size), prior=prior)
    if args.from_mdm is not None:
        if (args.from_mdm / "tokenizer").is_dir():
            theirs = load_tokenizer(args.from_mdm / "tokenizer")
            check_vocabulary(
                data.tokenizer, theirs.vocab_size, source=str(args.from_mdm), fingerprint=theirs.fingerprint
            )
        start_from_mdm(pair.model, args.from_mdm)
    return pair


def latent_of(length: int, preset: Preset, args: argparse.Namespace) -> tuple[int | tuple[int, int], dict[str, Any]]:
    """The latent's shape, and what else the networks need to know of it."""
    if args.latents == "patches":
        patches = block_patches(length, preset.patch_tokens)
        return (patches[-1] + 1, preset.latent_per_patch), {"patches": patches}
    return preset.latent_size if args.latents == "vector" else (length, preset.latent_per_position), {}


def run_folder(data: TextData, preset: Preset, args: argparse.Namespace) -> Path:
    """Of all that belongs to a run; other settings make another one."""
    parts = [data.name, data.tokenizer.name.replace("/", "_"), data.form["packing"], str(data.length), args.preset]
    parts += [recipe_name(args), *([] if args.baseline else [args.latents, args.recognition])]
    parts += [f"{args.prior}-prior"] * (args.prior != "recipe")
    parts += ["started"] * (args.from_mdm is not None) + [str(num_updates_of(preset, args)), f"seed{args.seed}"]
    return args.out / "-".join(parts)


def train(data: TextData, preset: Preset, args: argparse.Namespace, folder: Path) -> TrainingResult:
    """Train and finish, from where an earlier run stopped; the moving average, ready for sampling."""
    pyro.set_rng_seed(args.seed)
    pair = build(data, preset, args)

    def draw(path: Path, samples: dict[str, Tensor]) -> None:
        pages = [f"== {label}\n\n" + "\n--\n".join(data.tokenizer.decode(x)) for label, x in samples.items()]
        path.with_suffix(".txt").write_text("\n\n".join(pages), encoding="utf-8")

    sampling: dict[str, Any] = {"length": data.length}
    if "is_padding" in data.validation:
        flags = data.validation["is_padding"]
        sampling["is_padding"] = flags[torch.arange(NUM_SHOWN) % len(flags)]
    result = runs.fit(pair, data.train, preset, args, folder, validation=data.validation, draw=draw, **sampling)
    runs.finish(result, data.beginning, data.validation, preset, args)
    return result


def updates_of(data: TextData, preset: Preset, args: argparse.Namespace) -> Callable[[], None]:
    """One update of a fresh pair a call, to see how long it takes."""
    rows = {name: value[: preset.batch_size] for name, value in data.beginning.items()}
    return runs.updates_of(build(data, preset, args), rows, args, runs.precision_of(preset, args))


def run(data: TextData, preset: Preset, args: argparse.Namespace) -> dict[str, Any]:
    """Train, save, evaluate, write samples and the report; its content."""
    start, name = time.perf_counter(), recipe_of(args).name
    # What cannot be read comes up now, not after the training.
    others = text_results.zero_shot_sets(data, args)
    judge = text_results.external_judge(data, args)
    # So does what cannot be built, before the folder takes the options down.
    few = {key: value[:COUNTED] for key, value in data.beginning.items()}
    flops = runs.flops_per_update(build(data, preset, args), few, args) * preset.batch_size / len(few["x_0"])
    folder = runs.make_folder(run_folder(data, preset, args), preset, args, rows=data.fingerprint)
    result = train(data, preset, args, folder)
    model, guide = result.model, result.guide
    notes = {"data": data.name, "update": result.step, "tokenizer": data.tokenizer.fingerprint}
    frame = data.form.get("frame")
    notes |= {"packing": data.form["packing"], "frame": None if frame is None else list(frame)}
    model.save_pretrained(folder / "model", guide=guide, notes=notes)
    data.tokenizer.save(folder / "model" / "tokenizer")
    if history := runs.history_of(folder):
        title = f"{data.name}: terms of the objective"
        training_curves(folder / "curves.png", {name: history}, unit="nats per sequence", title=title)
    judged = text_results.evaluate(model, guide, data, judge, others, preset, args, folder)
    num_updates = num_updates_of(preset, args)
    report = {
        "data": data.name,
        "unit": f"nats per row of {data.length} tokens of {data.tokenizer.name}, {data.form['packing']}",
        "dropped": data.dropped,
        "model": name,
        "options": runs.options_of(args),
        "preset": {
            "name": args.preset,
            **asdict(replace(preset, num_updates=num_updates, precision=runs.precision_of(preset, args))),
        },
        "updates": result.step,
        "is_finished": result.step == num_updates,
        "parameters": runs.parameters_of(Pair(model, guide)),
        "training": runs.training_figures(folder, result, preset, flops),
        **judged,
    }
    path = write_report("report", report, seed=args.seed, folder=folder, device=model.null_latent.device)
    text_results.print_tables(report)
    print(f"\nwrote the model, samples and {path}; {time.perf_counter() - start:.0f} s")
    return report
