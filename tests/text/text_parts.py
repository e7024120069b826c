"""Tokenizers small enough to check by hand."""

from collections.abc import Sequence

from vadd.text.base import Tokenizer


class Words(Tokenizer):
    """Words of one letter a vowel or not: ``"ab cd"`` becomes the numbers of its letters, blanks being 0.

    Counts how many texts it has encoded.
    """

    def __init__(self, separator=None, vocab_size=30, fingerprint="words"):
        super().__init__(name="words", vocab_size=vocab_size, separator=separator, fingerprint=fingerprint)
        self.encoded = 0

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        self.encoded += len(texts)
        return [[0 if letter == " " else ord(letter) - 96 for letter in text] for text in texts]

    def decode_rows(self, rows: list[list[int]], mask: str) -> list[str]:
        letters = {0: " ", self.vocab_size: mask, 28: "\n", 29: "<end>"}
        return ["".join(letters.get(token) or chr(token + 96) for token in row) for row in rows]


def letters(tokens: Sequence[int]) -> str:
    """Tokens of ``Words`` as text, the separators 28 and 29 as ``|``."""
    return "".join({0: " ", 28: "|", 29: "|"}.get(int(token)) or chr(int(token) + 96) for token in tokens)
