"""Rows of tokens of documents, memory-mapped: what the Trainer and the evaluation read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vadd._checks import is_integer
from vadd.errors import ConfigError, DataError, DomainError
from vadd.text.documents import require_datasets
from vadd.text.form import Detokenize, Encoder, Packing, RowForm
from vadd.text.stretches import Stretches

if TYPE_CHECKING:
    import datasets

    from vadd.text.base import Tokenizer

__all__ = ["TextRows", "text_rows"]

_VERSION = 1
_BATCH_BYTES = 1 << 22


@dataclass(frozen=True)
class _Counts:
    tokens: int
    words: int
    characters: int
    cut: int


class TextRows(Dataset):
    """Map-style data set of rows of tokens; :func:`text_rows` makes it. Tokens stay on the disk until they are read.

    Items are ``{"x_0": int64 (length,)}``, and of padded rows ``"is_padding": bool (length,)`` too; tokens at padding
    are 0 and mean nothing.

    Args:
        documents: tokenized, with columns ``tokens``, ``words`` and ``characters``.
        encoder: that tokenized them.
        form: of the rows.
        num: rows to keep, from the first; None for all.

    Attributes:
        form: of the rows.
        tokenizer: that made the tokens.
        num_dropped_tokens: tokens of documents that are in no row: the rest behind the last packed row, or what was cut
            off of padded ones. Rows left out by ``num`` are not counted.
        num_dropped_documents: padded, documents without a token, which make no row.

    Raises:
        DataError: if there is not a single row.
        DomainError: if ``num`` is not positive, or there are fewer rows.
    """

    def __init__(
        self, documents: "datasets.Dataset", encoder: Encoder, form: RowForm, *, num: int | None = None
    ) -> None:
        self.documents, self.encoder, self.form = documents, encoder, form
        self.tokenizer = encoder.tokenizer
        self._stretches = Stretches(documents)
        starts, sizes = self._stretches.starts, self._stretches.sizes
        total = int(sizes.sum())
        self._padded: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.num_dropped_documents = 0
        if form.packing == "packed":
            found = total // form.room
            self.num_dropped_tokens = total - found * form.room
        else:
            parts = -(-sizes // form.room) if form.split else np.minimum(sizes, 1)
            document = np.repeat(np.arange(len(sizes)), parts)
            skipped = form.room * (np.arange(len(document)) - np.repeat(parts.cumsum() - parts, parts))
            width = np.minimum(sizes[document] - skipped, form.room)
            self._padded = (starts[document] + skipped, width, document)
            found = len(document)
            self.num_dropped_documents = int((sizes == 0).sum())
            self.num_dropped_tokens = total - int(width.sum())
        if found == 0:
            raise DataError(
                f"{len(documents)} documents of {total} tokens make no row of {form.length}: give more text, or a "
                "smaller length."
            )
        if num is not None and not (is_integer(num) and num <= found):
            raise DomainError(f"num must be a number of rows from 1 to {found}, got {num!r}.")
        self._num = found if num is None else num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """A whole batch at once: what torch's loader asks for where it can."""
        fetched = self._fetch(rows)
        return [{name: value[i] for name, value in fetched.items()} for i in range(len(rows))]

    def tokens(self, num: int | None = None) -> dict[str, Tensor]:
        """The first ``num`` rows in memory, ``x_0`` and ``is_padding``: ``(num, length)``; default all.

        Raises:
            DomainError: if there are fewer.
        """
        return self._fetch(range(len(self if num is None else self.first(num))))

    def first(self, num: int) -> "TextRows":
        """The first ``num`` rows, with counts of their own.

        Raises:
            DomainError: if there are fewer.
        """
        if num > len(self):
            raise DomainError(f"num must be a number of rows from 1 to {len(self)}, got {num}.")
        return TextRows(self.documents, self.encoder, self.form, num=num)

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows that are no padding, separators and frames among them: all that a model is to predict."""
        return self._counts.tokens

    @property
    def num_words(self) -> int:
        """Words, separated by white space, of the documents in the rows, as they were before detokenizing.

        Documents that are in the rows as a whole, be it over several rows, count as they are; of one that is cut, the
        decoded tokens that the rows hold are counted, a word that is cut counting as one.
        """
        return self._counts.words

    @property
    def num_characters(self) -> int:
        r"""Characters, counted as :attr:`num_words` are; so is a separator that is one itself, as ``"\n"``."""
        return self._counts.characters

    @property
    def num_cut_documents(self) -> int:
        """Documents of which the rows hold the beginning alone."""
        return self._counts.cut

    @cached_property
    def _counts(self) -> _Counts:
        sizes, starts = self._stretches.sizes, self._stretches.starts
        ended = 0 if self.encoder.separator is None else 1
        room, num = self.form.room, len(self)
        if self._padded is None:
            covered = np.clip(num * room - starts, 0, sizes)
            is_in = starts + (sizes - ended) <= num * room
            num_text = num * room
        else:
            _, width, document = (part[:num] for part in self._padded)
            covered = np.bincount(document, width, len(sizes)).astype(np.int64)
            is_in = covered > 0
            num_text = int(width.sum())
        is_whole = is_in & (covered >= sizes - ended)
        words, characters = (int(self._stretches.column(name)[is_whole].sum()) for name in ("words", "characters"))
        cut = np.flatnonzero((covered > 0) & ~is_whole)
        for begin in range(0, len(cut), 1000):
            wanted = [(int(starts[k]), int(covered[k])) for k in cut[begin : begin + 1000]]
            rows: Any = [self._stretches.read(*place).tolist() for place in wanted]
            for text in self.tokenizer.decode(rows):
                words, characters = words + len(text.split()), characters + len(text)
        separator = self.encoder.separator
        if separator is not None and len(self.tokenizer.decode([[separator]])[0]) == 1:
            characters += int(((covered == sizes) & is_whole).sum())
        return _Counts(num_text + num * (self.form.length - room), words, characters, len(cut))

    def _fetch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        wanted = np.asarray(rows, np.int64)
        if bool(((wanted < 0) | (wanted >= len(self))).any()):
            raise IndexError(f"rows must lie in [0, {len(self)}), got {list(rows)}.")
        if self._padded is None:
            starts, sizes = wanted * self.form.room, np.full(len(wanted), self.form.room)
        else:
            starts, sizes = self._padded[0][wanted], self._padded[1][wanted]
        places = zip(starts.tolist(), sizes.tolist(), strict=True)
        return self.form.fill([self._stretches.read(*place) for place in places])


def text_rows(
    documents: "datasets.Dataset | Sequence[str]",
    tokenizer: "Tokenizer",
    length: int,
    *,
    packing: Packing = "packed",
    detokenize: Detokenize = None,
    separate: bool = True,
    frame: tuple[int, int] | None = None,
    split: bool = False,
    num_proc: int | None = None,
    cache: str | Path | None = None,
) -> TextRows:
    """Tokenize documents, once, and cut them into rows.

    Packed, every document is followed by the tokenizer's separator, where it has one, and all of it is cut into rows,
    the rest being dropped. Padded, every document is a row of its own without separator. Tokens are kept on the disk
    under a fingerprint of the documents, the tokenizer and the rules, and found there by the next call.

    Args:
        documents: of :func:`~vadd.text.documents.load_documents`, or texts.
        tokenizer: of :func:`~vadd.text.tokenizers.load_tokenizer`.
        length: tokens of a row.
        packing: ``"packed"`` or ``"padded"``.
        detokenize: name of a :func:`~vadd.text.detokenizers.detokenizer`, or a function on texts.
        separate: packed, whether the separator ends a document.
        frame: two tokens to begin and end every row with, inside of ``length``.
        split: padded, whether a long document goes on in further rows; otherwise its rest is dropped.
        num_proc: processes that tokenize, at least 1; default this one alone.
        cache: folder of the tokens; default that of ``datasets``.

    Raises:
        ConfigError: if options do not fit together, or the documents are a stream.
        DataError: if a document is no text, or has characters that the tokenizer does not know, or no row comes out.
        DomainError: if the length leaves no room, the frame is not of the tokenizer, or ``num_proc`` is no number of
            processes.
    """
    datasets = require_datasets()
    form = RowForm(length, packing, frame, split)
    form.check(tokenizer)
    if num_proc is not None and not is_integer(num_proc):
        raise DomainError(
            f"num_proc must be a number of processes, at least 1, got {num_proc!r}; leave it out for one."
        )
    if isinstance(documents, datasets.IterableDataset):
        raise ConfigError("documents are a stream, which has no rows to find again: use vadd.text.stream.TextStream.")
    if not isinstance(documents, datasets.Dataset):
        if isinstance(documents, str):
            raise ConfigError("documents must be a sequence of texts, got one text: give [text].")
        features = datasets.Features({"text": datasets.Value("string")})
        documents = datasets.Dataset.from_dict({"text": list(documents)}, features=features)
    names = getattr(documents, "column_names", [])
    if "text" not in names:
        raise DataError(f"documents must have the column 'text', got {names}.")
    encoder = Encoder(tokenizer, detokenize, separate and packing == "packed")
    return TextRows(_tokenized(datasets, documents, encoder, num_proc, cache), encoder, form)


class _Tokenize:
    """Tables of texts to tables of tokens."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        texts = table.column("text").to_pylist()
        tokens, ends = self.encoder(texts)
        lists = pa.ListArray.from_arrays(pa.array(np.r_[0, ends], pa.int32()), pa.array(tokens))
        words, characters = ([measure(text) for text in texts] for measure in (lambda text: len(text.split()), len))
        columns = [lists, pa.array(words, pa.int64()), pa.array(characters, pa.int64())]
        return pa.table(columns, ["tokens", "words", "characters"])


def _tokenized(
    datasets: Any, documents: Any, encoder: Encoder, num_proc: int | None, cache: str | Path | None
) -> "datasets.Dataset":
    if len(documents) == 0:
        raise DataError("there are no documents: give some.")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "vadd" if cache is None else Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    rules = json.dumps([_VERSION, documents._fingerprint, *encoder.rules()])
    fingerprint = hashlib.sha256(rules.encode()).hexdigest()[:32]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value(encoder.dtype.name)),
            "words": datasets.Value("int64"),
            "characters": datasets.Value("int64"),
        }
    )
    mean = max(1, documents.data.nbytes // max(1, documents.data.num_rows))
    batch = int(min(1000, max(1, _BATCH_BYTES // mean)))
    return (
        documents.select_columns(["text"])
        .with_format("arrow")
        .map(
            _Tokenize(encoder),
            batched=True,
            batch_size=batch,
            writer_batch_size=batch,
            remove_columns=["text"],
            features=features,
            num_proc=num_proc,
            cache_file_name=str(folder / f"tokens-{fingerprint}.arrow"),
            load_from_cache_file=True,
            new_fingerprint=fingerprint,
            desc="Tokenizing",
        )
        .with_format(None)
    )
