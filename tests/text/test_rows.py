"""Rows hold the tokens of the documents in order, none twice; counts are those of the text in the rows."""

import pickle
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))
from text_parts import Words, letters  # noqa: E402

from vadd.errors import ConfigError, DataError, DomainError  # noqa: E402
from vadd.text.documents import load_documents  # noqa: E402
from vadd.text.rows import text_rows  # noqa: E402
from vadd.text.tokenizers import CharTokenizer, load_tokenizer  # noqa: E402

DOCUMENTS = ["ab cd", "", "efg", "hijklmnop"]
PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
TEXTS = st.lists(st.text(st.sampled_from("ab "), max_size=9), min_size=1, max_size=12)


def shown(rows):
    """The rows as text, padding as a dot."""
    return ["".join(letters([t]) if not p else "." for t, p in zip(*pair, strict=True)) for pair in _pairs(rows)]


def _pairs(rows):
    for item in (rows[i] for i in range(len(rows))):
        yield item["x_0"].tolist(), item.get("is_padding", torch.zeros_like(item["x_0"], dtype=torch.bool)).tolist()


def test_packed_rows():
    rows = text_rows(DOCUMENTS, Words(29), 6)
    assert shown(rows) == ["ab cd|", "|efg|h", "ijklmn"]
    assert rows.num_dropped_tokens == 3
    assert rows.num_cut_documents == 1
    assert (rows.num_tokens, rows.num_words, rows.num_characters) == (18, 2 + 1 + 1, 5 + 3 + 7)
    assert shown(text_rows(DOCUMENTS, Words(29), 6, separate=False)) == ["ab cde", "fghijk"]
    assert shown(text_rows(DOCUMENTS, Words(), 6)) == ["ab cde", "fghijk"]


@pytest.mark.parametrize("num_proc", [0, -1, True])
def test_a_number_of_processes_is_a_number_of_processes(num_proc):
    with pytest.raises(DomainError, match="num_proc must be a number of processes, at least 1"):
        text_rows(DOCUMENTS, Words(29), 6, num_proc=num_proc)


def test_padded_rows():
    rows = text_rows(DOCUMENTS, Words(29), 5, packing="padded")
    assert shown(rows) == ["ab cd", "efg..", "hijkl"]
    assert (rows.num_dropped_documents, rows.num_dropped_tokens, rows.num_cut_documents) == (1, 4, 1)
    assert (rows.num_tokens, rows.num_words, rows.num_characters) == (13, 4, 13)
    rows = text_rows(DOCUMENTS, Words(29), 5, packing="padded", split=True)
    assert shown(rows) == ["ab cd", "efg..", "hijkl", "mnop."]
    assert (rows.num_dropped_tokens, rows.num_cut_documents) == (0, 0)
    assert (rows.num_tokens, rows.num_words, rows.num_characters) == (17, 4, 17)
    first = rows.first(3)
    assert (first.num_tokens, first.num_words, first.num_characters, first.num_cut_documents) == (13, 4, 13, 1)


def test_frames_begin_and_end_every_row():
    rows = text_rows(DOCUMENTS, Words(29), 6, frame=(26, 25))
    assert shown(rows) == ["zab cy", "zd||ey", "zfg|hy", "zijkly", "zmnopy"]
    assert (rows.num_tokens, rows.num_dropped_tokens) == (30, 1)
    assert rows.num_characters == 5 + 3 + 9
    rows = text_rows(DOCUMENTS, Words(29), 6, packing="padded", frame=(26, 25))
    assert shown(rows) == ["zab cy", "zefgy.", "zhijky"]
    assert (rows.num_tokens, rows.num_characters) == (17, 4 + 3 + 4)


def test_a_separator_that_is_a_character_counts_as_one():
    marked, line_end = (text_rows(DOCUMENTS, Words(token), 6) for token in (29, 28))
    assert line_end.num_characters == marked.num_characters + 3
    tokenizer = CharTokenizer("\n abcdefg")
    rows = text_rows(["ab", "cd", "", "ef"], tokenizer, 3)
    assert tokenizer.decode(rows.tokens()["x_0"]) == ["ab\n", "cd\n", "\nef"]
    assert (rows.num_tokens, rows.num_characters) == (9, 9)


