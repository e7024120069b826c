"""Documents: from local files, folders, and the Hugging Face Hub, as data sets with one column of text."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vadd._checks import is_integer
from vadd.errors import ConfigError, DataError, VADDError
from vadd.text.files import JSON_SUFFIXES, TEXT_SUFFIXES, Unit, kind_of, read_documents

if TYPE_CHECKING:
    import datasets

__all__ = ["load_documents", "require_datasets"]

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_HELD = 1 << 24
_SLICE = re.compile(r"\w*\[(-?\d+)?:(-?\d+)?\]")


def require_datasets() -> Any:
    """The package ``datasets``.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError('text needs Hugging Face datasets and tokenizers: pip install "vadd[text]".') from error
    return datasets


def load_documents(
    source: str | Path,
    *,
    split: str = "train",
    field: str = "text",
    streaming: bool = False,
    config: str | None = None,
    root: str | Path | None = None,
    revision: str | None = None,
    unit: Unit = "line",
    longest: int = 1 << 21,
    cache: str | Path | None = None,
) -> "datasets.Dataset | datasets.IterableDataset":
    r"""A data set with one column, ``text``, one row a document.

    Args:
        source: a text file (UTF-8; also ``.gz``, ``.xz``), a file of JSON lines (``.jsonl``, ``.json``, compressed
            too), a folder of either, a folder saved by ``save_to_disk``, a parquet file or a folder of them, or a name
            on the Hugging Face Hub.
        split: the part of a data set that has parts, and a range of it, as ``"train[:-1000]"``. Local text and JSON
            files have no parts: only the range counts.
        field: the text's column, or its name in JSON lines. Text files have none.
        streaming: an ``IterableDataset``, which reads as it goes, instead of a memory-mapped one. A range must then
            count from the start.
        config: of a data set on the Hub.
        root: folder that relative sources are looked up in; default the current one.
        revision: commit or tag on the Hub.
        unit: what a document of a text file is: a line (empty ones too), a line with its end (``"ended-line"``; blank
            ones are empty: so are the rows of WikiText on the Hub), a paragraph (between lines that are blank), or the
            file. Line ends inside of a document stay, and so does the last one of a file; ``"\n"`` and ``"\r\n"``
            end lines, a leading byte-order mark is no text.
        longest: bytes above which a document of a text file is cut, before a blank where there is one: the
            concatenation of the pieces is the document. So a file that is one line needs little memory; packed with a
            separator, the pieces are documents like any other.
        cache: folder of what is read; default that of ``datasets``.

    Raises:
        DataError: if there is no such source, it is empty or damaged, bytes cannot be decoded, or the field or the
            split is missing.
        ConfigError: if an option is no option, or ``datasets`` is missing.
    """
    if unit not in get_args(Unit):
        raise ConfigError(f"unit must be one of {', '.join(map(repr, get_args(Unit)))}, got {unit!r}.")
    if not is_integer(longest, 8):
        raise ConfigError(f"longest must be a number of bytes, at least 8, got {longest!r}.")
    datasets = require_datasets()
    path = Path(source) if root is None else Path(root) / source
    folder = None if cache is None else str(cache)
    files = _files(path)
    if files:
        stamps = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
        options = {"files": stamps, "unit": unit, "field": field, "longest": longest}
        found = _generate(datasets, options, streaming, folder)
        found = _slice(found, split, path)
    elif path.exists():
        found = _stored(datasets, path, config, split, streaming, folder)
    else:
        hub = {"split": split, "streaming": streaming, "revision": revision, "cache_dir": folder}
        found = _from_hub(datasets, str(source), path, config, hub)
    if not files:
        found = _one_column(found, field, str(source))
    if not streaming and len(found) == 0:
        raise DataError(f"{source} has no documents in {split!r}: name another split, or a range that holds some.")
    return found


def _files(path: Path) -> list[Path]:
    """Text or JSON files to read, in the order of their names; none where datasets itself is to read."""
    if path.is_file():
        return [] if path.suffix == ".parquet" else [path]
    if not path.is_dir() or any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return []
    inside = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    texts, jsons = ([file for file in inside if kind_of(file) == kind] for kind in ("text", "json"))
    if any(file.suffix == ".parquet" for file in inside):
        return []
    if texts and jsons:
        raise DataError(
            f"{path} holds text files ({texts[0].name}) and JSON lines ({jsons[0].name}): give one file, or a folder "
            "of one kind."
        )
    if not texts and not jsons:
        raise DataError(
            f"{path} holds nothing to read: it needs files that end in {', '.join((*TEXT_SUFFIXES, *JSON_SUFFIXES))} "
            "(also .gz, .xz) or .parquet, or the files of save_to_disk."
        )
    return texts or jsons


