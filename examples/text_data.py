"""Text to train, choose and judge on, and how large a run is."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd.errors import ConfigError, DataError
from vadd.metrics import words_of
from vadd.text import (
    PROTOCOLS,
    CharTokenizer,
    TextRows,
    TextStream,
    Tokenizer,
    detokenizer,
    load_documents,
    load_tokenizer,
    text_rows,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
from runs import Size  # noqa: E402

#: Tokens of published protocols that begin a row and are no text.
BEGINNINGS = {"bert-base-uncased": (101,)}

#: ``x_0``, of padded rows also ``is_padding``, shape ``(rows, length)``.
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Preset(Size):
    """How large a run is, and its networks.

    Attributes:
        dit: options of the transformers.
        length: tokens of a row, unless the command line says otherwise.
        latent_per_position: components of a latent with one vector a position.
        patch_tokens, latent_per_patch: tokens that share a vector of a latent in patches, and its components.
        num_test: rows held out for the judgement, from the end of the text, where there is no text of its own for it.
        judge: options of the small autoregressive judge.
    """

    dit: Mapping[str, Any]
    length: int = 128
    latent_per_position: int = 8
    patch_tokens: int = 4
    latent_per_patch: int = 8
    num_test: int = 1000
    judge: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextData:
    """Rows of tokens.

    Attributes:
        name: of the text.
        tokenizer: of all rows.
        length: tokens of a row.
        train: what is trained on.
        beginning: the first training rows, in memory.
        validation, test: held out, in memory.
        words: of the training text, for a model of characters.
        form: options of ``text_rows`` that all rows were made with.
        source: rows that the held-out ones are some of.
        start: number of the first test row among them.
    """

    name: str
    tokenizer: Tokenizer
    length: int
    train: TextRows | TextStream
    beginning: Rows
    validation: Rows
    test: Rows
    words: frozenset[str] | None
    form: Mapping[str, Any]
    source: TextRows
    start: int

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer, the form, the number of training rows, and the first and the held-out ones."""
        size = len(self.train) if isinstance(self.train, TextRows) else None
        found = hashlib.sha256(json.dumps([self.tokenizer.fingerprint, self.length, dict(self.form), size]).encode())
        for part in (self.beginning, self.validation, self.test):
            for name in sorted(part):
                found.update(part[name].numpy().tobytes())
        return found.hexdigest()

    @property
    def dropped(self) -> dict[str, int] | None:
        """Tokens and documents of the text that are in no row; None for a stream, which does not end."""
        if not isinstance(self.train, TextRows):
            return None
        return {"tokens": self.train.num_dropped_tokens, "documents": self.train.num_dropped_documents}

    def test_counts(self, num: int) -> dict[str, int]:
        """Words and characters of the first test rows; a word counts in the row in which it begins."""
        before, behind = (self.source.first(stop) for stop in (self.start, self.start + num))
        return {
            "num_words": behind.num_words - before.num_words,
            "num_characters": behind.num_characters - before.num_characters,
        }