@PROPERTY
@given(texts=TEXTS, length=st.integers(1, 7), separator=st.sampled_from([None, 28, 29]), num=st.integers(1, 20))
def test_packed_rows_are_the_joined_documents(tmp_path, texts, length, separator, num):
    joined = "".join(text + ("" if separator is None else "|") for text in texts)
    if len(joined) < length:
        with pytest.raises(DataError, match="make no row"):
            text_rows(texts, Words(separator), length, cache=tmp_path)
        return
    rows = text_rows(texts, Words(separator), length, cache=tmp_path)
    assert len(rows) == len(joined) // length
    rows = rows.first(min(num, len(rows)))
    held = "".join(shown(rows))
    assert held == joined[: len(held)]
    text = held.replace("|", "\n")
    assert rows.num_tokens == len(held)
    assert rows.num_characters == len(text.replace("\n", "") if separator == 29 else text)
    assert rows.num_words == (len(text.split()) if separator else sum(map(len, _words(texts, len(held)))))


def _words(texts, size):
    """Words of the documents of so many characters in all, the last one being cut."""
    for text in texts:
        yield text[:size].split()
        size = max(0, size - len(text))


@PROPERTY
@given(texts=TEXTS, length=st.integers(1, 7), split=st.booleans(), num=st.integers(1, 20))
def test_padded_rows_are_the_documents(tmp_path, texts, length, split, num):
    whole = [text for text in texts if text]
    if not whole:
        with pytest.raises(DataError, match="make no row"):
            text_rows(texts, Words(), length, packing="padded", cache=tmp_path)
        return
    rows = text_rows(texts, Words(), length, packing="padded", split=split, cache=tmp_path)
    parts = [[text[i : i + length] for i in range(0, len(text), length)] for text in whole]
    expected = sum(parts, []) if split else [part[0] for part in parts]
    assert [row.replace(".", "") for row in shown(rows)] == expected
    assert not any(bool(rows[i]["is_padding"].all()) for i in range(len(rows)))
    assert rows.num_dropped_documents == len(texts) - len(whole)
    assert rows.num_dropped_tokens == sum(map(len, whole)) - sum(map(len, expected))
    num = min(num, len(rows))
    held = expected[:num]
    if split:  # the pieces of a document are one text
        owners = [i for i, part in enumerate(parts) for _ in part][:num]
        held = ["".join(piece for piece, o in zip(held, owners, strict=True) if o == owner) for owner in set(owners)]
    first = rows.first(num)
    assert first.num_characters == first.num_tokens == sum(map(len, held))
    assert first.num_words == sum(len(text.split()) for text in held)


def test_a_second_call_does_not_tokenize_again(tmp_path):
    documents = load_documents(_write(tmp_path, DOCUMENTS))
    counts = []
    for options in (
        {"length": 5},
        {"length": 5},
        {"length": 7},  # rows are cut when they are read
        {"tokenizer": {"fingerprint": "other"}},
        {"tokenizer": {"separator": 28}},
        {"separate": False},
        {"packing": "padded"},  # without separators either
        {"detokenize": "wikitext"},
        {"detokenize": "wikitext"},
        {"detokenize": str.upper, "refused": True},
    ):
        tokenizer = Words(**{"separator": 29, **options.pop("tokenizer", {})})
        if options.pop("refused", False):
            continue
        text_rows(documents, tokenizer, **{"length": 5, **options})
        counts.append(tokenizer.encoded)
    assert counts == [4, 0, 0, 4, 4, 4, 0, 4, 0]
    tokenizer = Words(29)
    text_rows(load_documents(_write(tmp_path, [*DOCUMENTS, "q"])), tokenizer, 5)
    assert tokenizer.encoded == 5
    tokenizer = Words(29)
    text_rows(documents.select([0, 3]), tokenizer, 5)
    assert tokenizer.encoded == 2


def _write(tmp_path, lines):
    path = tmp_path / "documents.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_detokenized_text_is_tokenized_and_the_original_counted():
    rows = text_rows(["a b c"] * 2, Words(), 2, detokenize=lambda text: text.replace(" ", ""))
    assert shown(rows) == ["ab", "ca", "bc"]
    assert (rows.num_words, rows.num_characters) == (6, 10)


def test_several_processes_give_the_same_rows(tmp_path):
    texts = [f"{'abc'[i % 3]}" * (i % 7) for i in range(50)]
    one = text_rows(texts, Words(29), 5, cache=tmp_path / "one")
    two = text_rows(texts, Words(29), 5, num_proc=2, cache=tmp_path / "two")
    assert torch.equal(one.tokens()["x_0"], two.tokens()["x_0"])


def test_rows_cross_the_borders_of_what_is_written_together(tmp_path, monkeypatch):
    monkeypatch.setattr("vadd.text.rows._BATCH_BYTES", 10)
    texts = ["abc", "", "", "defgh", "i"]
    rows = text_rows(texts, Words(29), 7)
    assert len(rows.documents.data.column("tokens").chunks) > 1
    assert shown(rows) == ["abc|||d", "efgh|i|"]


