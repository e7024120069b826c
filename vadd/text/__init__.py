"""Text: tokenizers, documents, and rows of tokens."""

from vadd.text.detokenizers import DETOKENIZERS, Detokenizer, detokenizer
from vadd.text.tokenizers import CharTokenizer, SubwordTokenizer, Tokenizer, check_vocabulary, load_tokenizer

__all__ = [
    "DETOKENIZERS",
    "CharTokenizer",
    "Detokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "check_vocabulary",
    "detokenizer",
    "load_tokenizer",
]
