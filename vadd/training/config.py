"""The settings of a training run."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vadd._checks import require_integer, require_number
from vadd.errors import ConfigError, DomainError

__all__ = ["TrainerConfig"]


@dataclass(frozen=True)
class TrainerConfig:
    """What a :class:`~vadd.training.Trainer` does, ready for JSON.

    Attributes:
        num_updates: updates of the weights, those before an interruption included.
        batch_size: sequences of one update, over all processes and accumulated parts.
        accumulate: parts in which each process works off its share of a batch, to save memory. The update is the same,
            but for dropout, and for free bits where the KL has no formula: their floor is that of a part's sum.
        seed: of the order of the data, times, masks, latents and dropout.
        learning_rate, betas, weight_decay: of AdamW, where the trainer is given no other optimizer.
        clip_norm: largest norm of the gradient; None for no limit.
        ema_decay: of the exponential moving average of the weights of model, guide and prior; None for no average.
            In the beginning it is less: ``(1 + n) / (10 + n)`` after ``n`` updates.
        precision: ``"no"``, or ``"bf16"`` or ``"fp16"`` for networks under autocast; losses are float32 in any case.
        compile: whether to compile the networks by ``torch.compile``.
        on_nonfinite: what to do where the gradient is not finite: ``"stop"`` with the batch saved, or ``"skip"`` the
            update and count it. A float16 run always skips, as its scale is sought that way.
        max_skipped: updates skipped in a row after which training stops all the same.
        minutes: time after which training saves and ends; None for no limit.
        log_every: updates from one line of metrics to the next.
        validate_every: updates from one validation to the next; None for none but the last. It needs a validation.
        save_every: updates from one snapshot to the next; None for one at the end alone. It needs a folder.
        keep_last: latest snapshots that are kept.
        keep_best: whether the one with the best validation score is kept, too.
        num_workers: processes that read ahead from a data set, a thread for a stream; tensors need none.
        shard: whether several processes share the weights, their gradients and average and the optimizer's state out
            among them, for networks that one device does not hold in training. The update is the same.

    Raises:
        ConfigError, DomainError: if a value is not as described.
    """

    num_updates: int
    batch_size: int
    accumulate: int = 1
    seed: int = 0
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    ema_decay: float | None = 0.999
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 50
    minutes: float | None = None
    log_every: int = 10
    validate_every: int | None = None
    save_every: int | None = None
    keep_last: int = 2
    keep_best: bool = True
    num_workers: int = 0
    shard: bool = False

    def __post_init__(self) -> None:
        _check_integers(self, 1, "num_updates", "batch_size", "accumulate", "max_skipped", "log_every", "keep_last")
        _check_integers(self, 1, "validate_every", "save_every", may_be_none=True)
        _check_integers(self, 0, "num_workers", "seed")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}."
            )
        require_number("learning_rate", self.learning_rate, above=True)
        require_number("weight_decay", self.weight_decay)
        if self.clip_norm is not None:
            require_number("clip_norm", self.clip_norm, above=True)
        if self.minutes is not None:
            require_number("minutes", self.minutes)
        if self.ema_decay is not None:
            require_number("ema_decay", self.ema_decay, 0.0, 1.0, below=True)
        for name, choices in (("precision", ("no", "bf16", "fp16")), ("on_nonfinite", ("stop", "skip"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name in ("compile", "shard", "keep_best"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise DomainError(f"betas must be two numbers in [0, 1), got {self.betas!r}.")
        for beta in self.betas:
            require_number("betas", beta, 0.0, 1.0, below=True)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {**asdict(self), "betas": list(self.betas)}


def _check_integers(config: TrainerConfig, least: int, *names: str, may_be_none: bool = False) -> None:
    for name in names:
        value = getattr(config, name)
        if value is None and may_be_none:
            continue
        require_integer(name, value, minimum=least)
