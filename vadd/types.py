"""Shape vocabulary of the library.

Axes: ``batch``, ``dim`` (token positions, flattened), ``vocab``, ``latent``. Tokens are ``int64`` in
``[0, vocab)``; ``mask_id`` equals ``vocab``. Times run from 0 (data) to 1 (all masked).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from vadd._checks import is_integer
from vadd.errors import ConfigError

__all__ = [
    "CorruptedBatch",
    "Distribution",
    "Flags",
    "Latents",
    "Logits",
    "PerSequence",
    "RowFlags",
    "Times",
    "Tokens",
    "as_latent_shape",
]

#: Every Pyro distribution; ``Normal(...).to_event(1)`` is one, though not a ``TorchDistribution``.
Distribution = TorchDistributionMixin

#: Clean or masked tokens, ``int64``.
Tokens = Int[Tensor, "batch dim"]
#: One time a sequence, in ``[0, 1]``.
Times = Float[Tensor, " batch"]
#: One latent a sequence, of any shape.
Latents = Float[Tensor, "batch *latent"]
#: Unnormalised log-probabilities of the clean tokens at every position.
Logits = Float[Tensor, "batch dim vocab"]
#: Which positions: masked, revealed, frozen, or padding.
Flags = Bool[Tensor, "batch dim"]
#: Which sequences of a batch.
RowFlags = Bool[Tensor, " batch"]
#: One number a sequence: nats, a weight, or a probability.
PerSequence = Float[Tensor, " batch"]


@dataclass(frozen=True)
class CorruptedBatch:
    """Data for one evaluation of model and guide: a jump from ``x_t`` towards ``x_0``.

    Attributes:
        x_0: clean tokens.
        x_t: the same with masked positions replaced by ``mask_id``.
        t: time of ``x_t``.
        s: time that the jump leads to, ``s <= t``; zero when the jump reveals everything.
        is_masked: positions masked in ``x_t`` (the set M).
        target: positions that the jump reveals (the set S, a subset of M). They are what the
            likelihood scores and what the latent explains.
        is_frozen: positions that are given (prompts, known pixels): never masked, never scored.
        is_padding: positions that hold no data: never masked or scored, hidden from the networks.
        is_null: rows whose latent is replaced by the null latent.
        condition: class labels and the like, passed on to the networks.
        x_1: the sequence with all free positions masked, where one latent serves the whole
            trajectory. Prior and recognition network then read it in place of ``x_t``.
        shares_latent: rows to which ``x_1`` applies, in a batch of both kinds; default all, where it is given.
        num_steps: number of steps of the sampler that the jump belongs to, infinity for infinitely many, NaN in
            rows that belong to no sampler; None where the objective does not ask.
        part: which objective of a mixture drew the row, counted from 0.

    Raises:
        ConfigError: if ``shares_latent`` is given without ``x_1``.
    """

    x_0: Tokens
    x_t: Tokens
    t: Times
    s: Times
    is_masked: Flags
    target: Flags
    is_frozen: Flags | None = None
    is_padding: Flags | None = None
    is_null: RowFlags | None = None
    condition: Tensor | None = None
    x_1: Tokens | None = None
    shares_latent: RowFlags | None = None
    num_steps: PerSequence | None = None
    part: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if self.shares_latent is not None and self.x_1 is None:
            raise ConfigError("shares_latent needs x_1, the sequences with all free positions masked.")

    def rows(self, rows: slice) -> "CorruptedBatch":
        """Some of the rows."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: None if value is None else value[rows] for name, value in values.items()}
        return CorruptedBatch(**values)

    @property
    def x_s(self) -> Tokens:
        """``x_t`` with the target positions revealed: what the jump arrives at.

        It is the value that the model's likelihood scores and the tokens that the recognition
        network may read: positions masked but not in the target still carry ``mask_id``.
        """
        return torch.where(self.target, self.x_0, self.x_t)

    @property
    def latent_inputs(self) -> tuple[Tokens, Times]:
        """Tokens and times that the prior reads."""
        if self.x_1 is None:
            return self.x_t, self.t
        return self._of_sharing_rows(self.x_1, self.x_t), self._of_sharing_rows(torch.ones_like(self.t), self.t)

    @property
    def recognition_inputs(self) -> tuple[Tokens, Flags, Times]:
        """Tokens, target and times that the recognition network reads."""
        if self.x_1 is None:
            return self.x_s, self.target, self.t
        return (
            self._of_sharing_rows(self.x_0, self.x_s),
            self._of_sharing_rows(self.x_1 != self.x_0, self.target),
            self._of_sharing_rows(torch.ones_like(self.t), self.t),
        )

    def _of_sharing_rows(self, shared: Tensor, own: Tensor) -> Tensor:
        """``shared`` in the rows whose latent serves the whole trajectory, ``own`` in the others."""
        if self.shares_latent is None:
            return shared
        return torch.where(self.shares_latent.reshape(-1, *[1] * (own.ndim - 1)), shared, own)

    @property
    def network_options(self) -> dict[str, Tensor]:
        """The optional keywords of the networks, those that are set."""
        options = {"is_padding": self.is_padding, "condition": self.condition}
        return {name: value for name, value in options.items() if value is not None}


def as_latent_shape(latent_shape: int | Sequence[int]) -> torch.Size:
    """The shape of one sequence's latent; an integer ``d`` means ``(d,)``.

    Raises:
        ConfigError: unless it is one or more non-negative integers.
    """
    shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
    if not shape or not all(is_integer(size, 0) for size in shape):
        raise ConfigError(
            f"latent_shape must be one or more non-negative integers, got {latent_shape!r}; "
            "use 0 for a model without a latent."
        )
    return torch.Size(shape)
