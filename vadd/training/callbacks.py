"""What runs beside training: a progress bar, sample pictures, a watch on the latent, and callbacks of your own."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from vadd._checks import require_integer
from vadd.errors import ConfigError, DomainError
from vadd.samplers import sample
from vadd.training.monitor import LatentMonitor
from vadd.types import Tokens

if TYPE_CHECKING:
    from vadd.training.trainer import Trainer

__all__ = ["Callback", "ProgressBar", "SamplePictures", "WatchLatent"]


class Callback:
    """Base of what a ``Trainer`` calls beside its work; every method does nothing unless it is overridden.

    All methods run in all processes: write files where ``trainer.is_main`` alone, and let all processes take part in
    what they do together. The averaged pair is ``trainer.averaged``, after ``trainer.gather()`` in all processes; the
    number of updates done is ``trainer.step``.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first update, after a resume and after :meth:`load_state_dict`."""

    def on_step(self, trainer: "Trainer") -> None:
        """After every update, before the snapshot of it."""

    def on_log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        """Every ``log_every`` updates, with the metrics that all processes share."""

    def on_validation(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        """After a validation."""

    def on_save(self, trainer: "Trainer", folder: Path) -> None:
        """After a snapshot was written to ``folder``; in the main process alone."""

    def on_end(self, trainer: "Trainer", stopped: str) -> None:
        """At the end: ``"finished"``, ``"time"`` or ``"signal"``; or ``"error"``, also where no other method ran."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state, kept in the snapshots under the name of the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""


class ProgressBar(Callback):
    """A bar of the updates, with loss, reconstruction and KL in nats per sequence, and sequences per second.

    Args:
        disable: no bar; None: none where standard error is no terminal.
    """

    def __init__(self, disable: bool | None = None) -> None:
        self.disable = disable
        self._bar: tqdm | None = None

    def on_start(self, trainer: "Trainer") -> None:
        self._close()
        if trainer.is_main:
            total = trainer.config.num_updates
            self._bar = tqdm(total=total, initial=trainer.step, disable=self.disable, unit="update")

    def on_step(self, trainer: "Trainer") -> None:
        if self._bar is not None:
            self._bar.update()

    def on_log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        if self._bar is not None:
            shown = {name: f"{metrics[name]:.2f}" for name in ("loss", "reconstruction", "kl") if name in metrics}
            if "sequences_per_second" in metrics:
                shown["seq/s"] = f"{metrics['sequences_per_second']:.0f}"
            self._bar.set_postfix(shown)

    def on_end(self, trainer: "Trainer", stopped: str) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SamplePictures(Callback):
    r"""Samples of the averaged model every so many updates, handed to a function that draws them.

    The same noise serves all pictures, so that they differ by the model alone, and training's random states and modes
    are left as they were. To write an image grid or a text is up to ``draw``::

        def draw(path, samples):
            path.with_suffix(".txt").write_text("\n".join(f"{label}: {decode(x)}" for label, x in samples.items()))

        SamplePictures(1000, draw)

    Args:
        every: updates from one picture to the next.
        draw: called with the path ``<folder>/samples/step-0001000.png``, whose folder exists, and tokens on the CPU,
            shape ``(num_samples, dim)``, under the labels ``"1 step"``, ``"4 steps"``, ...
        folder: default that of the run.
        num_samples: sequences for each number of steps.
        num_steps: numbers of sampling steps.
        seed: of the samples.
        **options: of :func:`~vadd.samplers.sample`, such as ``length``, ``condition`` or ``batch_size``.

    Raises:
        DomainError: if a number is not positive.
        ConfigError: if the sampler has no such option; at the start, if neither this nor the trainer has a folder.
    """

    def __init__(
        self,
        every: int,
        draw: Callable[[Path, dict[str, Tokens]], Any],
        folder: str | Path | None = None,
        num_samples: int = 16,
        num_steps: Sequence[int] = (1, 4, 16),
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        for name, number in (("every", every), ("num_samples", num_samples), *(("num_steps", n) for n in num_steps)):
            require_integer(name, number)
        if not num_steps or len(set(num_steps)) < len(num_steps):
            raise DomainError(f"num_steps must name at least one number of steps, each once, got {tuple(num_steps)}.")
        known = sorted(set(inspect.signature(sample).parameters) - {"model", "num_samples", "num_steps", "seed"})
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"SamplePictures takes no option {', '.join(unknown)}; it passes on {', '.join(known)}.")
        self.every, self.draw, self.folder = every, draw, None if folder is None else Path(folder)
        self.num_samples, self.num_steps, self.seed, self.options = num_samples, tuple(num_steps), seed, options

    def on_start(self, trainer: "Trainer") -> None:
        if self.folder is None and trainer.folder is None:
            raise ConfigError("SamplePictures needs a folder: give it one, or one to the Trainer.")

    def on_step(self, trainer: "Trainer") -> None:
        root = trainer.folder if self.folder is None else self.folder
        if trainer.step % self.every or root is None:
            return
        trainer.gather()
        if not trainer.is_main:
            return
        model, _ = trainer.averaged
        device = model.null_latent.device
        path = root / "samples" / f"step-{trainer.step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = {}
        # Samplers draw from the generator; the fork is for networks and functions that use the global state.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for steps in self.num_steps:
                generator = torch.Generator(device).manual_seed(self.seed)
                options = {"num_steps": steps, "generator": generator, "progress": False, **self.options}
                tokens = model.sample(self.num_samples, **options)
                samples[f"{steps} step{'s' if steps > 1 else ''}"] = tokens.cpu()
            self.draw(path, samples)


