"""Text: tokenizers, documents, and rows of tokens."""

from vadd.text.detokenizers import DETOKENIZERS, Detokenizer, detokenizer
from vadd.text.documents import load_documents
from vadd.text.files import Unit
from vadd.text.protocols import PROTOCOLS, TextProtocol
from vadd.text.rows import TextRows, text_rows
from vadd.text.stream import TextStream
from vadd.text.tokenizers import CharTokenizer, SubwordTokenizer, Tokenizer, check_vocabulary, load_tokenizer
from vadd.text.windows import sliding_windows

__all__ = [
    "DETOKENIZERS",
    "PROTOCOLS",
    "CharTokenizer",
    "Detokenizer",
    "SubwordTokenizer",
    "TextProtocol",
    "TextRows",
    "TextStream",
    "Tokenizer",
    "Unit",
    "check_vocabulary",
    "detokenizer",
    "load_documents",
    "load_tokenizer",
    "sliding_windows",
    "text_rows",
]
