"""The protocols of published results on text: which documents, which tokens, which rows.

Figures compare only where all of it agrees. Two kinds are in use:

- *wrapped* (packed): documents, each followed by the separator, are joined and cut; every row begins and ends with a
  token of its own (GPT-2: ``<|endoftext|>``; BERT: ``[CLS]`` and ``[SEP]``), so that a row of 1024 tokens holds 1022 of
  text. It is what MDLM (arXiv:2406.07524) trains and evaluates on, for OpenWebText, the zero-shot sets on it, and LM1B
  packed.
- *padded*: one document a row, between ``[CLS]`` and ``[SEP]``, cut to length, the rest padding (LM1B unpacked, as in
  DiffusionBERT, arXiv:2211.15029; about 77 % of the positions are padding).

MDLM drops the tokens left over behind every 1,000 documents; here only those at the very end are.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vadd.errors import ConfigError
from vadd.text.documents import Unit, load_documents
from vadd.text.form import Packing
from vadd.text.rows import TextRows, text_rows
from vadd.text.stream import TextStream
from vadd.text.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import datasets

    from vadd.text.base import Tokenizer

__all__ = ["PROTOCOLS", "TextProtocol"]

_GPT2 = (50_256, 50_256)
_BERT = (101, 102)


@dataclass(frozen=True)
class TextProtocol:
    """How a corpus becomes rows of tokens.

    Attributes:
        name: for reports.
        source: name on the Hugging Face Hub.
        config: of the data set there, or None.
        split: with a range where a part is held out.
        field: the text's column.
        tokenizer: name for :func:`~vadd.text.tokenizers.load_tokenizer`.
        length: tokens of a row, the frame's two included.
        packing: ``"packed"`` or ``"padded"``.
        detokenizer: name for :func:`~vadd.text.detokenizers.detokenizer`.
        frame: tokens that begin and end a row, or None.
        unit: what a document of a text file in place of the Hub is.
    """

    name: str
    source: str
    config: str | None
    split: str
    field: str
    tokenizer: str
    length: int
    packing: Packing
    detokenizer: str
    frame: tuple[int, int] | None
    unit: Unit = "line"

    def documents(
        self,
        *,
        source: str | Path | None = None,
        unit: Unit | None = None,
        streaming: bool = False,
        cache: str | Path | None = None,
    ) -> "datasets.Dataset | datasets.IterableDataset":
        """The documents, with one column ``text``.

        Args:
            source: local file or folder in place of the Hub, see :func:`~vadd.text.documents.load_documents`.
            unit: what a document of a text file is, instead of the protocol's.
            streaming: whether to read as it goes.
            cache: folder of what is read; default that of ``datasets``.

        Raises:
            DataError, ConfigError: as :func:`~vadd.text.documents.load_documents` does.
        """
        return load_documents(
            self.source if source is None else source,
            config=self.config if source is None or not Path(source).exists() else None,
            split=self.split,
            field=self.field,
            unit=unit or self.unit,
            streaming=streaming,
            cache=cache,
        )

    def rows(
        self,
        *,
        root: str | Path | None = None,
        source: str | Path | None = None,
        num: int | None = None,
        tokenizer: "Tokenizer | None" = None,
        num_proc: int | None = None,
        cache: str | Path | None = None,
    ) -> TextRows:
        """The rows of the protocol.

        Args:
            root: folder in which the tokenizer's vocabulary is looked for before the Hub.
            source: local file or folder to use in place of the Hub.
            num: rows to keep, from the first; default all.
            tokenizer: one that is loaded already.
            num_proc: processes that tokenize.
            cache: folder of documents and tokens; default that of ``datasets``.

        Raises:
            ConfigError: if ``tokenizer`` is none that has the protocol's frame.
            DataError: if documents or vocabulary cannot be read.
            DomainError: if there are fewer rows than ``num``.
        """
        tokenizer = self._tokenizer(root, tokenizer)
        rows = text_rows(
            self.documents(source=source, cache=cache),  # pyright: ignore[reportArgumentType] - not streaming
            tokenizer,
            self.length,
            packing=self.packing,
            detokenize=None if self.detokenizer == "none" else self.detokenizer,
            frame=self.frame,
            num_proc=num_proc,
            cache=cache,
        )
        return rows if num is None else rows.first(num)

    def stream(
        self,
        *,
        root: str | Path | None = None,
        source: str | Path | None = None,
        tokenizer: "Tokenizer | None" = None,
        shuffle_block: int = 1000,
        seed: int = 0,
        retries: int = 0,
    ) -> TextStream:
        """The same rows without end, in a shuffled order, for a corpus that is not to be stored.

        A range that counts from the end of the split cannot be streamed.

        Args:
            root, source, tokenizer: as of :meth:`rows`.
            shuffle_block, seed, retries: see :class:`~vadd.text.stream.TextStream`.

        Raises:
            ConfigError, DataError: as :meth:`rows` does.
        """
        return TextStream(
            self.documents(source=source, streaming=True),
            self._tokenizer(root, tokenizer),
            self.length,
            packing=self.packing,
            detokenize=None if self.detokenizer == "none" else self.detokenizer,
            frame=self.frame,
            shuffle_block=shuffle_block,
            seed=seed,
            retries=retries,
        )

    def _tokenizer(self, root: str | Path | None, tokenizer: "Tokenizer | None") -> "Tokenizer":
        tokenizer = load_tokenizer(self.tokenizer, root=root) if tokenizer is None else tokenizer
        if self.frame is not None and tokenizer.separator != self.frame[1]:
            raise ConfigError(
                f"protocol {self.name!r} ends rows with token {self.frame[1]} of {self.tokenizer!r}; the tokenizer "
                f"{tokenizer.name!r} has the separator {tokenizer.separator}: use {self.tokenizer!r}."
            )
        return tokenizer


def _lm1b(name: str, split: str, packing: Packing) -> TextProtocol:
    return TextProtocol(
        name, "dvruette/lm1b", None, split, "text", "bert-base-uncased", 128, packing, "lm1b", frame=_BERT
    )


def _on_gpt2(
    name: str, source: str, split: str, *, config: str | None = None, field: str = "text", detokenizer: str = "none"
) -> TextProtocol:
    """Wrapped rows of 1024 tokens of GPT-2."""
    return TextProtocol(name, source, config, split, field, "gpt2", 1024, "packed", detokenizer, frame=_GPT2)


def _wikitext(name: str, config: str) -> TextProtocol:
    """Its rows are lines with their ends. The files of WikiText that are not raw are another text: with ``<unk>``."""
    protocol = _on_gpt2(name, "Salesforce/wikitext", "test", config=config, detokenizer="wikitext")
    return replace(protocol, unit="ended-line")


#: By name. ``-train`` and ``-validation`` are for training; perplexities are given on the others.
PROTOCOLS: MappingProxyType[str, TextProtocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            # LM1B at 128 tokens of BERT. Padded is the paper's protocol ("unpacked"); packed is that of re-runs.
            _lm1b("lm1b-padded-train", "train", "padded"),
            _lm1b("lm1b-padded", "test", "padded"),
            _lm1b("lm1b-packed-train", "train", "packed"),
            _lm1b("lm1b-packed", "test", "packed"),
            # OpenWebText: the last 100,000 documents are held out.
            _on_gpt2("openwebtext-train", "Skylion007/openwebtext", "train[:-100000]"),
            _on_gpt2("openwebtext-validation", "Skylion007/openwebtext", "train[-100000:]"),
            # Zero-shot sets of models of OpenWebText.
            _on_gpt2(
                "arxiv",
                "armanc/scientific_papers",
                "test",
                config="arxiv",
                field="article",
                detokenizer="scientific_papers",
            ),
            _on_gpt2(
                "pubmed",
                "armanc/scientific_papers",
                "test",
                config="pubmed",
                field="article",
                detokenizer="scientific_papers",
            ),
            _on_gpt2("lm1b", "dvruette/lm1b", "test", detokenizer="lm1b"),
            _on_gpt2("lambada", "EleutherAI/lambada_openai", "test", config="default", detokenizer="lambada"),
            _wikitext("wikitext-103", "wikitext-103-raw-v1"),
            _wikitext("wikitext-2", "wikitext-2-raw-v1"),
            _on_gpt2("ag-news", "fancyzhx/ag_news", "test"),
        )
    }
)
