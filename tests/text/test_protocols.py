"""Every protocol runs from documents to rows, and its rows are those that published figures are about."""

import dataclasses
import json
import sys
from pathlib import Path

import datasets
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from text_parts import Words  # noqa: E402

from vadd.errors import ConfigError, DataError  # noqa: E402
from vadd.text.protocols import PROTOCOLS  # noqa: E402
from vadd.text.rows import text_rows  # noqa: E402
from vadd.text.tokenizers import load_tokenizer  # noqa: E402

SENTENCES = ["the cat sat on a mat", "it was a dark and stormy night", "no one knows", "who is there"]


class Standin(Words):
    """Letters under the numbers of a published vocabulary."""

    def __init__(self, protocol):
        sizes = {"gpt2": 50_257, "bert-base-uncased": 30_522}
        super().__init__(protocol.frame[1], sizes[protocol.tokenizer], "stand-in")

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        return [
            [27 if token < 0 else token for token in row] for row in super().encode_texts([t.lower() for t in texts])
        ]


def local(protocol, folder, num=100):
    """Documents in the form in which the protocol's set is published."""
    path = folder / "rows.jsonl"
    rows = ({protocol.field: f"{SENTENCES[i % 4]} {'x' * (i % 9)}", "label": i} for i in range(num))
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if "openwebtext" not in name])
def test_every_protocol_runs_on_a_local_file(tmp_path, name):
    protocol = PROTOCOLS[name]
    source, tokenizer = local(protocol, tmp_path), Standin(protocol)
    rows = protocol.rows(source=source, tokenizer=tokenizer, num=2)
    first = rows.tokens()
    assert first["x_0"].shape == (2, protocol.length)
    assert set(first) == ({"x_0"} if protocol.packing == "packed" else {"x_0", "is_padding"})
    assert first["x_0"][:, 0].tolist() == [protocol.frame[0]] * 2
    shuffled = next(iter(protocol.stream(source=source, tokenizer=tokenizer, shuffle_block=1)))
    assert all(torch.equal(shuffled[field], first[field][0]) for field in first)


def test_openwebtext_holds_out_the_last_documents(tmp_path):
    train, held_out = PROTOCOLS["openwebtext-train"], PROTOCOLS["openwebtext-validation"]
    source = tmp_path / "owt.txt"
    source.write_text("\n".join(["a" * 2000, "b" * 2000, *["c"] * 99_999, "d" * 2000]) + "\n")
    tokenizer = Standin(train)
    kept, other = (protocol.rows(source=source, tokenizer=tokenizer) for protocol in (train, held_out))
    assert set(kept.tokens()["x_0"].unique().tolist()) == {1, 2, 50_256}
    assert kept.documents.num_rows == 2
    assert set(other.tokens()["x_0"].unique().tolist()) == {3, 4, 50_256}
    assert other.documents.num_rows == 100_000
    with pytest.raises(ConfigError, match="must count from its start"):
        train.stream(source=source, tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"no documents in 'train\[:-100000\]'"):
        train.rows(source=local(train, tmp_path), tokenizer=tokenizer)


def test_saved_data_sets_keep_their_splits(tmp_path):
    protocol = PROTOCOLS["arxiv"]
    parts = {
        name: datasets.Dataset.from_dict({"article": [letter * 1100]})
        for name, letter in (("train", "a"), ("test", "b"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "papers")
    rows = protocol.rows(source=tmp_path / "papers", tokenizer=Standin(protocol))
    assert set(rows[0]["x_0"].tolist()) == {2, 50_256}


def test_names_are_the_keys_and_protocols_are_frozen():
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    paper = {"arxiv", "pubmed", "lm1b", "lambada", "wikitext-103", "ag-news", "lm1b-padded"}
    assert paper | {"lm1b-packed", "wikitext-2"} <= set(PROTOCOLS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["arxiv"].length = 3


def test_another_tokenizer_is_refused(tmp_path):
    protocol = PROTOCOLS["ag-news"]
    with pytest.raises(ConfigError, match="ends rows with token 50256 of 'gpt2'"):
        protocol.rows(source=local(protocol, tmp_path), tokenizer=Words(28))


def test_the_hub_is_asked_for_the_published_set(monkeypatch):
    asked = {}

    def load_dataset(source, config, *, split, **options):
        asked[config] = (source, split)
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("arxiv", "wikitext-103"):
        with pytest.raises(DataError, match="give the folder as source"):
            PROTOCOLS[name].documents()
    assert asked == {
        "arxiv": ("armanc/scientific_papers", "test"),
        "wikitext-103-raw-v1": ("Salesforce/wikitext", "test"),
    }


def test_wikitext_2(data_root):
    rows = PROTOCOLS["wikitext-2"].rows(root=data_root, source=data_root / "wikitext2" / "wiki.test.tokens.gz")
    tokenizer = load_tokenizer("gpt2", root=data_root)
    assert rows.num_cut_documents <= 1
    x_0 = rows.tokens()["x_0"]
    assert x_0.shape == (len(rows), 1024)
    assert rows.num_tokens == x_0.numel()
    assert bool((x_0[:, [0, -1]] == 50_256).all())
    text = "".join(tokenizer.decode(x_0[:, 1:-1]))
    assert ".\n<|endoftext|>" in text  # a line with its end, as the rows of the Hub are
    assert "Robert <unk> is an English film, television and theatre actor." in text
    assert 241_211 - 800 < rows.num_words <= 241_211  # 245,569 tokens of WikiText are words and 4,358 line ends


def test_lambada(data_root):
    rows = PROTOCOLS["lambada"].rows(root=data_root, source=data_root / "lambada" / "lambada_test.jsonl.gz")
    assert rows.documents.num_rows == 5153
    tokenizer = load_tokenizer("gpt2", root=data_root)
    (text,) = tokenizer.decode(rows.tokens(1)["x_0"])
    assert text.startswith("<|endoftext|>\nIn my palm is a clear stone")
    assert sum(rows.documents["words"]) - rows.num_words < 1022


def test_lm1b_between_cls_and_sep(data_root, tmp_path):
    source = tmp_path / "lm1b.txt"
    source.write_text("The cat sat on the mat .\n" + "word " * 200 + "\n")
    tokenizer = load_tokenizer("bert-base-uncased", root=data_root)
    rows = PROTOCOLS["lm1b-padded"].rows(root=data_root, source=source).tokens()
    assert tokenizer.encode(["the cat sat on the mat."])[0] == rows["x_0"][0, 1:8].tolist()
    assert rows["x_0"][0, [0, 8]].tolist() == [101, 102]
    assert rows["is_padding"].sum(1).tolist() == [128 - 9, 0]
    assert rows["x_0"][1, [0, 127]].tolist() == [101, 102]
    packed = PROTOCOLS["lm1b-packed"].rows(root=data_root, source=source).tokens()["x_0"]
    assert packed[0, :9].tolist() == rows["x_0"][0, :9].tolist()
    assert packed[0, 127] == 102
    (own,) = text_rows(["the cat sat on the mat ."], tokenizer, 8).tokens()["x_0"]
    assert own[-1] == 102
