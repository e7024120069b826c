"""One token a character: nothing is lost, and nothing unknown gets through."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import ConfigError, DataError, DomainError, DtypeError, ShapeError
from vadd.text.characters import WIKI27
from vadd.text.tokenizers import CharTokenizer, load_tokenizer

# Every string that a UTF-8 file can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(TEXTS, min_size=1).filter(any))
def test_decoding_gives_the_texts_back(texts):
    tokenizer = load_tokenizer("chars", texts=texts)
    rows = tokenizer.encode(texts)
    assert [len(row) for row in rows] == [len(text) for text in texts]
    assert tokenizer.decode(rows) == texts
    assert set().union(*rows) == set(range(tokenizer.vocab_size))


def test_tokens_are_positions_in_the_alphabet():
    tokenizer = CharTokenizer("cab\n")
    assert tokenizer.encode(["abc", "", "b\n"]) == [[1, 2, 0], [], [2, 3]]
    assert (tokenizer.vocab_size, tokenizer.separator, tokenizer.name) == (4, 3, "chars")
    assert tokenizer.encode([]) == []


def test_wiki27_is_the_alphabet_of_its_texts():
    named = load_tokenizer("wiki27")
    assert (named.vocab_size, named.separator, named.name) == (27, None, "wiki27")
    assert named.fingerprint == load_tokenizer("chars", texts=[WIKI27[::-1]]).fingerprint
    assert named.fingerprint != CharTokenizer(WIKI27[::-1]).fingerprint


def test_unknown_character_is_named_with_its_place():
    tokenizer = load_tokenizer("wiki27")
    expected = r"texts\[2\] holds 'é' \(U\+00E9\) at position 3.*2 other characters"
    with pytest.raises(DataError, match=expected):
        tokenizer.encode(["ab", "", "café", "über", "\U0001f600"])
    with pytest.raises(DataError, match=r"texts\[2\] holds 'A' \(U\+0041\) at position 0"):
        tokenizer.encode(["ab", "", "A"])
    with pytest.raises(DataError, match=r"texts\[0\] holds 'A' \(U\+0041\) at position 0, .*lacks;"):
        tokenizer.encode(["A"])


@pytest.mark.parametrize("code", [0xD800, 0xDFFF])
def test_surrogate_is_named_with_its_place(code):
    with pytest.raises(DataError, match=rf"texts\[1\] holds the surrogate U\+{code:X} at position 2"):
        CharTokenizer("ab").encode(["a", "ab" + chr(code)])


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("texts", "error"), [("ab", ConfigError), ([b"ab"], DataError), ([3], DataError)])
def test_what_is_no_text_is_refused(texts, error):
    with pytest.raises(error, match="texts"):
        CharTokenizer("ab").encode(texts)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("texts", ["abc", b"abc"])
def test_an_alphabet_is_made_of_texts_and_not_of_one(texts):
    with pytest.raises(ConfigError, match=r"texts must be a sequence of strings, got one string: pass \[text\]"):
        load_tokenizer("chars", texts=texts)


def test_masks_are_shown():
    tokenizer = CharTokenizer("ab")
    rows = torch.tensor([[0, 2, 1], [2, 2, 0]])
    assert tokenizer.decode(rows) == ["a[MASK]b", "[MASK][MASK]a"]
    assert tokenizer.decode(rows.tolist(), mask="_") == ["a_b", "__a"]
    assert tokenizer.decode([[], [1]]) == ["", "b"]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([[0], [1, 3]], DomainError, r"\[0, 2\].*rows\[1\] holds 3 at position 1"),
        (torch.tensor([[0, -1]]), DomainError, r"rows\[0\] holds -1 at position 1"),
        ([[0.0]], DtypeError, "float64"),
        ([[True]], DtypeError, "bool"),
        ([0, 1], ShapeError, r"pass one row as \[row\]"),
        (torch.tensor([0, 1]), ShapeError, r"tokens\[None\]"),
    ],
)
def test_what_are_no_rows_of_tokens_is_refused(rows, error, message):
    with pytest.raises(error, match=message):
        CharTokenizer("ab").decode(rows)


@pytest.mark.parametrize(
    ("alphabet", "message"), [("", "at least one"), ("aba", "repeats 'a'"), ("a\ud800", "U\\+D800")]
)
def test_alphabet_holds_characters_once(alphabet, message):
    with pytest.raises(ConfigError, match=message):
        CharTokenizer(alphabet)


def test_alphabet_of_no_text_is_refused():
    with pytest.raises(DataError, match="empty"):
        load_tokenizer("chars", texts=["", ""])


def test_pickles_carry_everything():
    tokenizer = CharTokenizer("ab\n", name="mine")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert repr(copy) == repr(tokenizer)
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode(["b\n"]) == [[1, 2]]
