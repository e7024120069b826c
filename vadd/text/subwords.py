"""Tokens that are parts of words, by the rules of the package ``tokenizers``."""

import json
from functools import cached_property
from typing import Any

from vadd.errors import ConfigError, DataError
from vadd.text.base import Tokenizer, hash_of

__all__ = ["SubwordTokenizer", "backend_from_json", "import_tokenizers"]


class SubwordTokenizer(Tokenizer):
    """Tokens that are parts of words: byte-level BPE, WordPiece, or what else the package ``tokenizers`` knows.

    It works on a copy of ``backend`` that neither truncates nor pads, and reads special tokens in a text as ordinary
    text. Decoding may lose what encoding normalized away (BERT: case, accents, white space); bytes that are not valid
    UTF-8, as random tokens of byte-level BPE may be, are shown as U+FFFD.

    Args:
        backend: a ``tokenizers.Tokenizer``.
        separator: text of the token that ends a document where documents are packed.

    Raises:
        ConfigError: if the package is missing, the backend cannot be written to JSON, encodes at random (dropout) or
            has numbers without a token, or there is no token of the separator's text.
    """

    def __init__(self, backend: Any, *, name: str, separator: str | None = None) -> None:
        try:
            stored = json.loads(backend.to_str())
        except Exception as error:  # Rust raises Exception itself where a part is written in Python
            raise ConfigError(
                f"backend must be a tokenizers.Tokenizer that can be written to JSON, got {type(backend).__name__} "
                f"({error}); a tokenizer of transformers holds one as backend_tokenizer."
            ) from error
        if stored["model"].get("dropout"):
            raise ConfigError(f"backend drops merges at random (dropout={stored['model']['dropout']}); set it to None.")
        stored.update(truncation=None, padding=None)
        self._backend = backend_from_json(json.dumps(stored))
        self._backend.encode_special_tokens = True  # not part of the JSON
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        _check_numbers(vocabulary)
        if separator is not None and separator not in vocabulary:
            raise ConfigError(f"separator must be the text of a token, there is no token {separator!r}.")
        super().__init__(
            name=name,
            vocab_size=len(vocabulary),
            separator=None if separator is None else vocabulary[separator],
            fingerprint=hash_of(_rules(stored, vocabulary)),
        )
        self._separator_text = separator

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._backend.encode_special_tokens = True  # which the backend's own pickle forgets

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode_rows(self, rows: list[list[int]], mask: str) -> list[str]:
        if not any(self.vocab_size in row for row in rows):
            return self._backend.decode_batch(rows, skip_special_tokens=False)
        pieces = [*self._pieces, mask]
        join = " ".join if self._backend.decoder is None else self._backend.decoder.decode
        return [join([pieces[token] for token in row]) for row in rows]

    @cached_property
    def _pieces(self) -> list[str]:
        """The text of each token as the vocabulary has it, before decoding."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def options(self) -> dict[str, Any]:
        """Beside the backend, which is stored in a file of its own."""
        return {"separator": self._separator_text, "name": self.name}

    def _files(self) -> dict[str, str]:
        return {"tokenizer.json": self._backend.to_str()}


def import_tokenizers() -> Any:
    """The package ``tokenizers``.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError("this tokenizer needs the package tokenizers: pip install 'vadd[text]'.") from error
    return tokenizers


def backend_from_json(content: str) -> Any:
    """A ``tokenizers.Tokenizer`` from the text of a file ``tokenizer.json``.

    Raises:
        ConfigError: if the package is missing.
        DataError: if the text describes no tokenizer.
    """
    tokenizers = import_tokenizers()
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # Rust raises Exception itself
        raise DataError(f"not the content of a tokenizer.json: {error}.") from error


def _check_numbers(vocabulary: dict[str, int]) -> None:
    numbers = set(vocabulary.values())
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    if missing or len(numbers) < len(vocabulary) or not numbers:
        raise ConfigError(
            f"backend must number its {len(vocabulary)} tokens 0, 1, 2, ...; "
            + (f"no token has the numbers {missing[:5]}." if missing else "it is empty, or two tokens share a number.")
        )


def _rules(stored: dict[str, Any], vocabulary: dict[str, int]) -> dict[str, Any]:
    """What the tokens of a text depend on: not how tokens are decoded, nor which tokens count as special."""
    model = {key: value for key, value in stored["model"].items() if key != "vocab" or not isinstance(value, dict)}
    rules = {
        "model": model,
        "normalizer": stored["normalizer"],
        "pre_tokenizer": stored["pre_tokenizer"],
        "added_tokens": [token for token in stored["added_tokens"] if not token["special"]],
    }
    return {"class": "SubwordTokenizer", "vocabulary": vocabulary, **_without_defaults(rules)}


def _without_defaults(value: Any) -> Any:
    """Without entries that are None, False or empty text, which versions of the package write or leave out."""
    if isinstance(value, dict):
        return {
            key: _without_defaults(item)
            for key, item in value.items()
            if item is not None and item is not False and item != ""
        }
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    return value
