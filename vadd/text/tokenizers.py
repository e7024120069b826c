"""Tokenizers by name, from files, or from the Hugging Face hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vadd.errors import ConfigError, DataError
from vadd.text.base import DESCRIPTION, Tokenizer, check_vocabulary
from vadd.text.characters import WIKI27, CharTokenizer, alphabet_of
from vadd.text.subwords import SubwordTokenizer, import_tokenizers
from vadd.text.vocabulary_files import SEPARATORS, read_json, read_vocabulary

__all__ = ["CharTokenizer", "SubwordTokenizer", "Tokenizer", "check_vocabulary", "load_tokenizer"]

# Folders below root that are looked into, the separator's token, and the number of tokens.
_PUBLISHED = {
    "gpt2": (("gpt2", "gpt2_bpe"), 50_256, 50_257),
    "bert-base-uncased": (("bert-base-uncased", "bert_base_uncased"), 102, 30_522),
}
# Classes that a saved tokenizer is made of, if the caller gives none.
_KINDS: Mapping[str, type[Tokenizer]] = {"CharTokenizer": CharTokenizer, "SubwordTokenizer": SubwordTokenizer}


def load_tokenizer(
    source: str | Path,
    *,
    texts: Iterable[str] | None = None,
    root: str | Path | None = None,
    kind: type[Tokenizer] | None = None,
) -> Tokenizer:
    """A tokenizer by name, from files, or from the Hugging Face hub.

    Args:
        source: one of

            - ``"chars"``: characters, the alphabet being that of ``texts``;
            - ``"wiki27"``: a blank and the letters a to z, the alphabet of text8;
            - ``"gpt2"``: byte-level BPE, 50,257 tokens, separator ``<|endoftext|>``;
            - ``"bert-base-uncased"``: lower-case WordPiece, 30,522 tokens, separator ``[SEP]``;
            - a folder that :meth:`Tokenizer.save` wrote, or one with published files (``tokenizer.json``;
              ``vocab.txt``; ``encoder.json`` with ``vocab.bpe``; each also ``.gz``), or such a file;
            - the name of a repository on the hub with a ``tokenizer.json``.

            A ``Path`` is always a file or a folder.
        texts: whose characters make the alphabet; for ``"chars"`` alone.
        root: folder that is looked into first, for ``source`` itself and, for the two published vocabularies, for the
            folders ``gpt2``, ``gpt2_bpe``, ``bert-base-uncased`` and ``bert_base_uncased``.
        kind: class of your own, of a tokenizer that was saved in the folder ``source``; it is called with what
            :meth:`Tokenizer.options` gave.

    Raises:
        ConfigError: if ``texts`` are missing, one string or of no use, ``kind`` is no class of tokenizers, or the
            package ``tokenizers`` is missing.
        DataError: if files are missing, damaged or not what the name says, or the hub cannot be reached.
    """
    if (texts is not None) != (source == "chars"):
        raise ConfigError(f"texts make the alphabet of 'chars', and of nothing else; source is {str(source)!r}.")
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise ConfigError(f"kind must be a subclass of vadd.text.Tokenizer, got {kind!r}.")
    if kind is not None:
        return _saved(source, root, kind)
    if texts is not None:
        return CharTokenizer(alphabet_of(texts))
    if source == "wiki27":
        return CharTokenizer(WIKI27, name="wiki27")
    if root is not None and not Path(root).is_dir():
        raise DataError(f"root must be a folder, there is none at {root}.")
    if isinstance(source, str) and source in _PUBLISHED:
        return _published(source, root)
    below = [] if root is None else [Path(root) / source]
    for path in (*below, Path(source)):
        if path.exists():
            return _from_path(path)
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.endswith((".json", ".txt", ".gz")):
        raise DataError(f"there is no file or folder {source}{f', nor below {root}' if root is not None else ''}.")
    return _from_hub(source)


def _published(name: str, root: str | Path | None) -> Tokenizer:
    """A well-known vocabulary, from files where root has them, else from the hub."""
    folders, separator, vocab_size = _PUBLISHED[name]
    folder = next((path for path in (Path(root or "") / below for below in folders) if root and path.is_dir()), None)
    tokenizer = _from_hub(name, root) if folder is None else _from_path(folder, name)
    if (tokenizer.vocab_size, tokenizer.separator) != (vocab_size, separator):
        raise DataError(
            f"{folder or 'the hub'} holds another vocabulary than {name!r}: {tokenizer.vocab_size} tokens and "
            f"separator {tokenizer.separator}, expected {vocab_size} and {separator}."
        )
    return tokenizer


def _saved(source: str | Path, root: str | Path | None, kind: type[Tokenizer]) -> Tokenizer:
    """A saved tokenizer of a class of the caller's."""
    for place in (Path(source),) if root is None else (Path(root) / source, Path(source)):
        if (place / DESCRIPTION).is_file():
            return _from_description(place / DESCRIPTION, {kind.__name__: kind})
    raise DataError(
        f"kind is the class of a tokenizer that was saved, but there is no folder {source} with {DESCRIPTION}; name "
        "the folder that save wrote."
    )


