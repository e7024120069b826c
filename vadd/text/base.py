"""Texts to tokens and back: what every tokenizer does, and which checkpoint it fits."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from vadd.errors import ConfigError, DataError, DomainError, DtypeError, ShapeError

__all__ = ["DESCRIPTION", "Tokenizer", "check_vocabulary", "hash_of"]

#: File of a saved tokenizer that names its class, options and fingerprint.
DESCRIPTION = "vadd_tokenizer.json"


class Tokenizer(ABC):
    """Texts to tokens and back.

    Clean tokens are ``0 .. vocab_size - 1``. The mask token of the diffusion process, ``vocab_size``, is not among
    them: no text is encoded to it, and decoding shows it as a word of the caller's choice.

    Subclasses implement :meth:`encode_texts` and :meth:`decode_rows`, and :meth:`options` where they are to be saved.

    Attributes:
        name: for reports.
        vocab_size: number V of clean tokens.
        separator: token that ends a document where documents are packed into one sequence, or None.
        fingerprint: hash of the vocabulary and the rules. Tokenizers with equal fingerprints give equal tokens for
            equal texts, wherever they were loaded from.
    """

    def __init__(self, *, name: str, vocab_size: int, separator: int | None, fingerprint: str) -> None:
        self.name = name
        self.vocab_size = vocab_size
        self.separator = separator
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, vocab_size={self.vocab_size}, separator={self.separator})"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text. No special tokens are added, and none are recognized: ``[MASK]`` is five letters.

        Raises:
            ConfigError: if ``texts`` is one string.
            DataError: if an item is no string, holds surrogates (code points that no UTF-8 file can hold), or holds
                characters that the vocabulary cannot express.
        """
        refuse_one_text(texts)
        checked = list(texts)
        for row, text in enumerate(checked):
            if not isinstance(text, str):
                raise DataError(
                    f"texts[{row}] must be a string, got {type(text).__name__}; bytes are decoded by the reader: "
                    "raw.decode('utf-8')."
                )
            if not text.isascii():
                _refuse_surrogates(row, text)
        return self.encode_texts(checked)

    def decode(self, rows: Sequence[Sequence[int]] | Int[Tensor, "rows length"], *, mask: str = "[MASK]") -> list[str]:
        """The text of each row of tokens.

        Args:
            rows: lists of tokens, or a tensor ``(rows, length)``, in ``[0, vocab_size]``.
            mask: what the mask token ``vocab_size`` is shown as.

        Raises:
            ShapeError: if ``rows`` is one row.
            DtypeError: if tokens are no integers.
            DomainError: if a token lies outside.
        """
        return self.decode_rows(_checked_rows(rows, self.vocab_size), mask)

    def save(self, folder: str | Path) -> Path:
        """Write the tokenizer to files without code; :func:`~vadd.text.tokenizers.load_tokenizer` gives it back.

        Returns:
            The folder, which is made where it is missing.

        Raises:
            ConfigError: if ``folder`` is a file, or the class does not say what it is made of.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"folder must name a folder to save the tokenizer in, {folder} is a file.")
        description = {
            "format": 1,
            "class": type(self).__name__,
            "options": self.options(),
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
        }
        try:
            text = json.dumps(description, indent=1)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{type(self).__name__}.options() must be values for JSON: {error}.") from error
        folder.mkdir(parents=True, exist_ok=True)
        # The description last: a folder that was not written to the end fails the check of the fingerprint.
        for file, content in {**self._files(), DESCRIPTION: text}.items():
            partial = folder / f"{file}.partial"
            partial.write_text(content, encoding="utf-8")
            os.replace(partial, folder / file)
        return folder

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text; :meth:`encode` has checked that they are strings without surrogates.

        Raises:
            DataError: where the vocabulary cannot express a text.
        """

    @abstractmethod
    def decode_rows(self, rows: list[list[int]], mask: str) -> list[str]:
        """The text of each row of tokens; :meth:`decode` has checked that they lie in ``[0, vocab_size]``."""

    def options(self) -> dict[str, Any]:
        """Arguments of the constructor that make this tokenizer again, as values for JSON.

        Raises:
            ConfigError: if the class does not override it: then it cannot be saved.
        """
        name = type(self).__name__
        raise ConfigError(f"{name} cannot be saved: override options(), which returns its constructor's arguments.")

    def _files(self) -> dict[str, str]:
        """Contents of further files, by name, that are saved beside the description."""
        return {}


def refuse_one_text(texts: Any) -> None:
    """Raise a ConfigError if the texts are one string, whose characters would pass for texts."""
    if isinstance(texts, str | bytes):
        raise ConfigError("texts must be a sequence of strings, got one string: pass [text].")


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, *, source: str, fingerprint: str | None = None) -> None:
    """Refuse a tokenizer that does not belong to a checkpoint or to stored rows.

    Args:
        tokenizer: that texts are to be encoded or samples decoded with.
        vocab_size: number of clean tokens of the checkpoint.
        source: what ``vocab_size`` was read from, for the message.
        fingerprint: of the tokenizer that the checkpoint was trained with, where it notes one.

    Raises:
        ConfigError: if the sizes differ, or the fingerprints do.
    """
    if vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"{source} has {vocab_size} tokens, the tokenizer {tokenizer.name!r} has {tokenizer.vocab_size}; load the "
            "tokenizer that it was trained with."
        )
    if fingerprint is not None and fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{source} and the tokenizer {tokenizer.name!r} both have {vocab_size} tokens, but not the same ones: "
            f"fingerprint {fingerprint} there, {tokenizer.fingerprint} here; load the tokenizer that it was trained "
            "with."
        )


def hash_of(rules: Any) -> str:
    """SHA-256 of a value for JSON, the same in every process and for every order of keys."""
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _refuse_surrogates(row: int, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"texts[{row}] holds the surrogate U+{ord(text[error.start]):04X} at position {error.start}, which is no "
            "character; the text was read with a wrong encoding or with errors='surrogateescape'. Read it as UTF-8."
        ) from error


def _checked_rows(rows: Any, vocab_size: int) -> list[list[int]]:
    """Rows of tokens as lists, each token checked."""
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().numpy()
    checked = []
    for index, row in enumerate(rows):
        tokens = np.asarray(row)
        if tokens.ndim != 1:
            raise ShapeError(
                f"rows must be rows of tokens, (rows, length), but rows[{index}] has shape {tokens.shape}; pass one "
                "row as [row], or tokens[None]."
            )
        if tokens.size and tokens.dtype.kind not in "iu":  # an empty list has numpy's default dtype
            raise DtypeError(f"tokens must be integers, rows[{index}] holds {tokens.dtype}.")
        outside = np.flatnonzero((tokens < 0) | (tokens > vocab_size))
        if outside.size:
            raise DomainError(
                f"tokens must lie in [0, {vocab_size}], {vocab_size} being the mask; rows[{index}] holds "
                f"{tokens[outside[0]]} at position {outside[0]}."
            )
        checked.append(tokens.tolist())
    return checked