class WatchLatent(Callback):
    """A :class:`~vadd.training.LatentMonitor` of the averaged pair; its history goes on after a resume.

    The checks go to the trackers as ``"latent/kl"``, ``"latent/mutual_information"``, ``"latent/prior_gap"``,
    ``"latent/mixture_off_loss"``, ``"latent/active_units"`` and ``"latent/is_dead"`` (0 or 1); values that are not
    finite are left out. They run in the main process alone, after every update whose number ``every`` divides.

    Args:
        heldout: clean tokens, shape ``(batch, dim)``; some 64 to 256 sequences.
        every: updates from one check to the next.
        **options: of :class:`~vadd.training.LatentMonitor`.

    Attributes:
        monitor: with the history; None before training starts, and in other processes than the main one.

    Raises:
        DomainError: if ``every`` is not positive; at the start, what :class:`~vadd.training.LatentMonitor` raises.
    """

    def __init__(self, heldout: Tokens, *, every: int = 200, **options: Any) -> None:
        require_integer("every", every)
        self.heldout, self.every, self.options = heldout, every, options
        self.monitor: LatentMonitor | None = None
        self._state: dict[str, Any] = {}

    def on_start(self, trainer: "Trainer") -> None:
        if trainer.is_main:
            model, guide = trainer.averaged
            device = model.null_latent.device
            options: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
            state = self.state_dict()
            self.monitor = LatentMonitor(model, guide, self.heldout.to(device), every=self.every, **options)
            if state:
                self.monitor.load_state_dict(state)

    def on_step(self, trainer: "Trainer") -> None:
        if trainer.step % self.every:
            return
        trainer.gather()
        if self.monitor is None or self.monitor(trainer.step) is None:  # after a resume the last check may be recent
            return
        last = {name: values[-1] for name, values in self.monitor.history.items()}
        names = ("kl", "mutual_information", "prior_gap", "mixture_off_loss", "active_units")
        metrics = {f"latent/{name}": last[name] for name in names if last[name] is not None}
        trainer.accelerator.log({**metrics, "latent/is_dead": int(last["state"] == "dead")}, step=trainer.step)

    def state_dict(self) -> dict[str, Any]:
        return self._state if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state, self.monitor = state, None
