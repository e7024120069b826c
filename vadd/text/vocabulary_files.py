"""Vocabularies as published: GPT-2's two files, BERT's list, or a ``tokenizer.json``; each also compressed by gzip."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vadd.errors import DataError
from vadd.text.base import DESCRIPTION
from vadd.text.subwords import backend_from_json, import_tokenizers

__all__ = ["SEPARATORS", "read_json", "read_text", "read_vocabulary"]

#: Tokens that end a document, in the order in which a vocabulary is searched for them.
SEPARATORS = ("<|endoftext|>", "[SEP]", "</s>", "<eos>", "<|end_of_text|>")

_PIECES = ("encoder.json", "vocab.json")
_MERGES = ("vocab.bpe", "merges.txt")
_KNOWN = "tokenizer.json, vocab.txt, or encoder.json with vocab.bpe (vocab.json with merges.txt), each also with .gz"


def read_vocabulary(path: Path) -> Any:
    """The ``tokenizers.Tokenizer`` that a file, or the files of a folder, describe.

    A list of WordPieces says nothing of upper case: texts are lower-cased where no word of it has a capital letter.

    Args:
        path: a folder, or one of the files; GPT-2's two files are found by either.

    Raises:
        ConfigError: if the package ``tokenizers`` is missing.
        DataError: if no vocabulary is there, or it is damaged.
    """
    folder = path if path.is_dir() else path.parent

    def find(*names: str) -> Path | None:
        candidates = [folder / f"{name}{ending}" for name in names for ending in ("", ".gz")]
        return next((file for file in candidates if file.is_file() and path in (folder, file)), None)

    if (file := find("tokenizer.json")) is not None:
        return _named(file, backend_from_json, read_text(file))
    if (file := find("vocab.txt")) is not None:
        return _named(file, _word_pieces, read_text(file))
    if (file := find(*_PIECES) or find(*_MERGES)) is not None:
        path = folder  # now either file of the pair will do
        pieces, merges = find(*_PIECES), find(*_MERGES)
        if pieces is None or merges is None:
            absent = " or ".join(_PIECES if pieces is None else _MERGES)
            raise DataError(f"{file} is one of two files, {absent} is missing beside it.")
        return _named(merges, _byte_level_pairs, read_json(pieces), read_text(merges))
    if path.is_file() and path.name.endswith((".json", ".json.gz")):
        return _named(path, backend_from_json, read_text(path))
    raise DataError(f"no vocabulary in {path}: expected {_KNOWN}, or the {DESCRIPTION} of a saved tokenizer.")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, unpacked where its name ends in ``.gz``; line ends are kept as they are.

    Raises:
        DataError: if it cannot be read, unpacked or decoded.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: byte {error.start} is {content[error.start]:#04x}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; place the original file there.") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: if it cannot be read or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; place the original file there.") from error


def _named(file: Path, make: Callable[..., Any], *contents: Any) -> Any:
    """``make(*contents)``, with the file's name in the error."""
    try:
        return make(*contents)
    except DataError as error:
        raise DataError(f"{file} is damaged or of another kind: {error}") from error


def _byte_level_pairs(pieces: Any, merges: str) -> Any:
    """GPT-2's byte-level pair encoding."""
    tokenizers = import_tokenizers()
    if not isinstance(pieces, dict):
        raise DataError("the pieces must be a JSON object of numbers.")
    absent = [symbol for symbol in tokenizers.pre_tokenizers.ByteLevel.alphabet() if symbol not in pieces]
    if absent:
        raise DataError(
            f"the pieces lack {len(absent)} of 256 bytes, so this is no byte-level vocabulary; its tokenizer.json is "
            "needed."
        )
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines]
    try:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, pairs))
    except Exception as error:  # Rust raises Exception itself where a merge makes no piece
        raise DataError(f"pieces and merges do not belong together: {error}.") from error
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return _with_special(backend, "<|endoftext|>")


def _word_pieces(content: str) -> Any:
    """BERT's WordPiece, one piece a line."""
    tokenizers = import_tokenizers()
    # Not splitlines: pieces may be characters that Unicode counts as line ends.
    pieces = content.removesuffix("\n").split("\n")
    numbers = {piece: number for number, piece in enumerate(pieces)}
    if len(numbers) < len(pieces):
        raise DataError(f"{len(pieces) - len(numbers)} of {len(pieces)} lines repeat a piece.")
    if "[UNK]" not in numbers:
        raise DataError("no line is [UNK], the piece for unknown words.")
    specials = [f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")]
    words = (piece for piece in pieces if piece not in specials)
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=all(word == word.lower() for word in words))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    return _with_special(backend, *specials)


def _with_special(backend: Any, *tokens: str) -> Any:
    """The same with those of the tokens that it has marked as special, for other programs that read a saved folder."""
    backend.add_special_tokens([token for token in tokens if backend.token_to_id(token) is not None])
    return backend
