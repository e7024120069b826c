"""Watching the latent while a model is trained."""

import logging
import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from vadd._checks import require_integer, require_integers
from vadd.errors import CheckpointError, ConfigError, DomainError
from vadd.evaluation import LatentDiagnosis, diagnose_latent
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.pairs import check_pair
from vadd.types import Flags, Tokens

__all__ = ["LatentCollapseWarning", "LatentMonitor"]

_log = logging.getLogger(__name__)

# A denoiser that loses less than this share of the KL (in nats, at least 1) without the latent does not read it.
_IGNORED_SHARE = 0.05


class LatentCollapseWarning(UserWarning):
    """The latent of a model in training is not used, or no longer."""


class LatentMonitor:
    """Diagnoses the latent every so many steps of any training loop, and warns when it dies.

    Call it with the step, from 0 or any other, after each update::

        monitor = LatentMonitor(model, guide, heldout, every=200, warm_up=1000)
        for step in range(num_updates):
            svi.step(batch)            # or loss.backward(); optimizer.step()
            monitor(step)

    A check is one :func:`~vadd.evaluation.diagnose_latent` in evaluation mode; training goes on as if it had not
    been: random state, modes and gradients are left as they were. It writes one line to the logger
    ``vadd.training.monitor`` (``logging.basicConfig(level=logging.INFO)`` shows it) and adds to :attr:`history`. With
    an average of the weights, pass the averaged pair. With several processes, call it in one of them.

    A check shows a *symptom* where the latent is

    - ``"collapsed"``: guide and prior agree to 0.05 nats at every share of masked tokens, or with all masked where
      the model keeps one latent a trajectory;
    - ``"ignored"``: they differ, but fixing the latent at zero changes the one-step likelihood by less than 5 % of the
      largest KL (of a nat, if that is more), which of such a model is the one with all masked: the latent is paid for
      and not read;
    - ``"inactive"``: fewer than ``min_active_units`` components vary with the sequence.

    A check whose KL or likelihood is infinite or NaN shows ``"not finite"`` and is not judged.

    A latent that has not been used yet looks the same as a dead one: the library's denoisers ignore it at first, and
    without KL warm-up it may seem collapsed for hundreds of steps before it wakes. So the state moves from
    ``"waking"`` to ``"awake"`` after ``patience`` checks in a row without a symptom, and to ``"dead"`` after as many
    with one: a latent that was awake at any time, since a KL weight that still rises will not revive it; one that never
    was, only by checks from step ``warm_up`` on. Each time the state becomes dead there is one
    :class:`LatentCollapseWarning` that says what to do; the next needs a recovery to ``"awake"`` in between.

    It is a false alarm where the latent wakes later than ``warm_up``, where ``CyclicalKL`` lets it sleep in every
    period (set ``patience * every`` above the period), or, for ``"inactive"``, where the latent lives on a scale
    below 0.1. On data whose tokens are independent given ``x_t`` a latent has nothing to carry: the alarm is
    right then, but nothing is wrong.

    Args:
        model, guide: the pair in training.
        heldout: clean tokens, shape ``(batch, dim)``; some 64 to 256 sequences.
        every: steps from one check to the next; the first call checks.
        warm_up: steps that the latent is given to wake; no less than the rise of the KL weight takes.
        patience: checks in a row that change the state.
        min_active_units: fewer are a symptom; components are counted as in
            :class:`~vadd.evaluation.LatentDiagnosis`.
        num_bins, num_latents, seed: of the diagnosis. The same masks and latents serve all checks.
        is_frozen, is_padding, condition: of the held-out sequences.

    Attributes:
        history: one list a quantity with one entry a check, ready for JSON: ``"step"``; ``"kl"``, the mean of
            ``"kl_per_bin"``, or with all masked where the model keeps one latent a trajectory;
            ``"mutual_information"``, ``"prior_gap"``, ``"mixture_off_loss"``, all in nats per sequence, None where not
            finite; ``"active_units"``; ``"symptom"``, None for a latent in use; ``"state"``.
        state: ``"waking"``, ``"awake"`` or ``"dead"``.

    Raises:
        ConfigError: if the model has no latent, or model and guide do not belong together.
        ShapeError, DtypeError, DomainError: if the held-out sequences or a count are not as described.
    """

    def __init__(
        self,
        model: VADDModel,
        guide: RecognitionGuide,
        heldout: Tokens,
        *,
        every: int = 200,
        warm_up: int = 1000,
        patience: int = 3,
        min_active_units: int = 1,
        num_bins: int = 4,
        num_latents: int = 16,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        check_pair(model, guide)
        if not model.has_latent:
            raise ConfigError("the model has no latent to monitor: its latent_shape is (0,).")
        model.process.check_tokens(heldout, is_frozen=is_frozen, is_padding=is_padding)
        if heldout.shape[0] < 2:
            raise DomainError(f"heldout must hold at least 2 sequences, got {heldout.shape[0]}.")
        require_integers(every=every, patience=patience, num_bins=num_bins)
        require_integers(warm_up=warm_up, min_active_units=min_active_units, minimum=0)
        require_integer("num_latents", num_latents, minimum=2)
        if num_latents % 2:
            raise DomainError(f"num_latents must be even, half from guide and prior each, got {num_latents}.")
        if min_active_units > model.latent_shape.numel():
            raise DomainError(
                f"min_active_units must be at most the latent's {model.latent_shape.numel()} components, got "
                f"{min_active_units}."
            )
        self.model, self.guide, self.heldout = model, guide, heldout
        self.every, self.warm_up, self.patience, self.min_active_units = every, warm_up, patience, min_active_units
        self.state: Literal["waking", "awake", "dead"] = "waking"
        self.history: dict[str, list[Any]] = {name: [] for name in _QUANTITIES}
        self._options: dict[str, Any] = {
            "num_bins": num_bins,
            "num_latents": num_latents,
            "is_frozen": is_frozen,
            "is_padding": is_padding,
            "condition": condition,
            "seed": seed,
        }
        self._num_alive = self._num_dead = 0  # checks in a row

    def __call__(self, step: int) -> LatentDiagnosis | None:
        """Check the latent if it is time; the diagnosis, or None between checks.

        Raises:
            DomainError: if the step is before the last check's: a monitor serves one run.
        """
        steps = self.history["step"]
        if steps and step < steps[-1]:
            raise DomainError(
                f"step must not go back, got {step} after a check at {steps[-1]}; a new run needs a new monitor."
            )
        if steps and step < steps[-1] + self.every:
            return None
        # The diagnosis has generators of its own; the fork is for networks that draw noise in evaluation mode, too.
        devices = [self.heldout.device] if self.heldout.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            diagnosis = diagnose_latent(self.model, self.guide, self.heldout, **self._options)
        symptom = self._symptom(diagnosis)
        has_died = self._update_state(symptom, step)
        self._record(step, diagnosis, symptom)
        _log.info("step %d, latent %s: %s", step, self.state, diagnosis)
        if has_died:
            warnings.warn(self._alarm(step, diagnosis, symptom), LatentCollapseWarning, stacklevel=2)
        return diagnosis

    def state_dict(self) -> dict[str, Any]:
        """History and state, ready for JSON; for :meth:`load_state_dict` of a monitor of the run that goes on."""
        history = {name: list(values) for name, values in self.history.items()}
        return {"history": history, "state": self.state, "num_alive": self._num_alive, "num_dead": self._num_dead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where the monitor was whose :meth:`state_dict` this is.

        Raises:
            CheckpointError: if it is the state of something else; the monitor is left as it was.
        """
        history = state.get("history")
        if (
            set(state) != {"history", "state", "num_alive", "num_dead"}
            or not isinstance(history, dict)
            or set(history) != set(_QUANTITIES)
            or len({len(values) for values in history.values()}) != 1
            or state["state"] not in ("waking", "awake", "dead")
        ):
            raise CheckpointError(f"this is not the state of a LatentMonitor: {state!r:.200}.")
        self.history = {name: list(history[name]) for name in _QUANTITIES}
        self.state, self._num_alive, self._num_dead = state["state"], state["num_alive"], state["num_dead"]

    def _symptom(self, diagnosis: LatentDiagnosis) -> str | None:
        kl, loss = _kl(diagnosis), diagnosis.mixture_off_loss
        if not (bool(kl.isfinite().all()) and math.isfinite(loss)):
            return "not finite"
        if diagnosis.is_collapsed:
            return "collapsed"
        if abs(loss) < _IGNORED_SHARE * max(1.0, float(kl.max())):
            return "ignored"
        return "inactive" if diagnosis.active_units < self.min_active_units else None

    def _update_state(self, symptom: str | None, step: int) -> bool:
        """Count the check; whether the latent has just died. A check that is not finite counts for nothing."""
        if symptom is None:
            self._num_alive, self._num_dead = self._num_alive + 1, 0
        elif symptom != "not finite":
            self._num_alive = 0
            if self.state != "waking" or step >= self.warm_up:
                self._num_dead += 1
        if self._num_alive >= self.patience:
            self.state = "awake"
        elif self._num_dead >= self.patience and self.state != "dead":
            self.state = "dead"
            return True
        return False

    def _record(self, step: int, diagnosis: LatentDiagnosis, symptom: str | None) -> None:
        entry = {
            "step": step,
            "kl": _or_none(float(_kl(diagnosis).mean())),
            "kl_per_bin": [_or_none(kl) for kl in diagnosis.kl_per_bin.tolist()],
            "active_units": diagnosis.active_units,
            "mutual_information": _or_none(diagnosis.mutual_information),
            "prior_gap": _or_none(diagnosis.prior_gap),
            "mixture_off_loss": _or_none(diagnosis.mixture_off_loss),
            "symptom": symptom,
            "state": self.state,
        }
        for name, values in self.history.items():
            values.append(entry[name])

    def _alarm(self, step: int, diagnosis: LatentDiagnosis, symptom: str | None) -> str:
        where = "with all tokens masked" if diagnosis.is_shared else "at every share of masked tokens"
        found = {
            "collapsed": f"guide and prior agree to 0.05 nats {where}",
            "ignored": f"the KL is up to {float(_kl(diagnosis).max()):.2f} nats, but with the latent fixed at "
            f"zero the one-step likelihood changes by {diagnosis.mixture_off_loss:.3f} nats: the denoiser does not "
            "read it (vadd.testing.check_denoiser tells whether it can)",
            "inactive": f"{diagnosis.active_units} of {diagnosis.num_latent} components vary with the sequence, "
            f"at least {self.min_active_units} should",
        }[str(symptom)]
        dropout = self.model.latent_dropout
        return (
            f"the latent is dead at step {step}, after {self.patience} checks in a row: {found}. Let the KL weight "
            "rise more slowly (LinearKL over more steps, or CyclicalKL), grant free_bits, start from a trained masked "
            "diffusion model (VADDModel.from_mdm), let the prior read x_t (ConditionalPrior)"
            + (f", or lower latent_dropout, now {dropout}." if dropout > 0 else ".")
        )


_QUANTITIES = (
    "step",
    "kl",
    "kl_per_bin",
    "active_units",
    "mutual_information",
    "prior_gap",
    "mixture_off_loss",
    "symptom",
    "state",
)


def _kl(diagnosis: LatentDiagnosis) -> Tensor:
    """KL wherever the model draws a latent: of one a trajectory, elsewhere it means little."""
    kl = diagnosis.kl_per_bin
    return kl.new_tensor([diagnosis.kl_all_masked]) if diagnosis.is_shared else kl


def _or_none(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
