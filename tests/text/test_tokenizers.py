"""Where tokenizers come from, that they come back from a folder as they were, and which checkpoint they fit."""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from vadd.errors import ConfigError, DataError
from vadd.text.tokenizers import CharTokenizer, SubwordTokenizer, Tokenizer, check_vocabulary, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXT = "Some text, with [MASK] and <|endoftext|>"


def pieces(folder: Path, *words: str, unknown: str = "[UNK]") -> Path:
    """A small list of WordPieces."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([unknown, "[SEP]", *words]) + "\n")
    return folder


@pytest.fixture
def _no_hub(monkeypatch):
    """The hub answers at once that it cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased"])
def test_published_vocabularies_come_back_from_a_folder(name, data_root, tmp_path):
    tokenizer = load_tokenizer(name, root=data_root)
    again = load_tokenizer(tokenizer.save(tmp_path / "saved"))
    assert (again.fingerprint, repr(again)) == (tokenizer.fingerprint, repr(tokenizer))
    assert again.encode([TEXT]) == tokenizer.encode([TEXT])
    # The file that other programs read is the same tokenizer, though its name is lost.
    file = load_tokenizer(tmp_path / "saved" / "tokenizer.json")
    assert (file.fingerprint, file.separator, file.name) == (
        tokenizer.fingerprint,
        tokenizer.separator,
        "tokenizer.json",
    )


def test_characters_come_back_from_a_folder(tmp_path):
    tokenizer = CharTokenizer('b"\né\U0001f600a', name="mine")
    again = load_tokenizer(tokenizer.save(tmp_path / "a" / "b"))
    assert (again.fingerprint, repr(again)) == (tokenizer.fingerprint, repr(tokenizer))
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["vadd_tokenizer.json"]
    other = CharTokenizer("xy")
    assert load_tokenizer(other.save(tmp_path / "a" / "b")).fingerprint == other.fingerprint


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must name a folder"):
        CharTokenizer("ab").save(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"alphabet": "ba", "name": "chars"}}, "was changed or is damaged"),
        ({"options": {"alphabet": "", "name": "chars"}}, "is damaged: ConfigError"),
        ({"options": {"letters": "ab"}}, "is damaged: TypeError"),
        ({"options": None}, "is damaged: TypeError"),
        ({"class": "os.system"}, "describes a 'os.system'"),
        ({"format": 2}, "update vadd"),
    ],
)
def test_changed_description_is_refused(change, message, tmp_path):
    file = CharTokenizer("ab").save(tmp_path) / "vadd_tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no JSON"),
        (b"[]", "is damaged"),
        (b"{}", "is damaged: KeyError"),
        (b'{"\xff', "no UTF-8 text: byte 2"),
    ],
)
def test_damaged_description_is_refused(content, message, tmp_path):
    (tmp_path / "vadd_tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_damaged_files_of_a_saved_folder_are_refused(tmp_path):
    folder = load_tokenizer(pieces(tmp_path / "pieces", "one", "two")).save(tmp_path / "saved")
    file = folder / "tokenizer.json"
    good = file.read_text()
    file.write_text(good.replace('"one"', '"three"'))
    with pytest.raises(DataError, match="was changed or is damaged"):
        load_tokenizer(folder)
    file.write_text(good[:-20])
    with pytest.raises(DataError, match=r"tokenizer.json is damaged"):
        load_tokenizer(folder)
    file.unlink()
    with pytest.raises(DataError, match="no vocabulary in .*tokenizer.json"):
        load_tokenizer(folder)


def test_file_and_folder_and_unpacked_files_are_the_same(data_root, tmp_path):
    unpacked = {"vocab.json": "encoder.json.gz", "merges.txt": "vocab.bpe.gz"}
    for name, archive in unpacked.items():
        (tmp_path / name).write_bytes(gzip.decompress((data_root / "gpt2_bpe" / archive).read_bytes()))
    sources = [tmp_path, tmp_path / "merges.txt", data_root / "gpt2_bpe" / "encoder.json.gz"]
    found = [load_tokenizer(source) for source in sources]
    assert {tokenizer.fingerprint for tokenizer in found} == {load_tokenizer("gpt2", root=data_root).fingerprint}
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"vocab.bpe or merges.txt is missing"):
        load_tokenizer(tmp_path)


def test_word_pieces_are_lower_case_where_the_list_is(tmp_path):
    lower = load_tokenizer(pieces(tmp_path / "lower", "the", "cat", "##s"))
    assert lower.encode(["The cats"]) == [[2, 3, 4]]
    cased = load_tokenizer(pieces(tmp_path / "cased", "the", "The"))
    assert cased.encode(["the The THE"]) == [[2, 3, 0]]
    assert (lower.separator, cased.separator) == (1, 1)


