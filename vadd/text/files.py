"""The documents in local text and JSON-lines files, read piece by piece."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from vadd.errors import DataError

__all__ = ["JSON_SUFFIXES", "TEXT_SUFFIXES", "Unit", "kind_of", "read_documents"]

#: What a document of a text file is.
Unit = Literal["line", "ended-line", "paragraph", "file"]

TEXT_SUFFIXES = (".txt", ".text", ".tokens", ".raw")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".xz")
_READ = 1 << 20
_BOM = b"\xef\xbb\xbf"


def kind_of(path: Path) -> Literal["text", "json", "other"]:
    """What a file holds, by the end of its name."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _PACKED]
    last = suffixes[-1].lower() if suffixes else ""
    return "json" if last in JSON_SUFFIXES else "text" if last in TEXT_SUFFIXES else "other"


def read_documents(files: list[tuple[str, int, int]], unit: Unit, field: str, longest: int) -> Iterator[dict[str, str]]:
    """The documents of some files, one after the other, as rows of a data set.

    Args:
        files: path, size and time of change of each; the latter two only tell versions of a file apart.
        unit: what a document of a text file is.
        field: the text's name in JSON lines.
        longest: bytes above which a document of a text file is cut.

    Raises:
        DataError: if a file is empty, cannot be read or decoded, or lacks the field.
    """
    for name, _, _ in files:
        path = Path(name)
        texts = _read_json(path, field) if kind_of(path) == "json" else _read_text(path, unit, longest)
        is_empty = True
        for text in texts:
            is_empty = False
            yield {"text": text}
        if is_empty:
            raise DataError(f"{path} is empty: remove it, or give another file.")


def _read_text(path: Path, unit: Unit, longest: int) -> Iterator[str]:
    """Documents of a text file; a long one comes in pieces whose concatenation it is."""
    held: list[str] = []
    size = 0
    for offset, piece, is_end in _pieces(path, longest):
        text = _decode(path, piece, offset)
        if unit in ("line", "ended-line"):
            line = text.removesuffix("\r") if is_end else text
            if unit == "ended-line" and is_end:
                line = line + "\n" if line.strip() else ""
            yield line
            continue
        if unit == "paragraph" and is_end and not text.strip() and (size == 0 or held[-1].endswith("\n")):
            if held:
                yield "".join(held).removesuffix("\n").removesuffix("\r")
            held, size = [], 0
            continue
        if held and size + len(piece) > longest:
            yield "".join(held)
            held, size = [], 0
        held.append(text + "\n" if is_end else text)
        size += len(piece) + is_end
    if held:
        whole = "".join(held)
        yield whole if unit == "file" else whole.removesuffix("\n").removesuffix("\r")


def _pieces(path: Path, longest: int) -> Iterator[tuple[int, bytes, bool]]:
    """Offset and bytes of every line, cut where it is long, and whether a line end follows (which is left out)."""
    with _open(path) as file:
        held, offset = _read(path, file), 0
        if held.startswith(_BOM):
            held, offset = held[len(_BOM) :], len(_BOM)
        while held:
            start, read = 0, _read(path, file)
            while True:
                stop = held.find(b"\n", start)
                end = len(held) if stop < 0 else stop
                while end - start > longest:
                    cut = _cut(held, start, longest)
                    yield offset + start, held[start:cut], False
                    start = cut
                if stop < 0:
                    break
                yield offset + start, held[start:stop], True
                start = stop + 1
            if not read and start < len(held):
                yield offset + start, held[start:], False
            offset += start
            held = held[start:] + read if read else b""


def _cut(data: bytes, start: int, longest: int) -> int:
    """Where to cut: before the last blank of the piece; without blanks, between two characters."""
    cut = data.rfind(b" ", start + 1, start + longest + 1)
    if cut < 0:
        cut = start + longest
        while cut > start + 1 and data[cut] & 0xC0 == 0x80:
            cut -= 1
    return cut


def _read_json(path: Path, field: str) -> Iterator[str]:
    with _open(path) as file:
        number = 0
        while line := _read(path, file, line=True):
            number += 1
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"line {number} of {path} is no JSON ({error}): a file of JSON lines holds one object a line."
                ) from error
            if not isinstance(row, dict) or field not in row:
                got = sorted(row) if isinstance(row, dict) else type(row).__name__
                raise DataError(f"line {number} of {path} has no field {field!r}, but {got}: name the text by field=.")
            if not isinstance(row[field], str):
                raise DataError(
                    f"field {field!r} in line {number} of {path} must be text, got {type(row[field]).__name__}."
                )
            yield row[field]


def _open(path: Path) -> Any:  # all are files of bytes, but of no common type
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")
        return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _read(path: Path, file: Any, *, line: bool = False) -> bytes:
    try:
        return file.readline() if line else file.read(_READ)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read ({error}): get it again.") from error


def _decode(path: Path, data: bytes, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise DataError(
            f"{path} is no UTF-8 text: byte 0x{data[error.start]:02x} at offset {at} cannot be decoded; convert the "
            "file to UTF-8, or remove the byte."
        ) from error
