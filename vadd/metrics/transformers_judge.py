"""Language models of the transformers library as judges of text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vadd.errors import ConfigError, DataError, DomainError
from vadd.metrics.information import entropies_of_rows
from vadd.metrics.language import JudgeScores

__all__ = ["TransformersJudge"]

_INSTALL = 'language models that judge text need transformers: pip install "vadd[transformers]".'


class _Window(NamedTuple):
    """Tokens that the model reads together: those from ``scored`` on are scored, the others are context."""

    text: int
    tokens: Tensor
    scored: int


class TransformersJudge:
    """Any causal language model that ``transformers.AutoModelForCausalLM`` loads, such as GPT-2 Large.

    Texts are tokenized anew with the model's own tokenizer, without adding special tokens; written ones
    (``<|endoftext|>``) are read as such. As in published generative perplexities, a text's first token is context and
    not scored, unless ``start_token`` puts the model's start token before it.

    A text longer than the context is read in windows: each begins ``stride`` tokens after the one before, and scores
    what that one did not. Every token is scored once, those beyond the first window with at least
    ``max_length - stride`` tokens of context.

    Args:
        name_or_path: a folder with the model and its tokenizer, or a name on the Hugging Face Hub, of which the library
            keeps a copy. Only safetensors are read, and no code is executed that comes with a model.
        device: where the model runs.
        dtype: of its weights; log-probabilities are float32 at least.
        max_length: tokens that it reads together; default the limit of its positions.
        stride: default half of ``max_length``.
        start_token: whether each text begins with the model's start token, which is not scored.
        batch_size: windows that run together.
        name: for reports; default ``name_or_path``.

    Raises:
        ConfigError: if the package is missing, on sizes out of range, or if the model has no start token.
        DataError: if the model cannot be read, lacks weights, or is not causal.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
        stride: int | None = None,
        start_token: bool = False,
        batch_size: int = 4,
        name: str | None = None,
    ) -> None:
        self.name = str(name_or_path) if name is None else name
        self.feature_name = f"last hidden states of {self.name}"
        self.device = torch.device(device)
        self._model, self._tokenizer = _load(str(name_or_path), dtype)
        self._model.to(self.device).eval().requires_grad_(False)
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if max_length is None:
            max_length = limit
        if max_length is None:
            raise ConfigError(f"{name_or_path} states no limit of its context; give max_length.")
        self.max_length = max_length
        self.stride = max(1, self.max_length // 2) if stride is None else stride
        self.batch_size = batch_size
        if not 2 <= max_length <= (limit or max_length):
            raise ConfigError(f"max_length must lie in [2, {limit}], the limit of the model, got {max_length}.")
        if not 1 <= self.stride < self.max_length or batch_size < 1:
            raise ConfigError(
                f"stride must lie in [1, {max_length}) and batch_size be at least 1, got {stride} and {batch_size}."
            )
        self._start = self._tokenizer.bos_token_id if start_token else None
        if start_token and self._start is None:
            raise ConfigError(f"the tokenizer of {name_or_path} has no start token; leave out start_token.")
        _require_causal(self._model, str(name_or_path), min(8, max_length))

    @torch.no_grad()
    def score(self, texts: Sequence[str], is_padding: None = None, /) -> JudgeScores:
        """Nats, number and entropy of the judge's own tokens of each text.

        Raises:
            ConfigError: if ``texts`` are not several strings, or padding is given.
            DomainError: if a text is too short to have a scored token.
        """
        if is_padding is not None:
            raise ConfigError("is_padding belongs to rows of tokens; texts have none, decode only what is no padding.")
        rows = self._encode(texts)
        own = [row[0 if self._start is None else 1 :] for row in rows]
        num_tokens = torch.tensor([len(row) - 1 for row in rows])
        if bool((num_tokens < 1).any()):
            at = int((num_tokens < 1).int().argmax())
            raise DomainError(
                f"text {at}, {texts[at]!r}, has no token to score: the first is context; leave such texts out and say "
                "how many there were."
            )
        nats = torch.zeros(len(rows), dtype=torch.float64)
        windows = [window for text, row in enumerate(rows) for window in self._windows(text, row)]
        for first in range(0, len(windows), self.batch_size):
            batch = windows[first : first + self.batch_size]
            tokens, is_text = _padded([window.tokens for window in batch], self.device)
            logits = self._model(input_ids=tokens, attention_mask=is_text.long()).logits[:, :-1]
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            losses = F.cross_entropy(wide.transpose(1, 2), tokens[:, 1:], reduction="none").double()
            begins = torch.tensor([window.scored for window in batch], device=self.device)
            positions = torch.arange(1, tokens.shape[1], device=self.device)
            is_scored = (positions >= begins[:, None]) & is_text[:, 1:]
            nats.index_add_(0, torch.tensor([w.text for w in batch]), (losses * is_scored).sum(-1).cpu())
        return JudgeScores(nats, num_tokens, torch.cat([_entropy(row) for row in own]))

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Float[Tensor, "num columns"]:
        """The last hidden state after the last token of each text, of which at most ``max_length`` tokens are read.

        Raises:
            ConfigError: if ``texts`` are not several strings.
            DomainError: if a text is empty.
        """
        rows = [row[: self.max_length] for row in self._encode(texts)]
        if any(len(row) == 0 for row in rows):
            raise DomainError(f"text {min(k for k, row in enumerate(rows) if len(row) == 0)} is empty; leave it out.")
        parts = []
        for first in range(0, len(rows), self.batch_size):
            batch = rows[first : first + self.batch_size]
            tokens, is_text = _padded(batch, self.device)
            hidden = self._model.base_model(input_ids=tokens, attention_mask=is_text.long()).last_hidden_state
            parts.append(hidden[torch.arange(len(batch)), is_text.sum(-1) - 1].float().cpu())
        return torch.cat(parts)

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        if isinstance(texts, str | Tensor) or not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"this judge reads texts, a sequence of strings, got {type(texts).__name__}; decode token rows first."
            )
        start = [] if self._start is None else [self._start]
        rows = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [torch.tensor(start + row, dtype=torch.int64) for row in rows]

    def _windows(self, text: int, tokens: Tensor) -> Iterator[_Window]:
        begin, done = 0, 1  # the first token is context
        while done < len(tokens):
            end = min(begin + self.max_length, len(tokens))
            yield _Window(text, tokens[begin:end], done - begin)
            begin, done = begin + self.stride, end


