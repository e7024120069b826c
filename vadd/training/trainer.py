"""One training loop, from a laptop to many machines."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from vadd._modes import checks_on
from vadd.errors import ConfigError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives import DiffusionELBO
from vadd.streams import RowStream
from vadd.training.batches import Batch
from vadd.training.callbacks import Callback, ProgressBar
from vadd.training.compiling import compile_networks
from vadd.training.config import TrainerConfig
from vadd.training.feed import Feed
from vadd.training.interruption import Interruption
from vadd.training.noise import RowNoise, key
from vadd.training.nonfinite import explain_nonfinite
from vadd.training.parallel import Processes, make_accelerator
from vadd.training.parts import check_functions, check_parts, left_as_it_was
from vadd.training.result import TrainingResult
from vadd.training.runs import Run
from vadd.training.trackers import resolve_trackers
from vadd.training.weights import make_weights
from vadd.training.windows import Window

__all__ = ["Trainer"]


class Trainer:
    r"""Optimizes an objective over model, guide and prior: variational inference, as ``pyro.infer.SVI`` does it.

    Beyond it there are a moving average, clipping, accumulation, lower precision, several processes, validation,
    snapshots and exact resumption::

        trainer = Trainer(model, guide, DELBO(model.process), tokens, TrainerConfig(10_000, 128), folder="outputs/run")
        result = trainer.fit()         # run again after an interruption: it goes on where it stopped
        result.model.sample(16, num_steps=8)

    All randomness of an update is a function of the seed and the update's number: the order of the data, times and
    masks, latents, and dropout (by process). Times and masks are drawn for the batch of all processes together, so
    that they stay stratified over it; latents follow the row. So the gradient does not depend on how many processes
    and parts a batch is split into (but for dropout, and free bits of a KL without a formula), and a run that was
    interrupted ends with the same weights, bit for bit on the same machine, as one that was not. Every update seeds
    the generators of torch, NumPy and Python.

    Args:
        model, guide: the pair; it is trained in place. With ``shard``, shares are left in it: take the result's.
        objective: built with ``model.process``.
        data: clean tokens ``(rows, dim)``; a mapping of ``x_0``, ``is_frozen``, ``is_padding``, ``condition`` to
            tensors; a map-style data set of tokens or such mappings; or a :class:`~vadd.streams.RowStream` of them,
            which keeps its own order.
        config: the settings.
        optimizer: makes an optimizer of the parameters; default AdamW.
        schedule: makes a learning-rate scheduler of the optimizer, as
            :func:`~vadd.training.warmup_cosine` does; it is stepped once an update.
        kl_schedule: KL weight by update, as ``recipe.kl_schedule(num_updates)``; default the objective's own.
        validation: a :class:`~vadd.training.BoundValidation`, or any function of the averaged pair that returns metrics
            by name; the latter runs in the main process alone. The lowest ``validation.score`` is the best.
        callbacks: see :class:`~vadd.training.Callback`.
        folder: where metrics and snapshots are written; None for nowhere.
        trackers: of ``"csv"`` (default with a folder), ``"tensorboard"``, ``"wandb"``, Accelerate's ``GeneralTracker``.
        progress: whether to show a progress bar.
        accelerator: an ``accelerate.Accelerator`` to use instead of a new one, with its own trackers.

    Raises:
        ConfigError: if a part is of another type, or the parts do not fit together.
    """

    def __init__(
        self,
        model: VADDModel,
        guide: RecognitionGuide,
        objective: DiffusionELBO,
        data: Tensor | Mapping[str, Tensor] | Dataset | RowStream,
        config: TrainerConfig,
        *,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        kl_schedule: Callable[[int], float] | None = None,
        validation: Callable[..., Any] | None = None,
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        trackers: Sequence[Any] | None = None,
        progress: bool = True,
        accelerator: Any = None,
    ) -> None:
        check_parts(model, guide, objective, config, callbacks, validation, folder)
        check_functions(optimizer=optimizer, schedule=schedule, kl_schedule=kl_schedule, validation=validation)
        self.config, self.objective = config, objective
        self.folder = None if folder is None else Path(folder)
        if accelerator is None:
            log_with = resolve_trackers(trackers, self.folder) or None
            accelerator = make_accelerator(mixed_precision="no", log_with=log_with, project_dir=self.folder)
        elif trackers is not None:
            raise ConfigError("trackers come with the accelerator, Accelerator(log_with=...): leave trackers out.")
        self.accelerator = accelerator
        self.processes = Processes(accelerator, config)
        self.model, self.guide = model.to(self.device), guide.to(self.device)
        self.weights = make_weights(self.model, self.guide, objective, self.processes)
        self.pair, self.loss = self.weights.pair, self.weights.loss
        parameters = [p for p in self.pair.parameters() if p.requires_grad]
        self.optimizer = (optimizer or self._adamw)(parameters)
        self.scheduler = None if schedule is None else schedule(self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.kl_schedule, self.validation = kl_schedule, validation
        self.callbacks = [*callbacks, ProgressBar(disable=None if progress else True)]
        self.feed = Feed(data, config)
        self.run = Run(self)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.is_whole = True  # no update is half made
        self.grad_norm = torch.zeros(())
        self.metrics: dict[str, float] = {}  # the latest of each
        if config.compile:
            compile_networks(model, guide)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.processes.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.processes.is_main

    @property
    def averaged(self) -> tuple[VADDModel, RecognitionGuide]:
        """The moving average of model and guide; the pair itself where there is none.

        Raises:
            ConfigError: with ``shard``, if :meth:`gather` was not called since the latest update.
        """
        return self.weights.averaged

    def gather(self) -> None:
        """Before :attr:`averaged` is read, in all processes together; with ``shard``, whole weights are put together.

        The trainer does so at the start, before a validation or a snapshot, and at the end.
        """
        self.weights.gather()

    def fit(self, *, resume: bool = True) -> TrainingResult:
        """Train to the end, from the latest snapshot in the folder where there is one.

        If an error ends it, of a callback or the validation too, what was done is saved before, and a note in the error
        says so; but not by several processes, of which one alone may have failed.

        Args:
            resume: whether to go on from there; if not, a folder with snapshots is an error.

        Raises:
            NonFiniteError: if the gradient is not finite, as ``on_nonfinite`` says.
            DataError: if the data cannot be read.
            CheckpointError: if a snapshot cannot be written or belongs to another run.
        """
        start, processes = time.monotonic(), self.processes
        self.run.start(resume)
        self.gather()
        self.pair.train()
        stopped: Literal["finished", "time", "signal"] = "finished"
        interruption = Interruption(self.config.minutes)
        with left_as_it_was(self.objective), interruption, self.run.ended_by_errors():
            self._call("on_start")
            window = Window(self)
            rows = self.feed.batches(self.step, processes.start, processes.own, self.device.type == "cuda")
            with closing(rows) as batches:
                while self.step < self.config.num_updates:
                    self._update(next(batches), window)
                    is_due = interruption.is_due
                    if processes.num > 1:  # they must agree, which costs: not in every update
                        is_due = self.step % self.config.log_every == 0 and processes.any(is_due)
                    self._after_update(window)
                    if is_due and self.step < self.config.num_updates:
                        stopped = "signal" if processes.any(interruption.signal is not None) else "time"
                        break
            if self.validation is not None and self.step == self.config.num_updates != self.run.judged_at:
                self.run.save()  # the validation may fail, or be killed
                self.validate()
            self.run.finish()
            self.gather()
            self._call("on_end", stopped)
        if stopped != "finished" and self.is_main:
            print(interruption.describe(self.step, self.config.num_updates, self.folder), file=sys.stderr)
        model, guide = self.weights.release()
        code = 128 + (interruption.signal or 15) if stopped == "signal" else 0
        seconds = time.monotonic() - start
        return TrainingResult(model.eval(), guide.eval(), self.step, stopped, self.skipped, seconds, code)

    def _update(self, rows: Batch, window: Window) -> None:
        """One update of the weights."""
        config, processes = self.config, self.processes
        pyro.set_rng_seed(key(config.seed, "networks", self.step, processes.rank) % 2**32)
        generator = torch.Generator(self.device)
        self.objective.generator = generator.manual_seed(key(config.seed, "masks", self.step))
        if self.kl_schedule is not None:
            self.objective.kl_weight = self.kl_schedule(self.step)
        batch = processes.gather(rows)
        with checks_on(window.is_first or self.device.type == "cpu", of_pyro=True):
            drawn = self.objective.draw(self.model, **batch)
        with checks_on(False, of_pyro=True):
            self.optimizer.zero_grad(set_to_none=True)
            noise = torch.Generator(self.device)
            for first, is_last in processes.parts():
                noise.manual_seed(key(config.seed, "latents", self.step))
                part = drawn.rows(slice(first, first + processes.part))
                with self.weights.sync(is_last):
                    with RowNoise(first, processes.part, processes.total, noise), self._autocast():
                        loss = self.loss(part)
                    self.scaler.scale(loss / config.accumulate).backward()
                window.add(self.objective, loss)
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = self.weights.clip(self.optimizer, config.clip_norm)
        is_finite = bool(self.grad_norm.isfinite())
        if is_finite:
            self.skipped_in_a_row = 0
        elif self._must_stop():
            raise explain_nonfinite(self, drawn)
        else:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        self.is_whole = False
        if is_finite or self.scaler.is_enabled():  # the scaler lowers its scale where it is not
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        if is_finite:
            self.weights.updated()
        self.step += 1
        self.feed.advance()
        self.is_whole = True

    def _must_stop(self) -> bool:
        is_sought, config = self.scaler.is_enabled(), self.config
        return (config.on_nonfinite == "stop" and not is_sought) or self.skipped_in_a_row >= config.max_skipped

    def _after_update(self, window: Window) -> None:
        config = self.config
        self._call("on_step")
        is_last = self.step == config.num_updates
        if self.step % config.log_every == 0 or is_last:
            metrics = window.close(self)
            self.metrics |= metrics
            self.accelerator.log(metrics, step=self.step)
            self._call("on_log", metrics)
        if is_last:
            return
        if self.validation is not None and _is_time(self.step, config.validate_every):
            self.validate()
        if _is_time(self.step, config.save_every):
            self.run.save()

    def validate(self) -> dict[str, float]:
        """Judge the averaged pair now; metrics by name, the same in all processes.

        Raises:
            ConfigError: if there is no validation, or it returns no metrics by name.
        """
        metrics = self.run.judge()
        self.metrics |= metrics
        self.accelerator.log(metrics, step=self.step)
        self._call("on_validation", metrics)
        self.run.keep_if_best()
        return metrics

    def _adamw(self, parameters: list[nn.Parameter]) -> Optimizer:
        config = self.config
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "no")

    def _call(self, event: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *values)


def _is_time(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
