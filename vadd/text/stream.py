"""Rows of tokens of a corpus that no memory holds, read once more from exactly where reading stopped."""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vadd._checks import require_integer, require_integers
from vadd.errors import CheckpointError, DataError, DomainError
from vadd.streams import RowStream
from vadd.text.documents import require_datasets
from vadd.text.form import Detokenize, Encoder, Packing, RowForm
from vadd.text.source import Source

if TYPE_CHECKING:
    from vadd.text.base import Tokenizer

__all__ = ["TextStream"]

_AT_ONCE = 1 << 20  # characters that are tokenized together


@dataclass
class _Position:
    """Behind which row a stream stands.

    Attributes:
        epoch, block: numbers, from 0.
        source: where in the documents the block begins.
        block_hash: of the block's documents, None before it is read.
        taken: documents of the block, in the shuffled order, that are used up.
        carry: tokens left over from them.
        rows: rows made of these and of the next document.
    """

    epoch: int
    block: int
    source: Any
    block_hash: str | None
    taken: int
    carry: list[int]
    rows: int


class TextStream(RowStream):
    """Endless rows of tokens of documents, in an order that is shuffled and can be taken up anywhere.

    A block of documents is read and put into an order that follows the seed, the epoch and the number of the block;
    its documents are packed into rows, across the borders of blocks and epochs, or padded to one. The position holds
    where the block begins in the documents, how many of its documents are used up, and the tokens left over (fewer than
    a row). Going on reads the block again, so that no document is left out or repeated. Its documents are compared with
    those that were there (by a hash): that they have changed is an error.

    Rows are those of :func:`~vadd.text.rows.text_rows` for the documents in the shuffled order.

    Args:
        documents: a ``datasets.IterableDataset`` (or ``Dataset``) with a column ``text``, which goes on by its own
            position where it has one; or any iterable of texts that can be read from its start again and again. Its
            order must be the same every time: it is shuffled here.
        tokenizer, length, packing, detokenize, separate, frame, split: see :func:`~vadd.text.rows.text_rows`.
        shuffle_block: documents of a block, which are in memory together; 1 leaves the order as it is.
        seed: of the orders.
        retries: how often a block is read again after an error, as where a connection is lost, before it is raised.
        pause: seconds before the first retry; doubled for each further one.

    Raises:
        ConfigError: if the documents can be read only once, or options do not fit together.
        DomainError: if a number is out of its range.
        DataError: while reading, if it fails for good or there is nothing to read. The position stays behind the latest
            row: iterating again goes on from there.
    """

    def __init__(
        self,
        documents: Iterable[Any],
        tokenizer: "Tokenizer",
        length: int,
        *,
        packing: Packing = "packed",
        detokenize: Detokenize = None,
        separate: bool = True,
        frame: tuple[int, int] | None = None,
        split: bool = False,
        shuffle_block: int = 1000,
        seed: int = 0,
        retries: int = 0,
        pause: float = 1.0,
    ) -> None:
        require_integer("shuffle_block", shuffle_block)
        require_integers(minimum=0, seed=seed, retries=retries)
        if not pause >= 0:
            raise DomainError(f"pause must be seconds, at least 0, got {pause!r}.")
        datasets = require_datasets()
        stored: Any = documents
        if isinstance(stored, datasets.Dataset):
            documents = stored.to_iterable_dataset()  # which finds a position without reading up to it
        self.form = RowForm(length, packing, frame, split)
        self.form.check(tokenizer)
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer, detokenize, separate and packing == "packed")
        self.shuffle_block, self.seed = shuffle_block, seed
        self._source = Source(documents, retries=retries, pause=pause)
        rules = [*self.encoder.rules(), asdict(self.form), shuffle_block, seed]
        self._rules = hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:32]
        self._position = _Position(0, 0, None, None, 0, [], 0)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        at = self._position
        has_tokens = at.block > 0 or at.taken > 0 or at.rows > 0  # in this epoch
        while True:
            texts = self._block(at)
            if not texts:
                if not has_tokens:
                    raise DataError("the documents have no token: a stream that never gives a row cannot be read.")
                at.epoch, at.block, at.source, has_tokens = at.epoch + 1, 0, None, False
                continue
            order = np.random.default_rng((self.seed, at.epoch, at.block)).permutation(len(texts))
            for tokens in self._encoded([texts[k] for k in order[at.taken :]]):
                has_tokens = has_tokens or len(tokens) > 0
                if self.form.packing == "packed":
                    tokens = np.concatenate([np.asarray(at.carry, tokens.dtype), tokens])
                num = self._num_rows(len(tokens))
                while at.rows < num:
                    text = tokens[at.rows * self.form.room : (at.rows + 1) * self.form.room]
                    at.rows += 1
                    yield {name: value[0] for name, value in self.form.fill([text]).items()}
                at.carry = tokens[num * self.form.room :].tolist() if self.form.packing == "packed" else []
                at.taken, at.rows = at.taken + 1, 0
            at.block, at.taken, at.block_hash, at.source = at.block + 1, 0, None, self._source.position()

    def state_dict(self) -> dict[str, Any]:
        return {"rules": self._rules, **copy.deepcopy(asdict(self._position))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = {field.name for field in fields(_Position)}
        if not isinstance(state, dict) or state.keys() != names | {"rules"}:
            raise CheckpointError("the position is not that of a stream of text.")
        if state["rules"] != self._rules:
            raise CheckpointError(
                "the position is that of a stream with another tokenizer, length, packing, detokenizer, frame, "
                "shuffle_block or seed: use the same ones."
            )
        # A new one: an iterator that is still about must not move it.
        self._position = _Position(**copy.deepcopy({name: state[name] for name in names}))

    def _block(self, at: _Position) -> list[str]:
        """The documents of the block that the position is in; none at the end of an epoch."""
        texts = self._source.read(at.source, self.shuffle_block)
        found = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:32]
        if at.block_hash not in (None, found):
            raise DataError(
                f"the documents of block {at.block} in epoch {at.epoch} are others than when they were first read, so "
                "that it cannot go on exactly: give the same documents, in an order that is the same every time "
                "(without shuffle of datasets)."
            )
        at.block_hash = found if texts else None
        return texts

    def _num_rows(self, num_tokens: int) -> int:
        room = self.form.room
        if self.form.packing == "packed":
            return num_tokens // room
        return -(-num_tokens // room) if self.form.split else min(num_tokens, 1)

    def _encoded(self, texts: list[str]) -> Iterator[np.ndarray]:
        """Tokens of each text."""
        begin = 0
        while begin < len(texts):
            end, size = begin + 1, len(texts[begin])
            while end < len(texts) and size + len(texts[end]) <= _AT_ONCE:
                size, end = size + len(texts[end]), end + 1
            tokens, ends = self.encoder(texts[begin:end])
            yield from np.split(tokens, ends[:-1])
            begin = end
