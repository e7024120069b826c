"""Documents are what the files hold, whatever their form; what cannot be read is named."""

import gzip
import json
import lzma
import tracemalloc

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vadd.errors import ConfigError, DataError
from vadd.text.documents import load_documents
from vadd.text.files import read_documents

TEXT = "one two\n\n three  four \nfünf"


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wb") as file:
        file.write(data)
    return path


def texts_of(source, **options):
    return [row["text"] for row in load_documents(source, **options)]


def read(path, unit="line", longest=1 << 21):
    return [row["text"] for row in read_documents([(str(path), 0, 0)], unit, "text", longest)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz", "wiki.test.tokens"])
def test_lines_are_documents_whatever_the_compression(tmp_path, name, streaming):
    path = write(tmp_path / name, TEXT)
    found = load_documents(path, streaming=streaming)
    assert isinstance(found, datasets.IterableDataset if streaming else datasets.Dataset)
    assert found.column_names == ["text"]
    assert [row["text"] for row in found] == ["one two", "", " three  four ", "fünf"]


def test_units(tmp_path):
    path = write(tmp_path / "a.txt", "a\nb\n \n\nc\n\n")
    assert texts_of(path, unit="line") == ["a", "b", " ", "", "c", ""]
    assert texts_of(path, unit="ended-line") == ["a\n", "b\n", "", "", "c\n", ""]
    assert texts_of(path, unit="paragraph") == ["a\nb", "c"]
    assert texts_of(path, unit="file") == ["a\nb\n \n\nc\n\n"]


def test_line_ends_and_byte_order_marks_are_no_text(tmp_path):
    assert texts_of(write(tmp_path / "a.txt", "\ufeffone\r\ntwo\rthree\r\n".encode())) == ["one", "two\rthree"]


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    assert texts_of(write(path, "one")) == ["one"]
    assert texts_of(write(path, "two!")) == ["two!"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    text=st.text(st.sampled_from("ab é€😀\n\r"), min_size=1, max_size=60),
    longest=st.integers(8, 30),
    block=st.integers(1, 9),
)
def test_cut_documents_are_bounded_and_lose_nothing(tmp_path, monkeypatch, text, longest, block):
    monkeypatch.setattr("vadd.text.files._READ", block)
    path = write(tmp_path / "a.txt", text)
    whole = read(path, "file", longest)
    assert "".join(whole) == text
    assert all(len(piece.encode()) <= longest + 1 for piece in whole)  # a line end may come on top
    lines = read(path, "line", longest)
    assert all(len(piece.encode()) <= longest for piece in lines)
    expected = text.removesuffix("\n").split("\n")
    ended = [line.removesuffix("\r") for line in expected[:-1]]
    last = expected[-1].removesuffix("\r") if text.endswith("\n") else expected[-1]
    assert "".join(lines) == "".join([*ended, last])
    if longest > len(text.encode()):
        assert lines == [*ended, last]
    assert read(path, "line", longest) == lines


def test_long_lines_are_cut_before_blanks(tmp_path):
    path = write(tmp_path / "a.txt", "aaaa bbbb cccc dddd")
    assert read(path, longest=10) == ["aaaa bbbb", " cccc dddd"]
    assert read(path, longest=9) == ["aaaa bbbb", " cccc", " dddd"]
    assert read(write(tmp_path / "b.txt", "é" * 6), longest=9) == ["éééé", "éé"]


def test_one_huge_line_needs_little_memory(tmp_path):
    path = write(tmp_path / "a.txt.gz", b"word " * 4_000_000)
    tracemalloc.start()
    size = sum(len(row["text"]) for row in read_documents([(str(path), 0, 0)], "line", "text", 1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 20_000_000
    assert peak < 8_000_000


def test_folders_are_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    write(folder / "b" / "a.txt", "three")
    write(folder / "a.txt", "one")
    write(folder / "a.txt.gz", "two")
    write(folder / "README.md", "not a text")
    assert texts_of(folder) == ["one", "two", "three"]
    write(folder / "rows.jsonl", '{"text": "four"}')
    with pytest.raises(DataError, match=r"text files \(a.txt\) and JSON lines \(rows.jsonl\)"):
        load_documents(folder)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".jsonl.xz"])
def test_json_lines(tmp_path, suffix):
    rows = [{"article": "one\ntwo", "id": 1}, {"article": "ünf", "id": 2}]
    path = write(tmp_path / f"a{suffix}", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert texts_of(path, field="article") == ["one\ntwo", "ünf"]
    with pytest.raises(DataError, match=r"line 1 of .* no field 'text', but \['article', 'id'\]"):
        load_documents(path)
    with pytest.raises(DataError, match="must be text, got int"):
        load_documents(path, field="id")


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_of_datasets(tmp_path, streaming):
    parts = {name: datasets.Dataset.from_dict({"t": [f"{name} {i}" for i in range(4)]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "all")
    parts["test"].save_to_disk(tmp_path / "one")
    (tmp_path / "parquet").mkdir()
    parts["test"].to_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet")
    expected = [f"test {i}" for i in range(4)]
    for name in ("all", "one", "parquet"):
        options = {"split": "test", "field": "t", "streaming": streaming}
        assert texts_of(tmp_path / name, **options) == expected
        with pytest.raises(DataError, match=r"no field 'text', but \['t'\]"):
            load_documents(tmp_path / name, **{**options, "field": "text"})
    with pytest.raises(DataError, match=r"no split 'valid', but \['test', 'train'\]"):
        load_documents(tmp_path / "all", split="valid")
    with pytest.raises(DataError, match="valid"):
        load_documents(tmp_path / "parquet", split="valid")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_file_is_a_table_and_not_text(tmp_path, streaming):
    path = tmp_path / "part.parquet"
    datasets.Dataset.from_dict({"t": list("abcdef")}).to_parquet(path)
    assert texts_of(path, field="t", streaming=streaming) == list("abcdef")
    assert texts_of(path, field="t", split="train[1:3]", streaming=streaming) == list("bc")
    with pytest.raises(DataError, match="no field 'text'"):
        load_documents(path, streaming=streaming)
    with pytest.raises(ConfigError, match="a name with a range of documents"):
        load_documents(path, field="t", split="train[:10%]", streaming=streaming)


def test_of_a_damaged_table_it_is_said_what_is_wrong(tmp_path):
    (tmp_path / "part.parquet").write_bytes(b"PAR1 and nothing more")
    for source in (tmp_path, tmp_path / "part.parquet"):
        with pytest.raises(DataError, match="cannot be read as a data set: ArrowInvalid: Parquet"):
            load_documents(source)


def test_ranges_of_a_split(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join("abcdef"))
    assert texts_of(path, split="train[:-2]") == list("abcd")
    assert texts_of(path, split="train[-2:]") == list("ef")
    assert texts_of(path, split="train[1:3]") == list("bc")
    assert texts_of(path, split="train[1:3]", streaming=True) == list("bc")
    with pytest.raises(ConfigError, match="must count from its start"):
        load_documents(path, split="train[:-2]", streaming=True)
    with pytest.raises(ConfigError, match="a name with a range of documents"):
        load_documents(path, split="train[:10%]")
    with pytest.raises(DataError, match="no documents in 'train\\[9:\\]'"):
        load_documents(path, split="train[9:]")


def test_relative_sources_lie_below_root(tmp_path):
    write(tmp_path / "a.txt", "one")
    assert texts_of("a.txt", root=tmp_path) == ["one"]


def test_what_cannot_be_read_is_named(tmp_path):
    bad = b"x" * 1500 + b"\n" + b"ab\xffcd"
    with pytest.raises(DataError, match=r"bad.txt is no UTF-8 text: byte 0xff at offset 1503"):
        load_documents(write(tmp_path / "bad.txt", bad))
    with pytest.raises(DataError, match=r"offset 1503"):
        load_documents(write(tmp_path / "bad.txt.gz", bad), unit="file")
    with pytest.raises(DataError, match=r"empty.txt is empty"):
        load_documents(write(tmp_path / "empty.txt", ""))
    late = tmp_path / "late"
    late.mkdir()
    write(late / "a.txt", "one\n" * 3000)
    write(late / "b.txt", "")
    with pytest.raises(DataError, match=r"b.txt is empty"):
        load_documents(late)
    with pytest.raises(DataError, match="line 2 of .*a.jsonl is no JSON"):
        load_documents(write(tmp_path / "a.jsonl", '{"text": "a"}\nnot JSON'))
    whole = write(tmp_path / "cut.txt.gz", TEXT * 1000)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut.txt.gz is damaged"):
        load_documents(whole)
    write(tmp_path / "fake.txt.xz", "").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"fake.txt.xz is damaged"):
        load_documents(tmp_path / "fake.txt.xz")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match="folder holds nothing to read: it needs files that end in .txt"):
        load_documents(folder)
    with pytest.raises(DataError, match="there is no file or folder .*missing.txt"):
        load_documents(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="there is no file or folder missing.txt.gz"):
        load_documents("missing.txt.gz")


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    def load_dataset(*args, **options):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"no route\).*load_dataset\('wikitext', 'wikitext-2-raw-v1'\).save_to_disk"):
        load_documents("wikitext", config="wikitext-2-raw-v1")


def test_names_on_the_hub_are_loaded_with_all_options(monkeypatch):
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict({"article": ["one"], "x": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = texts_of("a/b", config="c", split="test[:5]", field="article", revision="v1", cache="folder")
    assert found == ["one"]
    options = {"split": "test[:5]", "streaming": False, "revision": "v1", "cache_dir": "folder"}
    assert calls == [(("a/b", "c"), options)]


@pytest.mark.usefixtures("_unchecked")
def test_wrong_options(tmp_path):
    path = write(tmp_path / "a.txt", "one")
    with pytest.raises(ConfigError, match="unit must be"):
        load_documents(path, unit="page")
    with pytest.raises(ConfigError, match="longest must be"):
        load_documents(path, longest=0)


def test_real_files(data_root):
    lines = texts_of("tinyshakespeare/input.txt.gz", root=data_root)
    assert len(lines) == 40_000
    whole = texts_of("tinyshakespeare/input.txt.gz", root=data_root, unit="file")
    assert len(whole) == 1
    assert whole[0] == "\n".join(lines) + "\n"
    assert len(whole[0]) == 1_115_394
    passages = texts_of("lambada/lambada_test.jsonl.gz", root=data_root)
    assert len(passages) == 5153