def _from_path(path: Path, name: str | None = None) -> Tokenizer:
    """A saved tokenizer, or a published vocabulary, from a folder or a file."""
    description = path / DESCRIPTION if path.is_dir() else path
    if description.name == DESCRIPTION and description.is_file():
        return _from_description(description, _KINDS)
    return _with_separator(read_vocabulary(path), name or path.name)


def _from_hub(name: str, root: str | Path | None = None) -> Tokenizer:
    tokenizers = import_tokenizers()
    try:
        backend = tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # whatever the client and the network raise
        folders = _PUBLISHED[name][0] if name in _PUBLISHED else ()
        if not folders:
            advice = "name a folder or a file with the vocabulary"
        elif root is None:
            advice = f"pass root=, a folder that holds {' or '.join(folders)} with the vocabulary's files"
        else:
            advice = f"place the vocabulary's files in {Path(root) / folders[0]}, where none were found"
        raise DataError(
            f"cannot fetch the tokenizer {name!r} from the Hugging Face hub: {error} Without a network, {advice}; "
            f"where there is one, 'hf download {name} tokenizer.json --local-dir FOLDER' fetches it."
        ) from error
    return _with_separator(backend, name)


def _with_separator(backend: Any, name: str) -> SubwordTokenizer:
    separator = next((text for text in SEPARATORS if backend.token_to_id(text) is not None), None)
    return SubwordTokenizer(backend, name=name, separator=separator)


def _from_description(path: Path, kinds: Mapping[str, type[Tokenizer]]) -> Tokenizer:
    """A saved tokenizer of one of these classes; nothing that was stored is executed.

    Raises:
        DataError: if the description is damaged or of a later format, or the files are not those it was written with.
    """
    description = read_json(path)
    try:
        kind, options, fingerprint = (description[key] for key in ("class", "options", "fingerprint"))
        if description["format"] != 1:
            raise DataError(f"{path} has format {description['format']}, this version of vadd reads 1; update vadd.")
        if kind not in kinds:
            advice = "; a class of your own is given as kind=" if kinds is _KINDS else ""
            raise DataError(f"{path} describes a {kind!r}, expected {' or '.join(kinds)}{advice}.")
        backend = [read_vocabulary(path.parent / "tokenizer.json")] if issubclass(kinds[kind], SubwordTokenizer) else []
        make: Any = kinds[kind]
        tokenizer: Tokenizer = make(*backend, **options)
    except (ConfigError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__} {error}.") from error
    if tokenizer.fingerprint != fingerprint:
        raise DataError(
            f"the tokenizer in {path.parent} was changed or is damaged: its fingerprint is {tokenizer.fingerprint}, "
            f"{path.name} notes {fingerprint}. Save it again."
        )
    return tokenizer
