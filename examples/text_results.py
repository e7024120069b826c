"""Bounds and perplexities of a model of text, what judges say of its samples, and other texts."""

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd import RecognitionGuide, VADDModel
from vadd.errors import ConfigError, DataError
from vadd.evaluation import (
    BoundResult,
    diagnose_latent,
    document_bound,
    log_likelihood_bound,
    perplexities,
)
from vadd.metrics import (
    CausalJudge,
    LanguageJudge,
    TransformersJudge,
    generative_perplexity,
    load_causal_judge,
    mauve_score,
    save_causal_judge,
    share_of_real_words,
    train_causal_judge,
    words_of,
)
from vadd.text import PROTOCOLS, check_vocabulary, detokenizer, load_documents, text_rows

sys.path.insert(0, str(Path(__file__).resolve().parent))
import runs  # noqa: E402
from text_data import Preset, Rows, TextData, located, texts_of  # noqa: E402

SHOWN = 5  # samples of each number of steps that are written down
MOST_DOCUMENTS = 200  # of a zero-shot set that is read in windows


def evaluate(
    model: VADDModel,
    guide: RecognitionGuide,
    data: TextData,
    judge: LanguageJudge | None,
    others: Mapping[str, Any],
    preset: Preset,
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Every bound, what the judges say, and what the latent carries."""
    device = model.null_latent.device
    rows = {name: value[: preset.num_rows].to(device) for name, value in data.test.items()}
    table, results = runs.bounds(model, guide, rows, preset, args.seed)
    counts = data.test_counts(len(rows["x_0"]))
    for row in table:
        row |= figures(results[row["name"]], counts)
    report: dict[str, Any] = {"bounds": table}
    if model.has_latent:
        options: dict[str, Any] = {"num_latents": max(2, preset.num_latents), "rows_per_call": preset.rows_per_call}
        found = diagnose_latent(model, guide, **rows, **options, seed=args.seed)
        num_tokens = rows["x_0"].shape[1] - rows["is_padding"].sum(1).double().mean() if "is_padding" in rows else 0
        report["latent"] = runs.latent_figures(found, float(num_tokens or rows["x_0"].shape[1]))
    report["samples"] = judge_samples(model, data, judge, preset, args, folder)
    report["zero_shot"] = [zero_shot(model, guide, name, found, preset, args) for name, found in others.items()]
    return report


def figures(result: BoundResult, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexities and bits per character; those of the published metric, which bounds nothing, have their own name."""
    given = {} if result.kind == "conditional" else counts
    found = perplexities(result, **{name: value for name, value in given.items() if torch.as_tensor(value).sum() > 0})
    prefix = "" if result.bounds is not None else "delbo_"
    units = {"perplexity": "num_tokens", "word_perplexity": "num_words", "bits_per_character": "num_characters"}
    rates = {}
    for unit, count in units.items():
        if getattr(found, count) is not None:
            estimate = getattr(found, prefix + unit)
            rates[prefix + unit] = estimate.value
            rates[f"{prefix}{unit}_stderr"] = None if estimate.stderr != estimate.stderr else estimate.stderr
    return rates


def external_judge(data: TextData, args: argparse.Namespace) -> LanguageJudge | None:
    """The language model of ``--judge``, if one is asked for; and that MAUVE can be measured, if it is.

    Raises:
        ConfigError, DataError: if one of them is not there.
    """
    if args.mauve and importlib.util.find_spec("mauve") is None:
        raise ConfigError('--mauve needs the package mauve-text: pip install "vadd[mauve]".')
    if args.judge is None:
        return None
    if (Path(args.judge) / "judge.json").is_file():
        found, _ = load_causal_judge(args.judge)
        check_vocabulary(data.tokenizer, found.vocab_size, source=args.judge)
        return found
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A text of one token has nothing to score without a start.
    return TransformersJudge(args.judge, device=device, start_token=data.form["packing"] == "padded")


def small_judge(data: TextData, preset: Preset, args: argparse.Namespace) -> tuple[LanguageJudge, dict[str, Any]]:
    """A judge that is trained once for all runs on the same training and held-out rows; and how good it is."""
    rows = data.beginning if args.streaming else data.train
    settings = dict(preset.judge)
    if args.judge_updates is not None:
        settings["num_updates"] = args.judge_updates
    known = hashlib.sha256(json.dumps([data.fingerprint, settings]).encode())
    folder = args.out / f"judge-{data.name}-{known.hexdigest()[:12]}"
    if not (folder / "judge.json").exists():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        judge, held_out, num_updates = train_causal_judge(
            rows, data.tokenizer.vocab_size, seed=0, held_out=data.test, device=device, **settings
        )
        assert held_out is not None
        notes = {"num_updates": num_updates, "heldout_nats_per_token": held_out.mean}
        save_causal_judge(judge.cpu(), folder, notes=notes | {"heldout_stderr": held_out.stderr})
    return load_causal_judge(folder)


def judge_samples(
    model: VADDModel,
    data: TextData,
    external: LanguageJudge | None,
    preset: Preset,
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Samples by number of steps under the judge, beside held-out text; a few are written down."""
    judge, notes = small_judge(data, preset, args) if external is None else (external, {})
    num = min(preset.num_samples, len(data.test["x_0"]))
    real = {name: value[:num] for name, value in data.test.items()}
    table = [{"steps": None, **_judge(judge, real, real, data, args)}]
    pages = []
    for steps in (*(steps for steps in preset.steps if steps < data.length), data.length):
        start = time.perf_counter()
        fake = draw(model, real, steps, preset, args)
        seconds = time.perf_counter() - start
        table.append({"steps": steps, **_judge(judge, fake, real, data, args), "rows_per_second": num / seconds})
        texts = texts_of({name: value[:SHOWN] for name, value in fake.items()}, data.tokenizer)
        pages.append(f"== {steps} step{'s' if steps > 1 else ''}\n\n" + "\n--\n".join(texts))
    (folder / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    return {"judge": judge.name, "judge_notes": notes, "against": f"{num} held-out rows: steps null", "rows": table}


def draw(model: VADDModel, like: Mapping[str, Tensor], steps: int, preset: Preset, args: argparse.Namespace) -> Rows:
    """As many samples as there are rows, of padded ones with their lengths."""
    device = model.null_latent.device
    flags = {name: value.to(device) for name, value in like.items() if name == "is_padding"}
    options = {"batch_size": 4 * preset.rows_per_call, "progress": not args.quiet, **flags}
    num, length = like["x_0"].shape
    x = model.sample(num, num_steps=steps, length=length, seed=args.seed, **options)
    return {"x_0": x.cpu(), **{name: value.cpu() for name, value in flags.items()}}


def _judge(judge: LanguageJudge, rows: Rows, real: Rows, data: TextData, args: argparse.Namespace) -> dict[str, Any]:
    is_padding, texts = rows.get("is_padding"), texts_of(rows, data.tokenizer)
    num_words = 1 if data.form["packing"] == "padded" else 2  # packed, a judge's first token is not scored
    judged = [text for text in texts if len(text.split()) >= num_words]
    if isinstance(judge, CausalJudge):
        found = generative_perplexity(judge, rows["x_0"], is_padding)
    elif not judged:
        return {"perplexity": None, "perplexity_stderr": None, "unigram_entropy": None, "left_out": len(texts)}
    else:
        found = generative_perplexity(judge, judged)
    row = {
        "perplexity": found.perplexity,
        "perplexity_stderr": found.stderr,
        "unigram_entropy": found.entropy,  # in tokens of the judge
    }
    if not isinstance(judge, CausalJudge):
        row["left_out"] = len(texts) - len(judged)  # samples without a token to score
    if data.words is not None:
        counted = [text for text in texts if len(words_of(text)) > 2]  # the first and the last word do not count
        row["real_words"] = share_of_real_words(counted, data.words) if counted else None
    if args.mauve and rows is not real:
        if isinstance(judge, CausalJudge):
            sides = [judge.features(side["x_0"], side.get("is_padding")) for side in (real, rows)]
            score = mauve_score(sides[0], sides[1], features=judge.feature_name)
        else:
            score = mauve_score(texts_of(real, data.tokenizer), judged, features=judge)  # pyright: ignore
        row["mauve"] = score.score
    return row


def zero_shot_sets(data: TextData, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows, or with ``--stride`` documents, of the other texts on the command line.

    A name of a protocol brings its field and detokenizer. All else is as in the training rows.

    Raises:
        ConfigError: if an entry is not of the form NAME=SOURCE, or the stride is no number of new tokens.
        DataError: if a text cannot be read.
    """
    if args.stride is not None and not 1 <= args.stride <= data.length:
        raise ConfigError(f"--stride must lie between 1 and the length {data.length}, got {args.stride}.")
    names = [entry.partition("=")[0] for entry in args.zero_shot]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"--zero-shot has two texts of the name {twice!r}; give each its own.")
    found = {}
    for entry in args.zero_shot:
        name, _, source = entry.partition("=")
        protocol = PROTOCOLS.get(name)
        if not source and protocol is None:
            raise ConfigError(f"--zero-shot takes NAME=SOURCE, or one of {', '.join(PROTOCOLS)}; got {entry!r}.")
        rules = data.form["detokenize"] if protocol is None else protocol.detokenizer
        rules = None if rules == "none" else rules
        if protocol is not None:
            documents = protocol.documents(source=located(source, args) if source else None, unit=args.unit)
        else:
            documents = load_documents(located(source, args), field=args.field, unit=args.unit or "line")
        if args.stride is None:
            form = {**data.form, "detokenize": rules}  # the frame is that of training
            found[name] = {"rows": text_rows(documents, data.tokenizer, data.length, num_proc=args.num_proc, **form)}
        else:
            texts, change = documents["text"][:MOST_DOCUMENTS], detokenizer(rules or "none")
            pairs = zip(data.tokenizer.encode([change(text) for text in texts]), texts, strict=True)
            kept = [(tokens, text) for tokens, text in pairs if tokens]
            if not kept:
                raise DataError(f"the first {len(texts)} documents of {entry} have no token to score.")
            found[name] = {"documents": [tokens for tokens, _ in kept], "texts": [text for _, text in kept]}
    return found


def zero_shot(
    model: VADDModel,
    guide: RecognitionGuide,
    name: str,
    found: Mapping[str, Any],
    preset: Preset,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The model's bounds on another text: infinitely many steps, as many as tokens, and the published metric."""
    num_latents = preset.num_latents if model.has_latent else 1
    common: dict[str, Any] = {"seed": args.seed, "rows_per_call": preset.rows_per_call}
    if "rows" in found:
        rows = found["rows"].first(min(len(found["rows"]), preset.num_rows))
        counts = {"num_words": rows.num_words, "num_characters": rows.num_characters}
        tokens = {key: value.to(model.null_latent.device) for key, value in rows.tokens().items()}
        length, what = rows.form.length, f"{len(rows)} rows"

        def bound(**options: Any) -> BoundResult:
            return log_likelihood_bound(model, guide, **tokens, **common, **options)

    else:
        documents = found["documents"][: preset.num_rows]
        texts = found["texts"][: len(documents)]
        counts = {
            "num_words": torch.tensor([len(text.split()) for text in texts]),
            "num_characters": torch.tensor([len(text) for text in texts]),
        }
        length = model.denoiser.num_tokens or args.length
        what = f"{len(documents)} documents in windows of {args.stride} new tokens"

        def bound(**options: Any) -> BoundResult:
            return document_bound(model, guide, documents, length=length, stride=args.stride, **common, **options)

    num_jumps = min(preset.num_jumps, length)
    table = []
    for title, options in (
        ("shared-latent, infinitely many steps", {"bound": "shared-latent", "num_jumps": num_jumps}),
        ("marginal", {"bound": "marginal", "num_latents": num_latents, "num_draws": preset.num_draws}),
        ("DELBO, the published metric", {"bound": "delbo", "num_draws": preset.num_draws}),
    ):
        if options["bound"] != "shared-latent" or model.has_latent:
            result = bound(**options)
            table.append({"name": title, "nats": result.nats, "bounds": result.bounds, **figures(result, counts)})
    return {"name": name, "what": what, "bounds": table}


def print_tables(report: Mapping[str, Any]) -> None:
    """Bounds, perplexities, and what the judge says, a line each."""
    runs.print_bounds(report)
    units = ("perplexity", "word_perplexity", "bits_per_character")
    print(f"\n{'figure':<46}" + "".join(f"{unit:>20}" for unit in units))
    sets = [("held out", report["bounds"]), *((part["name"], part["bounds"]) for part in report["zero_shot"])]
    for text, rows in sets:
        for row in rows:
            prefix = "" if row["bounds"] is not None else "delbo_"
            cells = [row.get(prefix + unit) for unit in units]
            shown = "".join(f"{'' if cell is None else format(cell, '.3f'):>20}" for cell in cells)
            print(f"{text + ': ' + row['name']:<46}{shown}" + ("" if row["bounds"] is not None else "  no likelihood"))
    samples = report["samples"]
    print(f"\nsamples, judged by {samples['judge']}")
    names = [name for name in samples["rows"][-1] if name not in ("steps", "perplexity_stderr", "rows_per_second")]
    print(f"{'steps':<8}" + "".join(f"{name:>18}" for name in names))
    for row in samples["rows"]:
        cells = "".join(f"{'' if row.get(name) is None else format(row[name], '.3f'):>18}" for name in names)
        print(f"{row['steps'] or 'real':<8}{cells}")
