"""Bounds on held-out sequences while a model is trained, shared out among processes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vadd._checks import require_integer
from vadd._seeds import seeded
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.evaluation import log_likelihood_bound
from vadd.evaluation.bounds import Kind, check_options
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.samplers.time_grid import resolve_grid
from vadd.training.noise import key
from vadd.types import Flags, PerSequence, Tokens

__all__ = ["BoundValidation"]

_OPTIONS = ("latents", "mask_ratio", "num_jumps", "proposal", "time_grid")


class BoundValidation:
    """A bound on held-out sequences for one or several numbers of sampling steps.

    Blocks of ``batch_rows`` sequences are dealt out to the processes, and each block has masks and latents of its own
    that only ``seed`` and its number determine. So the metrics are the same for any number of processes, from one
    check to the next every difference is the model's, and nothing of the training's random state is used.
    ``batch_rows`` belongs to the numbers as ``seed`` does: other blocks have other masks and latents.

    In one process, ``validation.reduce(None, validation(model, guide))`` gives the metrics. The ``Trainer`` also takes
    any function ``(model, guide) -> dict[str, float]``, which it calls in the main process alone.

    Args:
        x_0: clean tokens, shape ``(rows, dim)``; on any device, blocks move to the model's.
        bound: as in :func:`~vadd.evaluation.log_likelihood_bound`.
        num_steps: one or several numbers of steps, for ``"finite-step"`` and ``"shared-latent"``.
        num_latents: draws inside each logarithm; 1 for ``"continuous"``.
        num_draws: masks drawn for each sequence.
        batch_rows: sequences of a block, and most rows in one call of the denoiser.
        seed: of masks and latents.
        is_frozen, is_padding, condition: of the sequences.
        name: what the metrics' names begin with.
        score: the metric, of those below, whose least value marks the best snapshot; default ``"<name>/score"``.
        **options: ``latents``, ``mask_ratio``, ``num_jumps``, ``proposal``, ``time_grid``, as in
            :func:`~vadd.evaluation.log_likelihood_bound`.

    Attributes:
        metrics: names of the metrics: ``"<name>/nats@T"`` and ``"<name>/stderr@T"`` for each number of steps ``T``,
            mean in nats per sequence and its standard error over sequences, masks and latents; ``"<name>/nats"`` and
            ``"<name>/stderr"`` without ``num_steps``; ``"<name>/score"``, the mean of the nats over all ``T``.
        score: the metric that marks the best snapshot.

    Raises:
        ConfigError, DomainError, ShapeError: on options that do not fit each other, the bound, or the sequences. What
            depends on the model (the vocabulary, the latent) is checked in the first call.
    """

    def __init__(
        self,
        x_0: Tokens,
        *,
        bound: Kind = "finite-step",
        num_steps: int | Sequence[int] | None = None,
        num_latents: int = 16,
        num_draws: int = 1,
        batch_rows: int = 256,
        seed: int = 0,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
        name: str = "validation",
        score: str | None = None,
        **options: Any,
    ) -> None:
        if len(x_0) == 0:
            raise DomainError("x_0 must hold at least one sequence, got none.")
        rows = {"is_frozen": is_frozen, "is_padding": is_padding, "condition": condition}
        for given, value in rows.items():
            if value is not None and len(value) != len(x_0):
                raise ShapeError(f"{given} must have one row a sequence, {len(x_0)}, got {tuple(value.shape)}.")
        self._steps = _as_steps(num_steps)
        _check(bound, self._steps, num_latents, options)
        for given, number in (("num_latents", num_latents), ("num_draws", num_draws), ("batch_rows", batch_rows)):
            require_integer(given, number)
        require_integer("seed", seed, minimum=0)
        self.x_0, self.name, self.batch_rows, self.seed = x_0, name, batch_rows, seed
        self._rows = {given: value for given, value in rows.items() if value is not None}
        self._options: dict[str, Any] = {
            "bound": bound,
            "num_latents": num_latents,
            "num_draws": num_draws,
            "rows_per_call": batch_rows,
            **options,
        }
        self.metrics = [f"{name}/{kind}{_suffix(steps)}" for steps in self._steps for kind in ("nats", "stderr")]
        self.metrics.append(f"{name}/score")
        self.score = self.metrics[-1] if score is None else score
        if self.score not in self.metrics:
            raise ConfigError(f"score must be one of {', '.join(self.metrics)}, got {score!r}.")

    def __call__(
        self, model: VADDModel, guide: RecognitionGuide, *, process_index: int = 0, num_processes: int = 1
    ) -> dict[str, PerSequence]:
        """Evaluate the blocks of one process.

        Dropout is off meanwhile; modes and random states are left as they were.

        Args:
            model, guide: the pair.
            process_index, num_processes: process ``r`` of ``n`` takes blocks ``r``, ``r + n``, ...

        Returns:
            Nats of each of its sequences, float64, under the name of their mean. A process without a block gets empty
            tensors.

        Raises:
            DomainError: unless ``0 <= process_index < num_processes``.
        """
        if not 0 <= process_index < num_processes:
            raise DomainError(
                f"process_index must lie in [0, num_processes), got {process_index} of {num_processes} processes."
            )
        device = model.null_latent.device
        starts = range(process_index * self.batch_rows, len(self.x_0), num_processes * self.batch_rows)
        return {
            f"{self.name}/nats{_suffix(steps)}": torch.cat(
                [torch.zeros(0, dtype=torch.float64, device=device)]
                + [self._nats(model, guide, start, steps, device) for start in starts]
            )
            for steps in self._steps
        }

    def _nats(
        self, model: VADDModel, guide: RecognitionGuide, start: int, steps: int | None, device: torch.device
    ) -> Tensor:
        rows = slice(start, start + self.batch_rows)
        seed = key(self.seed, "validation", start // self.batch_rows)
        given = {name: value[rows].to(device) for name, value in self._rows.items()}
        # The bound has generators of its own; the global seed is for networks that draw noise in evaluation mode, too.
        with seeded(seed, device):
            result = log_likelihood_bound(
                model, guide, self.x_0[rows].to(device), num_steps=steps, seed=seed, **given, **self._options
            )
        return result.nats_per_sequence

    def reduce(self, accelerator: Any, values: dict[str, PerSequence]) -> dict[str, float]:
        """Metrics over the sequences of all processes, the same in each.

        Args:
            accelerator: of Accelerate, called in every process; None where there is one process.
            values: what the call in this process returned.

        Raises:
            DomainError: if the processes have no sequence at all.
        """
        # Sequences, their sum and their sum of squares: exact also where processes have different numbers of rows.
        totals = torch.stack([torch.stack([v.new_tensor(len(v)), v.sum(), v.square().sum()]) for v in values.values()])
        if accelerator is not None:
            totals = accelerator.reduce(totals.to(accelerator.device), reduction="sum")
        metrics, means = {}, []
        for steps, (num, total, squares) in zip(self._steps, totals.tolist(), strict=True):
            if num == 0:
                raise DomainError("no process has any values to reduce; of several processes, pass the accelerator.")
            mean = total / num
            # Rounding may leave a little less than zero where all values are alike; NaN stays NaN.
            variance = (squares / num - mean**2) * num / (num - 1) if num > 1 else math.nan
            metrics[f"{self.name}/nats{_suffix(steps)}"] = mean
            metrics[f"{self.name}/stderr{_suffix(steps)}"] = math.sqrt(0.0 if variance < 0 else variance / num)
            means.append(mean)
        return {**metrics, f"{self.name}/score": sum(means) / len(means)}


def _suffix(steps: int | None) -> str:
    return "" if steps is None else f"@{steps}"


def _as_steps(num_steps: int | Sequence[int] | None) -> tuple[int | None, ...]:
    if num_steps is None or isinstance(num_steps, int):
        return (num_steps,)
    if not num_steps or len(set(num_steps)) < len(num_steps):
        raise DomainError(f"num_steps must name at least one number of steps, each once, got {num_steps!r}.")
    return tuple(num_steps)


def _check(bound: str, steps: tuple[int | None, ...], num_latents: int, options: dict[str, Any]) -> None:
    """Raise now what would otherwise come up at the first validation, after some training."""
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"BoundValidation takes no option {', '.join(unknown)}; it passes on {', '.join(_OPTIONS)}.")
    for num_steps in steps:
        check_options(
            bound,
            num_steps,
            num_latents,
            options.get("proposal"),
            options.get("mask_ratio", 1.0),
            options.get("num_jumps"),
            options.get("time_grid"),
        )
        if num_steps is not None:
            resolve_grid(num_steps, options.get("time_grid"))
