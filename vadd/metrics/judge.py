"""A small autoregressive model of token rows, to judge samples by where no large one is at hand."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vadd.distributions.projection import linear_token_scores
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.metrics.information import entropies_of_rows
from vadd.metrics.language import JudgeScores, check_padding
from vadd.types import Flags, Tokens

__all__ = ["CausalJudge"]

_LOGITS_AT_ONCE = 2**25  # 128 MiB of float32


class CausalJudge(nn.Module):
    r"""Decoder-only transformer :math:`\log p(x) = \sum_i \log p(x_i \mid x_{<i})` over rows of tokens.

    Every token is scored, the first from a learned start. The probabilities of all rows of one length sum to one: the
    length is given, and no end is modelled. With rotary positions and one matrix for both ends of the vocabulary.

    Perplexities under it compare models judged by the same weights: keep them with :func:`save_causal_judge`. They
    compare with no perplexity under GPT-2.

    Args:
        vocab_size: number of tokens ``V``.
        max_length: longest row that it reads; the length of its training rows.
        hidden_size: ``num_heads`` times an even number.
        depth: number of blocks.
        num_heads: of the attention.
        dropout: share of activations dropped in training.

    Raises:
        ConfigError: on sizes out of range.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; rotary positions of Su et al.,
        "RoFormer", arXiv 2104.09864.
    """

    cos: Tensor
    sin: Tensor
    name = "a small autoregressive judge trained on the same corpus"
    feature_name = "hidden states of a small autoregressive judge trained on the same corpus"

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        hidden_size: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(vocab_size, max_length, hidden_size, depth, num_heads) < 1 or hidden_size % (2 * num_heads):
            raise ConfigError(
                "expected positive sizes and a hidden_size that is num_heads times an even number, got "
                f"vocab_size={vocab_size}, max_length={max_length}, hidden_size={hidden_size}, depth={depth}, "
                f"num_heads={num_heads}."
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {dropout}.")
        self.vocab_size, self.max_length, self.hidden_size = vocab_size, max_length, hidden_size
        self.depth, self.num_heads, self.dropout = depth, num_heads, dropout
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.start = nn.Parameter(torch.empty(hidden_size))
        self.blocks = nn.ModuleList(_Block(hidden_size, num_heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)
        for tensor in (self.embedding.weight, self.start):
            nn.init.normal_(tensor, std=0.02)
        for name, tensor in self.blocks.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):  # depth does not change the size of states
                nn.init.normal_(tensor, std=0.02 / math.sqrt(2 * depth))
        half = hidden_size // num_heads // 2
        angles = torch.arange(max_length + 1)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tokens, is_padding: Flags | None = None) -> Float[Tensor, "batch dim"]:
        """Log-probability of each token given those before it, in nats; 0 at padding.

        Args:
            tokens: rows of at most ``max_length`` tokens.
            is_padding: positions that hold no text, after it; their tokens are not read.

        Raises:
            ShapeError: if the shapes are others or the rows too long.
            DomainError: if a token lies outside ``[0, vocab_size)``, a row is nothing but padding, or text follows
                padding.
        """
        return self.log_probs(tokens, self.check(tokens, is_padding))

    def log_probs(self, tokens: Tokens, is_padding: Flags) -> Float[Tensor, "batch dim"]:
        """The same of rows that passed :meth:`check`."""
        tokens = tokens.masked_fill(is_padding, 0)
        hidden = self._hidden(tokens[:, :-1]).flatten(0, 1)
        log_probs = linear_token_scores(hidden, self.embedding.weight, None, tokens.flatten())
        return log_probs.reshape(tokens.shape).masked_fill(is_padding, 0.0)

    @torch.no_grad()
    def score(self, rows: Tokens, is_padding: Flags | None = None) -> JudgeScores:
        """Nats, tokens and entropy of each row, on the device of ``rows``; of any number of rows.

        Raises:
            ShapeError, DomainError: as the network itself.
            ConfigError: if its dropout is on.
        """
        is_padding = self.check(rows, is_padding)
        self._refuse_dropout()
        device = self.start.device
        size = max(1, _LOGITS_AT_ONCE // (rows.shape[1] * self.vocab_size))
        parts = zip(rows.split(size), is_padding.split(size), strict=True)
        nats = torch.cat([-self.log_probs(x.to(device), y.to(device)).sum(-1, dtype=torch.float64) for x, y in parts])
        return JudgeScores(nats.to(rows.device), (~is_padding).sum(-1), entropies_of_rows(rows, ~is_padding))

    @torch.no_grad()
    def features(self, rows: Tokens, is_padding: Flags | None = None) -> Float[Tensor, "batch columns"]:
        """The last hidden state after a row's last token: one row of features a sequence, on the device of ``rows``.

        Raises:
            ShapeError, DomainError: as the network itself.
            ConfigError: if its dropout is on.
        """
        is_padding = self.check(rows, is_padding)
        self._refuse_dropout()
        device, parts = self.start.device, []
        for tokens, flags in zip(rows.split(256), is_padding.split(256), strict=True):
            hidden = self._hidden(tokens.masked_fill(flags, 0).to(device))
            last = (~flags).sum(-1).to(device)  # the start stands before the first token
            parts.append(hidden[torch.arange(len(last), device=device), last])
        return torch.cat(parts).to(rows.device)

    def check(self, tokens: Tokens, is_padding: Flags | None = None) -> Flags:
        """The flags of padding, all False by default, if the judge can read the rows.

        Raises:
            ShapeError: if the rows are longer than ``max_length``, or their flags of another shape.
            DomainError: if a token is out of range, padding comes before text, or a row is nothing else.
        """
        is_padding = check_padding(tokens, is_padding)
        if tokens.shape[1] > self.max_length:
            raise ShapeError(
                f"the judge reads rows of at most {self.max_length} tokens, as long as those it was trained on, got "
                f"{tokens.shape[1]}; cut them, or train a judge on longer rows."
            )
        if bool((is_padding[:, :-1] & ~is_padding[:, 1:]).any()):
            raise DomainError("padding must follow the text, but there is text after padding; move it to the end.")
        low, high = (int(value) for value in torch.aminmax(tokens.masked_fill(is_padding, 0)))
        if low < 0 or high >= self.vocab_size:
            raise DomainError(
                f"tokens must lie in [0, {self.vocab_size}), got values from {low} to {high}; {self.vocab_size} is the "
                "mask: a sample that still has one is not finished."
            )
        return is_padding

    def _refuse_dropout(self) -> None:
        if self.training and self.dropout:
            raise ConfigError("the judge is in training mode and drops activations at random; call its eval() first.")

    def _hidden(self, tokens: Tensor) -> Tensor:
        """States after the start and after each token, ``(batch, dim + 1, hidden)``."""
        start = self.start.expand(len(tokens), 1, -1)
        x = torch.cat([start, self.embedding(tokens)], 1)
        x = F.dropout(x, self.dropout, self.training)
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)


class _Block(nn.Module):
    """Causal attention and a hidden layer, each around a residual connection and after a norm."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.attention_in = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.attention_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.mlp_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.mlp_out = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, dim, _ = x.shape
        parts = self.attention_in(self.attention_norm(x)).reshape(batch, dim, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(batch, dim, -1))
        x = x + F.dropout(mixed, self.dropout, self.training)
        mixed = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + F.dropout(mixed, self.dropout, self.training)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels by its position's angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