def load(args: argparse.Namespace, preset: Preset) -> TextData:
    """Tokenize the text that the command line names."""
    if args.quiet:
        with suppress(ImportError):  # which load_documents explains
            import datasets

            datasets.disable_progress_bars()
    protocol = None if args.protocol is None else PROTOCOLS[args.protocol]
    length = preset.length if args.length is None else args.length
    rules = None if args.detokenizer == "none" else args.detokenizer
    form: dict[str, Any] = {"packing": args.packing, "detokenize": rules}
    unit = args.unit or ("line" if protocol is None else protocol.unit)
    source: dict[str, Any] = {"split": args.split, "field": args.field, "config": args.config, "unit": unit}
    name = args.tokenizer
    if protocol is not None:
        form["frame"] = protocol.frame
        length = protocol.length if args.length is None else args.length
        source["field"] = protocol.field
        if args.data is None:
            source["config"] = protocol.config
    data = args.data if protocol is None or args.data is not None else protocol.source
    if data is None:
        raise ConfigError("give --data FILE, or --protocol for a published corpus.")
    num_held = preset.num_validation + preset.num_test
    if args.heldout_data is not None and is_same(data, args.heldout_data, args) and args.heldout_split == args.split:
        raise ConfigError(
            f"--heldout-data {args.heldout_data} is the text that is trained on: leave it out to hold its end out, or "
            "name another --heldout-split."
        )
    if args.streaming:
        if args.heldout_data is None or name == "chars":
            raise ConfigError(
                "--streaming reads the text as it goes: it needs --heldout-data FILE for the rows that are held out, "
                "and a --tokenizer other than chars, whose alphabet is that of the whole text."
            )
        tokenizer = load_tokenizer(name, root=args.data_root)
        documents = load_documents(located(data, args), streaming=True, **source)
        train = TextStream(documents, tokenizer, length, seed=args.seed, retries=5, **form)
        first = TextStream(documents, tokenizer, length, seed=args.seed, **form)
        beginning = stack(list(islice(first, preset.num_refit)))
        held_from, first_held = heldout_rows(args, tokenizer, length, form, source), 0
        words = None
    else:
        documents = load_documents(located(data, args), **source)
        texts = None
        if name == "chars":
            rules = detokenizer(form["detokenize"] or "none")
            texts = chain(["\n" * (unit == "line")], map(rules, documents["text"]))
        tokenizer = load_tokenizer(name, texts=texts, root=args.data_root)
        rows = text_rows(documents, tokenizer, length, num_proc=args.num_proc, **form)
        if args.heldout_data is None:
            if len(rows) < 2 * num_held:
                raise DataError(
                    f"{data} makes {len(rows)} rows of {length} tokens, too few to hold {num_held} of them out: give "
                    "more text, --heldout-data FILE, a smaller --length, or a smaller --preset."
                )
            train, held_from = rows.first(len(rows) - num_held), rows
            first_held = len(train)
        else:
            train, held_from, first_held = rows, heldout_rows(args, tokenizer, length, form, source), 0
        beginning = train.tokens(min(len(train), preset.num_refit))
        words = frozenset(words_in(train)) if isinstance(tokenizer, CharTokenizer) else None
    held = stack(held_from.__getitems__(range(first_held, min(first_held + num_held, len(held_from)))))
    split = min(preset.num_validation, len(held["x_0"]) // 2)
    validation = {name: value[:split] for name, value in held.items()}
    test = {name: value[split:] for name, value in held.items()}
    name = Path(str(data)).resolve().name
    title = args.protocol or name.split(".")[0] or name.strip(".") or "text"  # .hidden and / have names, too
    start = first_held + split
    return TextData(title, tokenizer, length, train, beginning, validation, test, words, form, held_from, start)


def located(source: str, args: argparse.Namespace) -> str:
    """A source below ``--data-root`` where it is there, else as it was given."""
    below = None if args.data_root is None else Path(args.data_root) / source
    return str(below) if below is not None and below.exists() else source


def is_same(one: str, other: str, args: argparse.Namespace) -> bool:
    """Whether both name one text."""
    return os.path.realpath(located(one, args)) == os.path.realpath(located(other, args))


def heldout_rows(
    args: argparse.Namespace,
    tokenizer: Tokenizer,
    length: int,
    form: Mapping[str, Any],
    source: Mapping[str, Any],
) -> TextRows:
    """The rows of a text of its own."""
    given = {**source, "split": args.heldout_split}
    documents = load_documents(located(args.heldout_data, args), **given)
    rows = text_rows(documents, tokenizer, length, num_proc=args.num_proc, **form)
    if len(rows) < 2:
        raise DataError(f"{args.heldout_data} makes one row of {length} tokens; two or more are needed.")
    return rows


def words_in(rows: TextRows) -> set[str]:
    """The distinct words of rows; packed ones are read on from one to the next."""
    found: set[str] = set()
    joint = "" if rows.form.packing == "packed" else "\n"
    for start in range(0, len(rows), 1000):
        part = stack(rows.__getitems__(range(start, min(start + 1000, len(rows)))))
        found.update(words_of(joint.join(texts_of(part, rows.tokenizer))))
    return found


def stack(items: Sequence[Mapping[str, Tensor]]) -> Rows:
    """Rows one under the other."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def documents_of(rows: Mapping[str, Tensor], tokenizer: Tokenizer) -> list[list[str]]:
    """The texts in each row, without padding and special tokens; of characters a row is one text."""
    is_padding = rows.get("is_padding")
    found = []
    for i, tokens in enumerate(rows["x_0"].cpu()):
        kept = tokens if is_padding is None else tokens[~is_padding[i].cpu()]
        if isinstance(tokenizer, CharTokenizer):
            found.append(tokenizer.decode([kept.tolist()]))
            continue
        parts: list[list[int]] = [[]]
        for token in kept.tolist():
            if token in (tokenizer.separator, *BEGINNINGS.get(tokenizer.name, ())):
                parts.append([])
            else:
                parts[-1].append(token)
        found.append(tokenizer.decode([part for part in parts if part]))
    return found


def texts_of(rows: Mapping[str, Tensor], tokenizer: Tokenizer) -> list[str]:
    """The text of each row; documents in one are on lines of their own."""
    return ["\n".join(parts) for parts in documents_of(rows, tokenizer)]
