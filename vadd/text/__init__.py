"""Text: tokenizers, documents, and rows of tokens."""
