"""Text to train, choose and judge on, and how large a run is."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd.errors import ConfigError, DataError
from vadd.metrics import words_of
from vadd.text import CharTokenizer, TextRows, TextStream, Tokenizer, load_documents, load_tokenizer, text_rows

sys.path.insert(0, str(Path(__file__).resolve().parent))
from runs import Size  # noqa: E402

#: ``x_0``, of padded rows also ``is_padding``, shape ``(rows, length)``.
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Preset(Size):
    """How large a run is, and its networks.

    Attributes:
        dit: options of the transformers.
        length: tokens of a row, unless the command line says otherwise.
        latent_per_position: components of a latent with one vector a position.
        num_test: rows held out for the judgement, from the end of the text, where there is no text of its own for it.
        judge: options of the small autoregressive judge.
    """

    dit: Mapping[str, Any]
    length: int = 128
    latent_per_position: int = 8
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
        detokenize: name of the rules that the text went through.
    """

    name: str
    tokenizer: Tokenizer
    length: int
    train: TextRows | TextStream
    beginning: Rows
    validation: Rows
    test: Rows
    words: frozenset[str] | None
    detokenize: str | None


def load(args: argparse.Namespace, preset: Preset) -> TextData:
    """Tokenize the text that the command line names."""
    length = args.length or preset.length
    form: dict[str, Any] = {"packing": args.packing, "detokenize": args.detokenizer}
    source: dict[str, Any] = {"split": args.split, "field": args.field, "config": args.config, "unit": args.unit}
    source["root"] = args.data_root
    num_held = preset.num_validation + preset.num_test
    if args.streaming:
        if args.heldout_data is None or args.tokenizer == "chars":
            raise ConfigError(
                "--streaming reads the text as it goes: it needs --heldout-data FILE for the rows that are held out, "
                "and a --tokenizer other than chars, whose alphabet is that of the whole text."
            )
        tokenizer = load_tokenizer(args.tokenizer, root=args.data_root)
        documents = load_documents(args.data, streaming=True, **source)
        train = TextStream(documents, tokenizer, length, seed=args.seed, retries=5, **form)
        first = TextStream(documents, tokenizer, length, seed=args.seed, **form)
        beginning = stack(list(islice(first, preset.num_refit)))
        held, words = heldout_rows(args, tokenizer, length, form), None
    else:
        documents = load_documents(args.data, **source)
        texts = ["\n" * (args.unit == "line"), *documents["text"]] if args.tokenizer == "chars" else None
        tokenizer = load_tokenizer(args.tokenizer, texts=texts, root=args.data_root)
        rows = text_rows(documents, tokenizer, length, num_proc=args.num_proc, **form)
        if args.heldout_data is None:
            if len(rows) < 2 * num_held:
                raise DataError(
                    f"{args.data} makes {len(rows)} rows of {length} tokens, too few to hold {num_held} of them out: "
                    "give more text, --heldout-data FILE, a smaller --length, or a smaller --preset."
                )
            train = rows.first(len(rows) - num_held)
            held = stack(rows.__getitems__(range(len(train), len(rows))))
        else:
            train, held = rows, heldout_rows(args, tokenizer, length, form)
        beginning = train.tokens(min(len(train), preset.num_refit))
        is_of_characters = isinstance(tokenizer, CharTokenizer)
        words = frozenset(words_in(documents["text"])) if is_of_characters else None
    split = min(preset.num_validation, len(held["x_0"]) // 2)
    validation, test = (
        {name: value[part] for name, value in held.items()} for part in (slice(split), slice(split, None))
    )
    name = Path(str(args.data)).name.split(".")[0]
    return TextData(name, tokenizer, length, train, beginning, validation, test, words, args.detokenizer)


def heldout_rows(args: argparse.Namespace, tokenizer: Tokenizer, length: int, form: Mapping[str, Any]) -> Rows:
    """All rows of a text of its own."""
    documents = load_documents(args.heldout_data, field=args.field, unit=args.unit, root=args.data_root)
    rows = text_rows(documents, tokenizer, length, **form)
    if len(rows) < 2:
        raise DataError(f"{args.heldout_data} makes one row of {length} tokens; two or more are needed.")
    return rows.tokens()


def words_in(texts: Sequence[str]) -> set[str]:
    """The distinct words of some texts."""
    found: set[str] = set()
    for text in texts:
        found.update(words_of(text))
    return found


def stack(items: Sequence[Mapping[str, Tensor]]) -> Rows:
    """Rows one under the other."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def texts_of(rows: Mapping[str, Tensor], tokenizer: Tokenizer) -> list[str]:
    """The text of each row, without its padding."""
    is_padding = rows.get("is_padding")
    tokens = rows["x_0"].tolist()
    if is_padding is not None:
        tokens = [
            [x for x, pad in zip(*row, strict=True) if not pad] for row in zip(tokens, is_padding.tolist(), strict=True)
        ]
    return tokenizer.decode(tokens)
