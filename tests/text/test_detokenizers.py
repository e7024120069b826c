"""The corpora's tokenization is undone rule by rule, as published evaluations do it."""

import gzip
import pickle

import pytest

from vadd.errors import ConfigError
from vadd.text.detokenizers import DETOKENIZERS, detokenizer

CASES = {
    "wikitext": [
        ("the girls ' school", "the girls' school"),
        ("well @-@ known 1 @,@ 000 and 2 @.@ 5", "well-known 1,000 and 2.5"),
        ("a : b ; c . d ! e ? f , g", "a: b; c. d! e? f, g"),
        # Signs are attached in a fixed order, each sign once: these stay as published results have them.
        ("a . . b", "a. . b"),
        ("a , . b", "a ,. b"),
        ("end .", "end ."),
        ("( a b ) [ c ] { d }", "(a b) [c] {d}"),
        ("say \" yes \" and ' no '", "say \"yes\" and 'no'"),
        (" = Title = \n", " = Title =\n"),
        (" = = Part = = \n = = = Deep = = = \n", " == Part ==\n=== Deep ===\n"),
        ("= = = = x", "==== x"),
        ("20 ° C", "20°C"),
        ("a \n b", "a\nb"),
        ("for N years", "for 1 years"),
        ("it 's", "it's"),
    ],
    "lm1b": [
        ("http : / / a and https : / / b", "http://a and https://b"),
        ("they 're", "they're"),
        ("the end . Then", "the end. Then"),
        ("the end .", "the end."),
        ("why ? why ?", "why? why?"),
        ("so ! so !", "so! so!"),
        ("a , b : c ; d / e", "a, b: c; d/e"),
        ('" a b " ( c ) [ d ]', '"a b" (c) [d]'),
        ("so ' a b ' then", "so 'a b' then"),
        ("$ 5 and £ 6", "$5 and £6"),
    ],
    "ptb": [
        ("the firm 's", "the firm's"),
        ("the firms ' shares", "the firms' shares"),
        ("does n't", "doesn't"),
        ("one \n two", "one\ntwo"),
        (r"1\/2", "1/2"),
        ("$ N N N N to # N each", "$1 1 1 1 to #1 each"),
        ("N at the ends N", "N at the ends N"),
        ("the <unk>", "the ?"),
    ],
    "lambada": [("“ hi ” he said  \n", '\n" hi " he said'), ("\n\n a", "\na"), ("", "\n"), (" ", "\n")],
    "none": [("a , b", "a , b")],
}


@pytest.mark.parametrize(("name", "raw", "natural"), [(name, *case) for name, cases in CASES.items() for case in cases])
def test_each_rule(name, raw, natural):
    assert detokenizer(name)(raw) == natural


@pytest.mark.parametrize("name", ["scientific_papers", "arxiv", "pubmed"])
def test_papers_take_the_rules_of_wikitext_then_those_of_lm1b(name):
    raw = "we find 3 @.@ 5 ( p < 0.05 ) . see http : / / a , b 's figure ."
    assert detokenizer(name)(raw) == detokenizer("lm1b")(detokenizer("wikitext")(raw))
    assert detokenizer(name)(raw) == "we find 3.5 (p < 0.05). see http:// a, b's figure."


def test_real_wikitext_reads_as_people_write_it(data_root):
    lines = gzip.decompress((data_root / "wikitext2/wiki.valid.tokens.gz").read_bytes()).decode().splitlines(True)
    assert lines[1] == " = Homarus gammarus = \n"
    natural = [detokenizer("wikitext")(line) for line in lines]
    assert natural[1] == " = Homarus gammarus =\n"
    assert natural[3].startswith(
        " Homarus gammarus, known as the European lobster or common lobster, is a species of <unk> lobster from the "
        "eastern Atlantic Ocean"
    )
    raw, text = "".join(lines), "".join(natural)
    for sign in (" @-@ ", " @,@ ", " @.@ ", "( ", " )", " 's ", " \n"):
        assert raw.count(sign) > 100
        assert text.count(sign) < raw.count(sign) / 50
    # Blanks alone are taken away, and the signs of numbers; N, which stands for a number elsewhere, may become 1.
    for sign in "-,.":
        raw = raw.replace(f"@{sign}@", sign)
    assert "".join(text.split()).replace("N", "1") == "".join(raw.split()).replace("N", "1")


@pytest.mark.parametrize("name", DETOKENIZERS)
def test_pickles_do_the_same(name):
    again = pickle.loads(pickle.dumps(detokenizer(name)))
    assert again == detokenizer(name)
    assert again(" a , b 's N N .") == detokenizer(name)(" a , b 's N N .")


def test_unknown_corpus_is_refused():
    with pytest.raises(ConfigError, match="wikitext, lm1b.*got 'c4'"):
        detokenizer("c4")