def test_root_is_looked_into_first(tmp_path):
    pieces(tmp_path / "mine", "one")
    assert load_tokenizer("mine", root=tmp_path).vocab_size == 3
    with pytest.raises(DataError, match="root must be a folder"):
        load_tokenizer("mine", root=tmp_path / "absent")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no vocabulary in"),
        ({"vocab.txt": b"[UNK]\na\na\n"}, "1 of 3 lines repeat"),
        ({"vocab.txt": b"[PAD]\na\n"}, r"no line is \[UNK\]"),
        ({"vocab.txt": b"[UNK]\ncaf\xe9\n"}, "no UTF-8 text: byte 9 is 0xe9"),
        ({"vocab.txt.gz": b"[UNK]\n"}, "cannot read .*vocab.txt.gz"),
        ({"vocab.txt.gz": gzip.compress(b"[UNK]\na\n" * 100, mtime=0)[:-9]}, "cannot read .*vocab.txt.gz"),
        ({"encoder.json": b"[]", "vocab.bpe": b""}, "JSON object"),
        ({"encoder.json": b'{"a": 0}', "vocab.bpe": b""}, "lack 255 of 256 bytes"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json is damaged"),
    ],
)
def test_damaged_vocabularies_are_refused(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_merges_of_another_vocabulary_are_refused(data_root, tmp_path):
    shutil.copy(data_root / "gpt2_bpe" / "encoder.json.gz", tmp_path)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nqqqq zzzz\n")
    with pytest.raises(DataError, match="do not belong together"):
        load_tokenizer(tmp_path)


def test_published_name_must_hold_the_published_vocabulary(tmp_path):
    pieces(tmp_path / "bert_base_uncased", "one")
    with pytest.raises(DataError, match="3 tokens and separator 1, expected 30522 and 102"):
        load_tokenizer("bert-base-uncased", root=tmp_path)


@pytest.mark.usefixtures("_no_hub")
def test_unreachable_hub_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"'gpt2'.*pass root=, a folder that holds gpt2 or gpt2_bpe.*hf download gpt2"):
        load_tokenizer("gpt2")
    with pytest.raises(DataError, match="place the vocabulary's files in .*/gpt2, where none were found"):
        load_tokenizer("gpt2", root=tmp_path)
    with pytest.raises(DataError, match=r"'someone/some'.*name a folder or a file.*hf download someone/some"):
        load_tokenizer("someone/some")


@pytest.mark.parametrize("source", [Path("gpt2-absent"), "./gpt2-absent", "absent/tokenizer.json", "vocab.txt.gz"])
def test_missing_path_is_not_looked_for_on_the_hub(source):
    with pytest.raises(DataError, match="there is no file or folder"):
        load_tokenizer(source)


def test_texts_belong_to_chars_alone():
    with pytest.raises(ConfigError, match="'chars'"):
        load_tokenizer("chars")
    with pytest.raises(ConfigError, match="'wiki27'"):
        load_tokenizer("wiki27", texts=["a"])


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'vadd\[text\]'"):
        load_tokenizer(pieces(tmp_path, "one"))


def test_checkpoint_of_another_vocabulary_is_refused():
    tokenizer = CharTokenizer("ab")
    check_vocabulary(tokenizer, 2, source="model.safetensors")
    check_vocabulary(tokenizer, 2, source="model.safetensors", fingerprint=tokenizer.fingerprint)
    with pytest.raises(ConfigError, match="model.safetensors has 27 tokens, the tokenizer 'chars' has 2"):
        check_vocabulary(tokenizer, 27, source="model.safetensors")
    other = CharTokenizer("ba").fingerprint
    with pytest.raises(ConfigError, match=f"fingerprint {other} there, {tokenizer.fingerprint} here"):
        check_vocabulary(tokenizer, 2, source="model.safetensors", fingerprint=other)


def test_kinds_of_tokenizers_are_told_apart(tmp_path):
    assert isinstance(load_tokenizer(pieces(tmp_path, "one")), SubwordTokenizer)
    assert isinstance(load_tokenizer("wiki27"), CharTokenizer)


class Shifted(CharTokenizer):
    """A class of one's own, told by one option."""

    def __init__(self, first: str) -> None:
        super().__init__("".join(chr(ord(first) + i) for i in range(3)), name="shifted")
        self.fingerprint, self.first = f"shifted {first}", first

    def options(self):
        return {"first": self.first}


class Upper(SubwordTokenizer):
    """Subwords of a class of one's own, whose backend is a file."""


def test_a_tokenizer_of_ones_own_comes_back_from_its_folder(tmp_path):
    saved = Shifted("k")
    again = load_tokenizer(saved.save(tmp_path / "saved"), kind=Shifted)
    assert type(again) is Shifted
    assert (again.fingerprint, again.encode(["lmk"])) == (saved.fingerprint, [[1, 2, 0]])
    assert type(load_tokenizer("saved", root=tmp_path, kind=Shifted)) is Shifted
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    upper = load_tokenizer(Upper(backend, name="upper").save(tmp_path / "upper"), kind=Upper)
    assert (type(upper), upper.encode(["a"])) == (Upper, [[0]])


@pytest.mark.usefixtures("_unchecked")
def test_a_class_of_ones_own_is_taken_for_what_it_saved_alone(tmp_path):
    Shifted("k").save(tmp_path / "own")
    CharTokenizer("ab").save(tmp_path / "chars")
    with pytest.raises(DataError, match="describes a 'Shifted', expected CharTokenizer .* given as kind="):
        load_tokenizer(tmp_path / "own")
    with pytest.raises(DataError, match="describes a 'CharTokenizer', expected Shifted"):
        load_tokenizer(tmp_path / "chars", kind=Shifted)
    for source in ("gpt2", "wiki27", str(tmp_path)):
        with pytest.raises(DataError, match="there is no folder .* with vadd_tokenizer.json"):
            load_tokenizer(source, kind=Shifted)
    other: Any = dict
    with pytest.raises(ConfigError, match="kind must be a subclass of vadd.text.Tokenizer"):
        load_tokenizer(tmp_path / "own", kind=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Tokenizer.options, r"Unsaved cannot be saved: override options\(\)"),
        (lambda self: {"words": {"a"}}, r"Unsaved.options\(\) must be values for JSON"),
    ],
    ids=["none", "a set"],
)
def test_what_cannot_be_saved_leaves_no_folder(options, message, tmp_path):
    kind = type("Unsaved", (CharTokenizer,), {"options": options})
    with pytest.raises(ConfigError, match=message):
        kind("ab").save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
