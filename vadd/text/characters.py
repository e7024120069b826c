"""One token a character."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np

from vadd.errors import ConfigError, DataError
from vadd.text.base import Tokenizer, hash_of, refuse_one_text

__all__ = ["WIKI27", "CharTokenizer", "alphabet_of"]

#: The alphabet of text8 and wiki27: a blank and 26 letters.
WIKI27 = " abcdefghijklmnopqrstuvwxyz"


class CharTokenizer(Tokenizer):
    r"""One token a character of a fixed alphabet; there is no token for unknown characters.

    The separator is the line end ``"\n"`` where the alphabet has it.

    Args:
        alphabet: the characters, each once; the position is the token.

    Raises:
        ConfigError: if the alphabet is empty, repeats a character or holds a surrogate.
    """

    def __init__(self, alphabet: str, *, name: str = "chars") -> None:
        if not isinstance(alphabet, str) or not alphabet:
            raise ConfigError(f"alphabet must be a string of at least one character, got {alphabet!r}.")
        repeated = sorted({character for character in alphabet if alphabet.count(character) > 1})
        if repeated:
            raise ConfigError(f"alphabet must hold each character once, it repeats {''.join(repeated)!r}.")
        surrogates = [f"U+{ord(character):04X}" for character in alphabet if 0xD800 <= ord(character) <= 0xDFFF]
        if surrogates:
            raise ConfigError(f"alphabet must hold characters, {', '.join(surrogates)} are surrogates.")
        super().__init__(
            name=name,
            vocab_size=len(alphabet),
            separator=alphabet.index("\n") if "\n" in alphabet else None,
            fingerprint=hash_of({"class": "CharTokenizer", "alphabet": alphabet}),
        )
        self.alphabet = alphabet
        codes = np.array([ord(character) for character in alphabet])
        # The last entry stands for all code points beyond the alphabet's.
        self._token_of_code = np.full(int(codes.max()) + 2, -1, dtype=np.int32)
        self._token_of_code[codes] = np.arange(len(alphabet), dtype=np.int32)

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")
        tokens = self._token_of_code[np.minimum(codes, len(self._token_of_code) - 1)]
        ends = list(accumulate(map(len, texts)))
        unknown = np.flatnonzero(tokens < 0)
        if unknown.size:
            self._refuse(texts, ends, int(unknown[0]), len(np.unique(codes[unknown])))
        flat = tokens.tolist()
        return [flat[end - len(text) : end] for text, end in zip(texts, ends, strict=True)]

    def _refuse(self, texts: list[str], ends: list[int], place: int, number: int) -> None:
        row = int(np.searchsorted(ends, place, side="right"))
        position = place - (ends[row] - len(texts[row]))
        character = texts[row][position]
        others = f" (and {number - 1} other characters that it lacks follow)" if number > 1 else ""
        raise DataError(
            f"texts[{row}] holds {character!r} (U+{ord(character):04X}) at position {position}, which the alphabet of "
            f"{self.name!r}, {self.vocab_size} characters, lacks{others}; make the alphabet of all texts, "
            "load_tokenizer('chars', texts=...), or clean the texts first."
        )

    def decode_rows(self, rows: list[list[int]], mask: str) -> list[str]:
        shown = [*self.alphabet, mask]
        return ["".join(map(shown.__getitem__, row)) for row in rows]

    def options(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "name": self.name}


def alphabet_of(texts: Iterable[str]) -> str:
    """The characters of all texts, in the order of their code points.

    Raises:
        ConfigError: if ``texts`` is one string.
        DataError: if there are none.
    """
    refuse_one_text(texts)
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise DataError("texts must hold at least one character to make an alphabet of, they are empty.")
    return "".join(sorted(characters))