def _generate(datasets: Any, options: dict[str, Any], streaming: bool, cache: str | None) -> Any:
    features = datasets.Features({"text": datasets.Value("string")})
    if streaming:
        return datasets.IterableDataset.from_generator(read_documents, features=features, gen_kwargs=options)
    # It holds so many documents at a time.
    num = max(1, min(1000, _HELD // (1 + len(next(read_documents(**options))["text"]))))
    kwargs: dict[str, Any] = {"gen_kwargs": options, "cache_dir": cache, "writer_batch_size": num}
    try:
        return datasets.Dataset.from_generator(read_documents, features=features, **kwargs)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from error.__cause__.__cause__
        raise DataError(f"the documents cannot be written to the cache of datasets: {error.__cause__}.") from error


def _slice(found: Any, split: str, path: Path) -> Any:
    """The range of a split, of a source without splits."""
    if "[" not in split:
        return found
    match = _SLICE.fullmatch(split)
    if match is None:
        raise ConfigError(
            f"split of {path} must be a name with a range of documents, as 'train[:-100]', got {split!r}."
        )
    start, stop = (None if value is None else int(value) for value in match.groups())
    if hasattr(found, "num_rows"):
        wanted = range(*slice(start, stop).indices(len(found)))
        return found.select(wanted if wanted else [])
    if (start or 0) < 0 or (stop or 0) < 0:
        raise ConfigError(f"a stream is as long as it is: the range in split must count from its start, got {split!r}.")
    found = found if stop is None else found.take(stop)
    return found if start is None else found.skip(start)


def _stored(datasets: Any, path: Path, config: str | None, split: str, streaming: bool, cache: str | None) -> Any:
    """A folder that datasets wrote, or that it knows how to read, or a parquet file."""
    try:
        if path.is_file():
            options: Any = {"data_files": str(path), "split": "train", "streaming": streaming, "cache_dir": cache}
            return _slice(datasets.load_dataset("parquet", **options), split, path)
        if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_dataset(str(path), config, split=split, streaming=streaming, cache_dir=cache)
        found = datasets.load_from_disk(str(path))
    except VADDError:
        raise
    except Exception as error:  # of many kinds; that of datasets says little, what caused it says what is wrong
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise DataError(f"{path} cannot be read as a data set: {type(cause).__name__}: {_first_line(cause)}") from error
    if isinstance(found, datasets.DatasetDict):
        name = split.partition("[")[0]
        if name not in found:
            raise DataError(f"{path} has no split {name!r}, but {sorted(found)}.")
        found = found[name]
    found = _slice(found, split, path)
    return found.to_iterable_dataset() if streaming else found


def _from_hub(datasets: Any, source: str, path: Path, config: str | None, options: dict[str, Any]) -> Any:
    if not _HUB_NAME.fullmatch(source) or kind_of(path) != "other" or path.suffix in (".gz", ".xz"):
        raise DataError(f"there is no file or folder {path}.")
    try:
        return datasets.load_dataset(source, config, **options)
    except Exception as error:  # of many kinds: of the network, of the Hub, of the data set
        call = ", ".join(repr(value) for value in (source, config) if value is not None)
        raise DataError(
            f"{source!r} is no file or folder ({path}), and could not be loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {_first_line(error)}). Without a network, run datasets.load_dataset({call})"
            ".save_to_disk(folder) where there is one, and give the folder as source."
        ) from error


def _one_column(found: Any, field: str, source: str) -> Any:
    features = found.features or getattr(found, "_resolve_features", lambda: found)().features
    if field not in features:
        raise DataError(f"{source} has no field {field!r}, but {sorted(features)}: name the text's by field=.")
    if getattr(features[field], "dtype", None) not in ("string", "large_string"):
        raise DataError(f"field {field!r} of {source} must be text, got {features[field]}.")
    found = found.select_columns([field])
    return found if field == "text" else found.rename_column(field, "text")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
