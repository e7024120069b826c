"""Training of the small autoregressive judge."""

import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vadd._seeds import seeded
from vadd.errors import ConfigError, DataError
from vadd.metrics.judge import CausalJudge
from vadd.metrics.language import JudgeScores, NatsPerToken, nats_per_token

__all__ = ["TrainedJudge", "train_causal_judge"]

_CHUNK = 256  # held-out rows that are read together


class TrainedJudge(NamedTuple):
    """A judge with the proof of its quality.

    Attributes:
        judge: in evaluation mode and without gradients.
        held_out: nats per token of the held-out rows with their standard error; None if there were none.
        num_updates: updates that it was trained for.
    """

    judge: CausalJudge
    held_out: NatsPerToken | None
    num_updates: int


def train_causal_judge(
    rows: Tensor | Mapping[str, Tensor] | Dataset,
    vocab_size: int,
    *,
    seed: int,
    num_updates: int | None = None,
    minutes: float | None = None,
    held_out: Tensor | Mapping[str, Tensor] | Dataset | None = None,
    hidden_size: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    dropout: float = 0.0,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    device: torch.device | str = "cpu",
) -> TrainedJudge:
    """Train a :class:`CausalJudge` for a number of updates, or for a time.

    With ``num_updates``, the same arguments give the same weights on the same machine and thread count; with
    ``minutes`` they depend on its speed. The global random state is left as it was.

    Args:
        rows: training rows: tokens of shape ``(num, dim)``; a mapping of ``x_0`` and perhaps ``is_padding``; or a
            map-style data set whose items are tokens or such mappings.
        vocab_size: number of tokens.
        seed: of the initial weights, the order of the rows and the dropout.
        num_updates: at least 1.
        minutes: time to spend. Give one of the two.
        held_out: rows of the same form that are scored in the end.
        hidden_size, depth, num_heads, dropout: as for :class:`CausalJudge`. A corpus that is read many times needs
            dropout: watch the held-out score.
        batch_size: rows an update, at least 1.
        learning_rate: its peak; it rises over a twentieth of the training and falls to zero.
        device: where it is trained and stays.

    Raises:
        ConfigError, ShapeError, DomainError: on input that is not as described.
        DataError: if there are no rows, or items hold no ``x_0``.
    """
    if (num_updates is None) == (minutes is None):
        raise ConfigError(
            f"give num_updates or minutes, one of the two, got num_updates={num_updates} and minutes={minutes}."
        )
    if (num_updates is not None and num_updates < 1) or (minutes is not None and not 0 < minutes < float("inf")):
        raise ConfigError(f"num_updates must be at least 1 and minutes above 0, got {num_updates} and {minutes}.")
    if batch_size < 1 or not 0 < learning_rate < float("inf"):
        raise ConfigError(f"batch_size and learning_rate must be positive, got {batch_size} and {learning_rate}.")
    data, device = _Rows("rows", rows), torch.device(device)
    kept = None if held_out is None else _Rows("held_out", held_out)
    with seeded(seed, device):
        max_length = data.read([0])[0].shape[1]
        judge = CausalJudge(vocab_size, max_length, hidden_size, depth, num_heads, dropout).to(device)
        if kept is not None:
            judge.check(*kept.read([0]))  # now, not after the training
        optimizer = _optimizer(judge)
        order = torch.Generator().manual_seed(seed)
        waiting = torch.empty(0, dtype=torch.int64)
        start = time.monotonic()
        for step in count():
            done = step / num_updates if num_updates else (time.monotonic() - start) / (60 * (minutes or 1))
            if done >= 1:
                break
            while len(waiting) < batch_size:
                waiting = torch.cat([waiting, torch.randperm(len(data), generator=order)])
            batch, waiting = waiting[:batch_size].tolist(), waiting[batch_size:]
            tokens, is_padding = data.read(batch)
            is_padding = judge.check(tokens, is_padding)
            loss = -judge.log_probs(tokens.to(device), is_padding.to(device)).sum() / (~is_padding).sum()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(20 * done + 0.01, (1 - done) / 0.95, 1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
            optimizer.step()
    judge.requires_grad_(False).eval()
    return TrainedJudge(judge, None if kept is None else nats_per_token(_score(judge, kept)), step)


def _optimizer(judge: CausalJudge) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in judge.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in judge.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def _score(judge: CausalJudge, data: "_Rows") -> JudgeScores:
    chunks = torch.arange(len(data)).split(_CHUNK)
    scores = [judge.score(*data.read(chunk.tolist())) for chunk in chunks]
    return JudgeScores(*(torch.cat(parts) for parts in zip(*scores, strict=True)))


class _Rows:
    """Rows of tokens and their padding, from any of the forms that data come in."""

    def __init__(self, name: str, data: Any) -> None:
        self.name, self.data = name, {"x_0": data} if isinstance(data, Tensor) else data
        if isinstance(self.data, Mapping):
            self._tokens_of(self.data)
        elif not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise ConfigError(
                f"{name} must be a tensor, a mapping of x_0 to one, or a map-style data set with a length, got "
                f"{type(data).__name__}."
            )
        if len(self) == 0:
            raise DataError(f"{name} holds no rows.")

    def __len__(self) -> int:
        return len(self.data["x_0"] if isinstance(self.data, Mapping) else self.data)

    def read(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """``x_0`` and ``is_padding``."""
        if isinstance(self.data, Mapping):
            wanted = torch.as_tensor(rows, device=self.data["x_0"].device)
            fields = {
                name: self.data[name][wanted] for name in ("x_0", "is_padding") if self.data.get(name) is not None
            }
        else:
            read = getattr(self.data, "__getitems__", None)
            items = read(list(rows)) if read else [self.data[row] for row in rows]
            items = [{"x_0": item} if isinstance(item, Tensor) else item for item in items]
            names = [name for name in ("x_0", "is_padding") if name in items[0]]
            fields = {name: torch.stack([item[name] for item in items]) for name in names}
        return self._tokens_of(fields), fields.get("is_padding")

    def _tokens_of(self, fields: Any) -> Tensor:
        if "x_0" not in fields:
            raise DataError(f"{self.name} must hold tokens named x_0, got {sorted(fields)}.")
        return fields["x_0"]
