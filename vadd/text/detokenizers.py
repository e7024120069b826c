"""Undo the blanks and signs that tokenized corpora put into their texts.

Zero-shot perplexities are measured on text as people write it, so the corpora's own tokenization is undone first. The
rules are those that published results used: Radford et al. (GPT-2, 2019) describe such "invertible de-tokenizers"; for
WikiText and LAMBADA they became public with Megatron-LM (arXiv:1909.08053), for the other corpora with SEDD
(arXiv:2310.16834) and MDLM (arXiv:2406.07524). Numbers compare only where the rules agree to the letter, so their
quirks, such as the order in which signs are attached, are kept.
"""

import re
from dataclasses import dataclass

from vadd.errors import ConfigError

__all__ = ["DETOKENIZERS", "Detokenizer", "detokenizer"]

# What to look for, as text or as a pattern, and what to put in its place; applied in order, each to the whole text.
_Rules = tuple[tuple[str | re.Pattern[str], str], ...]


@dataclass(frozen=True)
class Detokenizer:
    """A function from a corpus's text to natural text; its hash and pickle cover the rules.

    Attributes:
        name: of the corpus.
        rules: pairs of what is looked for, text or a pattern, and what is put in its place, in order.
    """

    name: str
    rules: _Rules

    def __call__(self, text: str) -> str:
        """The natural text of one document."""
        for find, put in self.rules:
            text = text.replace(find, put) if isinstance(find, str) else find.sub(put, text)
        return text


def _attached(signs: str) -> _Rules:
    """Signs that belong to the word before them."""
    return tuple((f" {sign} ", f"{sign} ") for sign in signs)


def _at_end(signs: str) -> _Rules:
    """The same at the end of the text."""
    return tuple((re.compile(rf" {re.escape(sign)}$"), sign) for sign in signs)


def _enclosing(*pairs: str, inside: str) -> _Rules:
    """Brackets and quotes, without the blanks on their inner side; ``{0}`` opens and ``{1}`` closes in ``inside``."""
    return tuple((re.compile(inside.format(*map(re.escape, pair))), rf"{pair[0]}\1{pair[1]}") for pair in pairs)


_WIKITEXT: _Rules = (
    ("s '", "s'"),
    *((f" @{sign}@ ", sign) for sign in "-,."),
    *_attached(":;.!?,"),
    *_enclosing("()", "[]", "{}", '""', "''", inside=r"{0}\s*([^{1}]*?)\s*{1}"),
    *((" ".join("=" * number), "=" * number) for number in (4, 3, 2)),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)

_LM1B: _Rules = (
    *((f"{scheme} : / / ", f"{scheme}://") for scheme in ("http", "https")),
    (re.compile(r" '(\w+)"), r"'\1"),
    (re.compile(r" (\w+) \. "), r" \1. "),
    (re.compile(r" (\w+) \.$"), r" \1."),
    *(rule for sign in "?!" for rule in (*_attached(sign), *_at_end(sign))),
    *_attached(",:;"),
    (" / ", "/"),
    *_enclosing('""', "''", "()", "[]", inside="{0} ([^{0}{1}]+) {1}"),
    *((f"{sign} ", sign) for sign in "$£"),
)

_PTB: _Rules = (
    (" 's", "'s"),
    ("s ' ", "s' "),
    (" n't", "n't"),
    (" \n ", "\n"),
    (r"\/", "/"),
    (re.compile(" N(?= )"), " 1"),  # stands for any number
    ("$ 1", "$1"),
    ("# 1", "#1"),
    ("<unk>", "?"),
)

_LAMBADA: _Rules = (
    *((sign, '"') for sign in "“”"),
    (re.compile(r"\s+\Z"), ""),
    (re.compile(r"\A\s*"), "\n"),  # GPT-2's evaluation begins each passage with a line end
)

_RULES: dict[str, _Rules] = {
    "wikitext": _WIKITEXT,
    "lm1b": _LM1B,
    "ptb": _PTB,
    "lambada": _LAMBADA,
    "scientific_papers": (*_WIKITEXT, *_LM1B),
    "arxiv": (*_WIKITEXT, *_LM1B),
    "pubmed": (*_WIKITEXT, *_LM1B),
    "none": (),
}

#: Names of the corpora that there are rules for; "none" leaves texts as they are.
DETOKENIZERS = tuple(_RULES)


def detokenizer(name: str) -> Detokenizer:
    """The function that turns a corpus's text into natural text.

    Args:
        name: ``"wikitext"``, ``"lm1b"``, ``"ptb"``, ``"lambada"``, ``"scientific_papers"`` (or ``"arxiv"``,
            ``"pubmed"``, its parts), or ``"none"``, which leaves texts as they are.

    Raises:
        ConfigError: if there are no rules for the name.
    """
    if name not in _RULES:
        raise ConfigError(f"name must be one of {', '.join(DETOKENIZERS)}, got {name!r}.")
    return Detokenizer(name, _RULES[name])
