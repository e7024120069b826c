"""How documents become rows of tokens: what a row holds, and what is tokenized."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vadd._checks import require_integer
from vadd.errors import ConfigError, DataError, DomainError
from vadd.text.detokenizers import detokenizer

if TYPE_CHECKING:
    from vadd.text.base import Tokenizer

__all__ = ["Detokenize", "Encoder", "Packing", "RowForm"]

Packing = Literal["packed", "padded"]
#: Name of a detokenizer or a function on texts; None leaves them as they are.
Detokenize = str | Callable[[str], str] | None


@dataclass(frozen=True)
class RowForm:
    """What a row of ``length`` tokens holds.

    Attributes:
        length: tokens of a row.
        packing: ``"packed"``: documents one after the other, cut into rows; ``"padded"``: one document a row.
        frame: tokens put before and after the text of every row; None for none.
        split: padded, whether the rest of a long document makes further rows; otherwise it is cut off.

    Raises:
        DomainError: if the length leaves no room for text.
        ConfigError: if packing is neither, or ``split`` is set for packed rows.
    """

    length: int
    packing: Packing
    frame: tuple[int, int] | None = None
    split: bool = False

    def __post_init__(self) -> None:
        least = 1 if self.frame is None else 3
        require_integer("length", self.length, minimum=least)
        if self.packing not in ("packed", "padded"):
            raise ConfigError(f"packing must be 'packed' or 'padded', got {self.packing!r}.")
        if self.split and self.packing == "packed":
            raise ConfigError("split is for padded rows: packed ones go on with a document in the next row anyway.")

    @property
    def room(self) -> int:
        """Tokens of text in a row."""
        return self.length - (0 if self.frame is None else 2)

    def check(self, tokenizer: "Tokenizer") -> None:
        """Refuse a frame that the tokenizer does not have.

        Raises:
            DomainError: if a token lies outside its vocabulary.
        """
        if self.frame is not None and not all(0 <= token < tokenizer.vocab_size for token in self.frame):
            raise DomainError(
                f"frame must be two tokens of {tokenizer.name!r}, in [0, {tokenizer.vocab_size}), got {self.frame}."
            )

    def fill(self, texts: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Rows of the tokens of texts that fit: ``x_0``, and for padded rows ``is_padding``, one row each."""
        x_0 = np.zeros((len(texts), self.length), np.int64)
        is_padding = np.ones((len(texts), self.length), bool)
        first = 0 if self.frame is None else 1
        for row, text in enumerate(texts):
            end = first + len(text)
            x_0[row, first:end] = text
            if self.frame is not None:
                x_0[row, 0], x_0[row, end] = self.frame
            is_padding[row, : end + first] = False
        if self.packing == "packed":
            return {"x_0": torch.from_numpy(x_0)}
        return {"x_0": torch.from_numpy(x_0), "is_padding": torch.from_numpy(is_padding)}


class Encoder:
    """Tokens of documents, as one stretch with the end of each.

    Args:
        tokenizer: of :mod:`vadd.text.tokenizers`.
        detokenize: applied first, to every document.
        separate: whether the tokenizer's separator, where it has one, ends every document.

    Raises:
        ConfigError: if there is no detokenizer of that name.
    """

    def __init__(self, tokenizer: "Tokenizer", detokenize: Detokenize, separate: bool) -> None:
        self.tokenizer = tokenizer
        self.detokenize = detokenizer(detokenize) if isinstance(detokenize, str) else detokenize
        self.separator = tokenizer.separator if separate else None
        self.dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)

    def __call__(self, texts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens ``(tokens,)`` and the ends of the documents in them ``(documents,)``.

        Raises:
            DataError: if a document is no text, or has characters that the tokenizer does not know.
        """
        wrong = next((text for text in texts if not isinstance(text, str)), "")
        if wrong != "":
            raise DataError(f"documents must be text, got {type(wrong).__name__}: filter out what is not.")
        if self.detokenize is not None:
            texts = [self.detokenize(text) for text in texts]
        rows = self.tokenizer.encode(texts)
        extra = [] if self.separator is None else [self.separator]
        ended = len(extra)
        ends = np.cumsum([len(row) + ended for row in rows], dtype=np.int64)
        tokens = np.empty(int(ends[-1]) if len(rows) else 0, self.dtype)
        for row, end in zip(rows, ends, strict=True):
            tokens[end - ended - len(row) : end - ended] = row
        for separator in extra:
            tokens[ends - 1] = separator
        return tokens, ends

    def rules(self) -> list[Any]:
        """What decides the tokens of a text: equal rules, equal tokens."""
        from datasets.fingerprint import Hasher

        detokenize = None if self.detokenize is None else Hasher.hash(self.detokenize)
        return [self.tokenizer.fingerprint, self.separator, detokenize, self.dtype.name]
