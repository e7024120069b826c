"""Stopping between two updates: by a signal or because time is up."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is entered, SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed.

    Args:
        minutes: time after which to stop; None for no limit.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes
        self.signal: int | None = None
        self._start = time.monotonic()
        self._handlers: dict[int, Any] = {}

    @property
    def is_due(self) -> bool:
        """Whether to stop."""
        return self.signal is not None or self.is_time_up

    @property
    def is_time_up(self) -> bool:
        """Whether the time is over."""
        return self.minutes is not None and time.monotonic() - self._start >= 60 * self.minutes

    def describe(self, step: int, num_updates: int, folder: Path | None) -> str:
        """What to say to the person who waits."""
        reason = "time is up" if self.signal is None else f"interrupted by signal {self.signal}"
        saved = "not saved, as there is no folder" if folder is None else f"saved to {folder}; run the same to go on"
        return f"{reason} at update {step} of {num_updates}: {saved}."

    def __enter__(self) -> "Interruption":
        self._start = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # Python allows it there alone
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
