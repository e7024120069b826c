"""The forward (masking) process and the probabilities of its reversal."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vadd._checks import kind_of, require_integer, require_kind
from vadd._modes import are_checks_on
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.schedules import NoiseSchedule
from vadd.types import CorruptedBatch, Flags, PerSequence, Times, Tokens

__all__ = ["MaskingProcess", "require_data"]


@final
class MaskingProcess(nn.Module):
    r"""Masks each position independently: :math:`q(x_t^i = [M] \mid x_0) = 1 - \alpha_t`.

    Args:
        schedule: the noise schedule.
        vocab_size: number of clean tokens ``V``; ``mask_id`` is ``V``.
        validate_args: check the values of tokens and times on every call, and the loss. Costs a few
            host-device synchronizations a call on an accelerator, next to nothing on a CPU; there the Trainer and
            samplers check the first update and the first network call of a batch alone. It is not stored: a process
            that is loaded checks.

    Raises:
        ConfigError: if ``schedule`` is none, or ``vocab_size`` no integer of at least 2.
    """

    def __init__(self, schedule: NoiseSchedule, vocab_size: int, *, validate_args: bool = True) -> None:
        super().__init__()
        require_kind("schedule", schedule, NoiseSchedule, "for example MaskingProcess(LinearSchedule(), vocab_size)")
        require_integer("vocab_size", vocab_size, minimum=2, error=ConfigError)
        self.schedule = schedule
        self.vocab_size = vocab_size
        self.validate_args = validate_args

    @property
    def checks_values(self) -> bool:
        """Whether values are checked now: ``validate_args``, but where training and sampling leave it out."""
        return self.validate_args and are_checks_on()

    @property
    def mask_id(self) -> int:
        """The token that stands for a masked position; one past the clean tokens."""
        return self.vocab_size

    def is_same_as(self, other: "MaskingProcess") -> bool:
        """Whether the other masks alike: a schedule of the same class and values, and the same vocabulary."""
        own, theirs = self.schedule, other.schedule
        if self.vocab_size != other.vocab_size or type(own) is not type(theirs):
            return False
        return own is theirs or torch.equal(_values(own), _values(theirs))

    def mask(self, t: Times, uniform: Float[Tensor, "batch dim"]) -> Flags:
        """Masked positions at time ``t`` for given uniforms in ``[0, 1)``; grows with ``t``."""
        return uniform < self.schedule.mask_probability(t.double())[:, None]

    def corrupt(
        self,
        x_0: Tokens,
        t: Times,
        s: Times | None = None,
        *,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
        uniform: Float[Tensor, "batch dim"] | None = None,
        generator: torch.Generator | None = None,
    ) -> CorruptedBatch:
        """Draw ``x_t`` given ``x_0``, and the positions that a jump from ``t`` to ``s`` reveals.

        Args:
            x_0: clean tokens, shape ``(batch, dim)``, ``int64`` in ``[0, vocab_size)``.
            t: times in ``[0, 1]``, shape ``(batch,)``.
            s: times the jump leads to, ``0 <= s <= t``; default 0, which reveals everything.
            is_frozen: positions never masked and never scored.
            is_padding: positions without data; never masked or scored, hidden from the networks.
            condition: passed on to the networks.
            uniform: the randomness, values in ``[0, 1)``; default a fresh draw. Batches of one ``uniform``
                at different times belong to one trajectory: masked sets grow with ``t``.
            generator: source of randomness.

        Raises:
            ShapeError, DtypeError, DomainError: on input that is not as described.
        """
        self.check_tokens(x_0, is_frozen=is_frozen, is_padding=is_padding)
        s = self._checked_end(x_0, t, s)
        if uniform is None:
            uniform = torch.rand(x_0.shape, dtype=torch.float64, device=x_0.device, generator=generator)
        else:
            self._check_uniform(x_0, uniform)
        uniform = self._never_mask(uniform, is_frozen, is_padding)
        is_masked = self.mask(t, uniform)
        target = is_masked & ~self.mask(s, uniform)
        return self._batch(x_0, t, s, is_masked, target, is_frozen, is_padding, condition)

    def corrupt_count(
        self,
        x_0: Tokens,
        num_masked: Int[Tensor, " batch"],
        *,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> CorruptedBatch:
        r"""Mask exactly ``num_masked`` free positions of each row, chosen uniformly.

        The time is drawn from its law given the count when ``t`` has density proportional to
        the weight ``w(t)``: :math:`1 - \alpha_t \sim Beta(n, N - n + 1)` for ``N`` free positions,
        which is the law of the ``n``-th smallest of ``N`` uniforms. Rows with
        ``num_masked = 0`` have ``t = 0``.

        Args:
            x_0: clean tokens, shape ``(batch, dim)``.
            num_masked: counts between 0 and the number of free positions, shape ``(batch,)``.
            is_frozen, is_padding, condition, generator: as in :meth:`corrupt`.

        Raises:
            ShapeError, DtypeError, DomainError: on input that is not as described.
        """
        self.check_tokens(x_0, is_frozen=is_frozen, is_padding=is_padding)
        require_kind("num_masked", num_masked, Tensor, "one count a row, int64", error=DtypeError)
        # In double precision: float32 uniforms are 1 % off at rates of 1e-6.
        uniform = torch.rand(x_0.shape, dtype=torch.float64, device=x_0.device, generator=generator)
        uniform = self._never_mask(uniform, is_frozen, is_padding)
        if num_masked.is_floating_point() or num_masked.is_complex() or num_masked.dtype == torch.bool:
            raise DtypeError(f"num_masked must hold integers, got {num_masked.dtype}.")
        if num_masked.shape != x_0.shape[:1]:
            raise ShapeError(f"num_masked must have shape {tuple(x_0.shape[:1])}, got {tuple(num_masked.shape)}.")
        if self.checks_values:
            num_free = (uniform < 1).sum(-1)
            if bool(((num_masked < 0) | (num_masked > num_free)).any()):
                raise DomainError(
                    "num_masked must lie between 0 and the number of free positions of its row, got "
                    f"counts up to {int(num_masked.max())} for {int(num_free.min())} free positions."
                )
        ordered = uniform.sort(dim=-1).values
        nth = ordered.gather(-1, (num_masked - 1).clamp(min=0)[:, None])
        threshold = torch.where(num_masked[:, None] > 0, nth, -torch.ones_like(nth))
        is_masked = uniform <= threshold
        t = self.schedule.time_of(threshold[:, 0].clamp(min=0)).to(torch.get_default_dtype())
        s = torch.zeros_like(t)
        return self._batch(x_0, t, s, is_masked, is_masked, is_frozen, is_padding, condition)

    def reveal_probability(self, t: Times, s: Times) -> PerSequence:
        r"""Probability :math:`(\alpha_s-\alpha_t)/(1-\alpha_t)` that the jump ``t`` to ``s`` reveals a position.

        Computed in double precision, where short jumps do not cancel. Exactly 1 for ``s = 0``.

        Args:
            t, s: times, ``0 <= s <= t <= 1``; their values are not looked at.

        Raises:
            DtypeError: if they are no tensors.
        """
        for name, time in (("t", t), ("s", s)):
            require_kind(name, time, Tensor, "one time a row", error=DtypeError)
        masked_t = self.schedule.mask_probability(t.double())
        masked_s = self.schedule.mask_probability(s.double())
        # At t = 0 nothing is masked, and the value is never used: 1 rather than 0/0.
        safe = torch.where(masked_t > 0, masked_t, torch.ones_like(masked_t))
        u = torch.where(masked_t > 0, (masked_t - masked_s) / safe, torch.ones_like(masked_t))
        return u.to(t.dtype)

    def check_tokens(self, x_0: Tensor, *, is_frozen: Tensor | None = None, is_padding: Tensor | None = None) -> None:
        """Check that ``x_0`` is a batch of clean tokens with flags of its shape, and no row is padding alone.

        Args:
            x_0: tokens, shape ``(batch, dim)``, ``int64`` in ``[0, vocab_size)``.
            is_frozen, is_padding: flags of the same shape.

        Raises:
            DtypeError: if the tokens are not ``int64``, or flags not boolean.
            ShapeError: if a shape is another.
            DomainError: if a token is out of range, or a row padding alone; where values are checked.
        """
        check_form(x_0, is_frozen=is_frozen, is_padding=is_padding)
        if not self.checks_values:
            return
        if is_padding is not None:
            require_data(is_padding)
        low, high = (int(v) for v in torch.aminmax(x_0))
        if high == self.mask_id:
            raise DomainError(
                f"x_0 contains the mask token {self.mask_id}; clean data must lie in "
                f"[0, {self.vocab_size}). Mark known and unknown positions with is_frozen instead."
            )
        if low < 0 or high > self.mask_id:
            raise DomainError(
                f"x_0 must hold tokens in [0, {self.vocab_size}), got values from {low} to {high}; "
                "check vocab_size and the tokenizer."
            )

    def _checked_end(self, x_0: Tensor, t: Tensor, s: Tensor | None) -> Tensor:
        """The time ``s``, zeros where there is none, once both times are checked."""
        for name, time in (("t", t), ("s", t if s is None else s)):
            require_kind(name, time, Tensor, "one time a row, torch.full((len(x_0),), 0.5)", error=DtypeError)
            if not time.is_floating_point():
                raise DtypeError(f"{name} must be floating point, got {time.dtype}.")
            if time.shape != x_0.shape[:1]:
                raise ShapeError(
                    f"{name} must have shape {tuple(x_0.shape[:1])}, one time a row, got {tuple(time.shape)}."
                )
        s = torch.zeros_like(t) if s is None else s
        if self.checks_values and not bool(((s >= 0) & (s <= t) & (t <= 1)).all()):
            raise DomainError(
                "times must satisfy 0 <= s <= t <= 1, got "
                f"s in [{float(s.min())}, {float(s.max())}], t in [{float(t.min())}, {float(t.max())}]."
            )
        return s

    def _check_uniform(self, x_0: Tensor, uniform: Tensor) -> None:
        require_kind("uniform", uniform, Tensor, "torch.rand(x_0.shape, dtype=torch.float64)", error=DtypeError)
        if uniform.shape != x_0.shape:
            raise ShapeError(f"uniform must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(uniform.shape)}.")
        if self.checks_values and not bool(((uniform >= 0) & (uniform < 1)).all()):
            low, high = (float(v) for v in torch.aminmax(uniform))
            raise DomainError(f"uniform must lie in [0, 1), got values from {low} to {high}; draw it by torch.rand.")

    @staticmethod
    def _never_mask(uniform: Tensor, is_frozen: Tensor | None, is_padding: Tensor | None) -> Tensor:
        """The uniforms with 2, above every mask probability, at the positions that stay."""
        for fixed in (is_frozen, is_padding):
            if fixed is not None:
                uniform = uniform.masked_fill(fixed, 2.0)
        return uniform

    def _batch(
        self,
        x_0: Tensor,
        t: Tensor,
        s: Tensor,
        is_masked: Tensor,
        target: Tensor,
        is_frozen: Tensor | None,
        is_padding: Tensor | None,
        condition: Tensor | None,
    ) -> CorruptedBatch:
        return CorruptedBatch(
            x_0=x_0,
            x_t=x_0.masked_fill(is_masked, self.mask_id),
            t=t,
            s=s,
            is_masked=is_masked,
            target=target,
            is_frozen=is_frozen,
            is_padding=is_padding,
            condition=condition,
        )


def _values(schedule: NoiseSchedule) -> Tensor:
    """Some of its values, on the CPU."""
    state = [*schedule.parameters(), *schedule.buffers()]
    times = torch.linspace(0, 1, 34, dtype=torch.float64, device=state[0].device if state else "cpu")
    return schedule.alpha(times).detach().cpu()


def check_form(x_0: Tensor, *, is_frozen: Tensor | None = None, is_padding: Tensor | None = None) -> None:
    """What :meth:`MaskingProcess.check_tokens` says of dtypes and shapes; no value is looked at."""
    if not isinstance(x_0, Tensor) or x_0.dtype != torch.int64:
        got = x_0.dtype if isinstance(x_0, Tensor) else kind_of(x_0)
        raise DtypeError(f"x_0 must hold int64 tokens, got {got}; convert with x_0.long().")
    if x_0.ndim != 2 or 0 in x_0.shape:
        raise ShapeError(
            f"x_0 must have shape (batch, dim), both at least 1, got {tuple(x_0.shape)}; "
            "flatten images to one row of tokens each."
        )
    for name, flags in (("is_frozen", is_frozen), ("is_padding", is_padding)):
        if flags is None:
            continue
        if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
            got = flags.dtype if isinstance(flags, Tensor) else kind_of(flags)
            raise DtypeError(f"{name} must be boolean, got {got}.")
        if flags.shape != x_0.shape:
            raise ShapeError(f"{name} must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(flags.shape)}.")


def require_data(is_padding: Flags) -> None:
    """Check that no row is padding alone.

    Args:
        is_padding: positions without data, shape ``(batch, dim)``.

    Raises:
        DomainError: if there are such rows, with their numbers.
    """
    is_empty = is_padding.all(-1)
    if bool(is_empty.any()):
        rows = is_empty.nonzero()[:, 0].tolist()
        raise DomainError(
            f"is_padding leaves no token in {len(rows)} of {len(is_padding)} rows, in row "
            f"{', '.join(map(str, rows[:8]))}{' and others' if len(rows) > 8 else ''}: leave such rows out."
        )