def test_tokens_stay_on_the_disk(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(("abcd efgh " * 100 + "\n") * 2000)
    tokenizer = CharTokenizer(" abcdefgh\n")
    documents = load_documents(path)
    text_rows(documents, tokenizer, 100)
    before = pa.total_allocated_bytes()
    rows = text_rows(documents, tokenizer, 100)  # 4 MB of tokens
    assert pa.total_allocated_bytes() - before < 300_000
    assert all(not view.flags.owndata for view in rows._stretches._views)
    assert len(pickle.dumps(rows)) < 50_000


def test_a_batch_is_its_rows_and_survives_another_process():
    rows = text_rows(DOCUMENTS, Words(29), 3, packing="padded")
    for other in (rows, pickle.loads(pickle.dumps(rows))):
        batch = other.__getitems__([2, 0])
        assert [letters(item["x_0"]) for item in batch] == ["hij", "ab "]
        assert all(item["x_0"].dtype == torch.int64 and item["is_padding"].dtype == torch.bool for item in batch)
    loaded = next(iter(DataLoader(rows, batch_size=3, num_workers=1)))
    assert torch.equal(loaded["x_0"], rows.tokens(3)["x_0"])
    for wrong in ([3], [-1]):
        with pytest.raises(IndexError, match="rows must lie in"):
            rows.__getitems__(wrong)
    assert rows.tokens(2)["x_0"].shape == (2, 3)
    for wrong in (0, 4):
        with pytest.raises(DomainError, match="number of rows from 1 to 3"):
            rows.tokens(wrong)


def test_large_vocabularies_keep_their_tokens():
    class Large(Words):
        def encode_texts(self, texts):
            return [[99_999, 65_536]]

    rows = text_rows(["x"], Large(vocab_size=100_000), 2)
    assert rows[0]["x_0"].tolist() == [99_999, 65_536]


@pytest.mark.usefixtures("_unchecked")
def test_wrong_input():
    with pytest.raises(ConfigError, match="one text"):
        text_rows("abc", Words(), 2)
    with pytest.raises(ConfigError, match="packing must be"):
        text_rows(["abc"], Words(), 2, packing="loose")
    with pytest.raises(ConfigError, match="split is for padded rows"):
        text_rows(["abc"], Words(), 2, split=True)
    with pytest.raises(DomainError, match="length must be an integer of at least 1"):
        text_rows(["abc"], Words(), 0)
    with pytest.raises(DomainError, match="length must be an integer of at least 3"):
        text_rows(["abc"], Words(), 2, frame=(1, 1))
    with pytest.raises(DomainError, match=r"frame must be two tokens of 'words', in \[0, 30\), got \(1, 30\)"):
        text_rows(["abc"], Words(), 3, frame=(1, 30))
    with pytest.raises(DataError, match="there are no documents"):
        text_rows([], Words(), 2)
    with pytest.raises(DataError, match="documents must be text, got NoneType"):
        text_rows(["a", None], Words(), 2)
    with pytest.raises(DataError, match="1 documents of 3 tokens make no row of 9"):
        text_rows(["abc"], Words(), 9)
    with pytest.raises(DataError, match=r"must have the column 'text', got \['t'\]"):
        text_rows(datasets.Dataset.from_dict({"t": ["a"]}), Words(), 9)
    with pytest.raises(ConfigError, match="TextStream"):
        text_rows(datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(), Words(), 9)
    with pytest.raises(DataError, match="'ä'"):
        text_rows(["ab", "bä"], CharTokenizer("ab"), 2)


def test_wiki27_is_packed_without_loss(data_root):
    tokenizer = load_tokenizer("wiki27")
    documents = load_documents("wiki27/wiki27.txt.xz", root=data_root, split="train[:3]", streaming=True, longest=5000)
    texts = [row["text"] for row in documents]
    rows = text_rows(texts, tokenizer, 64)
    assert all(len(text) <= 5000 for text in texts)
    assert "".join(tokenizer.decode(rows.tokens()["x_0"])) == "".join(texts)[: rows.num_characters]


def test_gpt2_rows_decode_to_the_text(data_root):
    tokenizer = load_tokenizer("gpt2", root=data_root)
    documents = load_documents("wikitext2/wiki.valid.tokens.gz", root=data_root, split="valid[:200]")
    rows = text_rows(documents, tokenizer, 128)
    text = "".join(tokenizer.decode(rows.tokens()["x_0"]))
    assert "<|endoftext|>".join(documents["text"]).startswith(text[:-10])
    original = text.replace("<|endoftext|>", "")
    assert abs(rows.num_characters - len(original)) <= 1  # a character of several tokens may be cut
    assert rows.num_words == sum(len(part.split()) for part in text.split("<|endoftext|>"))
