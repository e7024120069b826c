"""Subwords: GPT-2 and BERT as published, on their real vocabularies, and what makes a backend unusable."""

import copy
import gzip
import pickle
import random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vadd.errors import ConfigError, DataError
from vadd.text.tokenizers import SubwordTokenizer, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

SPECIALS = "<|endoftext|> [MASK] [SEP] [CLS] [UNK] </s>"


@pytest.fixture(scope="module")
def gpt2(data_root):
    return load_tokenizer("gpt2", root=data_root)


@pytest.fixture(scope="module")
def bert(data_root):
    return load_tokenizer("bert-base-uncased", root=data_root)


def words():
    """A small tokenizer of whole words."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return backend


def test_gpt2_gives_the_published_tokens(gpt2):
    assert gpt2.encode(["Hello world", " Hello", ""]) == [[15496, 995], [18435], []]
    assert (gpt2.vocab_size, gpt2.separator, gpt2.name) == (50_257, 50_256, "gpt2")
    assert gpt2.decode([[15496, 50256, 995]]) == ["Hello<|endoftext|> world"]


def test_bert_gives_the_published_tokens(bert):
    assert bert.encode(["Hello world", "HELLO  wörld"]) == [[7592, 2088], [7592, 2088]]
    assert (bert.vocab_size, bert.separator, bert.name) == (30_522, 102, "bert-base-uncased")
    assert bert.decode(bert.encode(["Playfulness, is it?"])) == ["playfulness, is it?"]


def test_gpt2_keeps_every_string(gpt2):
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    @example(["<|endoftext|>", " \r\n\t ", "\x00\u2028\ufeff", "e\u0301é", "\U0001f600"])
    def check(texts):
        rows = gpt2.encode(texts)
        assert gpt2.decode(rows) == texts
        assert all(gpt2.separator not in row for row in rows)

    check()


def test_special_tokens_in_a_text_are_ordinary_text(gpt2, bert):
    assert gpt2.decode(gpt2.encode([SPECIALS])) == [SPECIALS]
    assert 50_256 not in gpt2.encode([SPECIALS])[0]
    assert not {100, 101, 102, 103} & set(bert.encode(["[MASK] [SEP] [CLS] [PAD]"])[0])
    for tokenizer in (gpt2, bert):
        for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
            assert other.encode([SPECIALS]) == tokenizer.encode([SPECIALS])
            assert other.fingerprint == tokenizer.fingerprint


def test_many_texts_are_encoded_as_each_alone(gpt2, bert, data_root):
    lines = gzip.decompress((data_root / "wikitext2/wiki.test.tokens.gz").read_bytes()).decode().splitlines()[:60]
    for tokenizer in (gpt2, bert):
        assert tokenizer.encode(lines) == [tokenizer.encode([line])[0] for line in lines]


def test_masks_are_shown_where_they_are(gpt2, bert):
    assert gpt2.decode(torch.tensor([[15496, 50257, 995]])) == ["Hello[MASK] world"]
    play = bert.encode(["playfulness"])[0]
    assert bert.decode([[play[0], 30522, *play[1:], 30522]], mask="[?]") == ["playful [?]ness [?]"]


def test_rows_with_masks_are_decoded_as_rows_without(gpt2, bert):
    draw = random.Random(0)
    for tokenizer in (gpt2, bert):
        rows = [[draw.randrange(tokenizer.vocab_size) for _ in range(40)] for _ in range(20)]
        masked = [*rows, [tokenizer.vocab_size]]
        assert tokenizer.decode(masked, mask="*") == [*tokenizer.decode(rows), "*"]


def test_broken_utf8_is_shown_as_the_replacement_character(gpt2):
    tokens = gpt2.encode(["\U0001f9d9"])[0]
    assert len(tokens) > 1
    assert gpt2.decode([tokens[:1], tokens]) == ["\ufffd", "\U0001f9d9"]


def test_surrogates_are_refused(gpt2):
    with pytest.raises(DataError, match=r"texts\[0\] holds the surrogate U\+DCE9 at position 3"):
        gpt2.encode([b"caf\xe9".decode("utf-8", errors="surrogateescape")])


def test_backend_neither_truncates_nor_pads_nor_changes():
    backend = words()
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    tokenizer = SubwordTokenizer(backend, name="words")
    assert tokenizer.encode(["a b a", "c"]) == [[0, 1, 0], [2]]
    assert backend.encode("a b a").ids == [0, 1, 0, 0, 0]
    backend.add_tokens(["c"])
    assert tokenizer.encode(["c"]) == [[2]]


def test_tokenizer_without_a_decoder_joins_words_by_blanks():
    assert SubwordTokenizer(words(), name="words").decode([[0, 1], [0, 3, 1]]) == ["a b", "a [MASK] b"]


def test_fingerprint_follows_the_rules_of_encoding_alone():
    plain = SubwordTokenizer(words(), name="words").fingerprint
    same = words()
    same.decoder = tokenizers.decoders.WordPiece()
    same.add_special_tokens(["[UNK]"])
    same.enable_truncation(2)
    assert SubwordTokenizer(same, name="other").fingerprint == plain
    lower, split, more = words(), words(), words()
    lower.normalizer = tokenizers.normalizers.Lowercase()
    split.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    more.add_tokens(["c"])
    assert len({plain, *(SubwordTokenizer(other, name="words").fingerprint for other in (lower, split, more))}) == 4


def test_unusable_backends_are_refused():
    with pytest.raises(ConfigError, match="backend_tokenizer"):
        SubwordTokenizer("gpt2", name="gpt2")
    with pytest.raises(ConfigError, match="no token '</s>'"):
        SubwordTokenizer(words(), name="words", separator="</s>")
    holes = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 3}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match=r"no token has the numbers \[1, 2\]"):
        SubwordTokenizer(holes, name="holes")
    with pytest.raises(ConfigError, match="it is empty"):
        SubwordTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), name="empty")
    random_merges = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5))
    with pytest.raises(ConfigError, match="at random"):
        SubwordTokenizer(random_merges, name="random")