def _entropy(tokens: Tensor) -> Tensor:
    return entropies_of_rows(tokens[None], torch.ones_like(tokens[None], dtype=torch.bool))


def _padded(rows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows filled up on the right, where a causal model's earlier outputs do not see it, and what is text."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = pad_sequence(rows, batch_first=True)
    return tokens.to(device), (torch.arange(tokens.shape[1]) < lengths[:, None]).to(device)


def _load(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(_INSTALL) from error
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):  # no name on the Hub
        raise DataError(f"there is no folder {name!r}; give one with config.json, model.safetensors and a tokenizer.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise DataError(
            f"the language model {name!r} cannot be read: {error}\nGive a folder with config.json, model.safetensors "
            f"and the tokenizer's files; where there is a network, `hf download {name} --local-dir FOLDER` makes one."
        ) from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise DataError(
            f"the files of {name!r} lack weights of the language model, {', '.join(missing[:3])} first of "
            f"{len(missing)}, which would be random; give a model that was trained to predict the next token."
        )
    return model, tokenizer


@torch.no_grad()
def _require_causal(model: Any, name: str, length: int) -> None:
    """Raise if later tokens change earlier predictions, as in BERT, whose numbers would be no probabilities."""
    tokens = torch.zeros(2, length, dtype=torch.int64, device=model.device)
    tokens[1, 1:] = 1
    first = model(input_ids=tokens).logits[:, 0]
    change = float((first[0] - first[1]).abs().max())
    if not change <= 4 * torch.finfo(first.dtype).eps * float(first.abs().max()):
        raise DataError(f"{name!r} is not causal: later tokens change what it predicts before; give another model.")
