"""Signals and time stop training between two updates."""

import os
import signal
import time

import pytest

from vadd.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_once_and_obeyed_the_second_time(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.is_due
        os.kill(os.getpid(), number)
        assert interruption.is_due
        assert interruption.signal == number
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    interruption = Interruption()
    interruption.__enter__()
    assert signal.getsignal(signal.SIGTERM) != before
    interruption.__exit__(KeyError, KeyError(), None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_time_counts_from_entering():
    interruption = Interruption(minutes=0.001)
    time.sleep(0.07)
    with interruption:
        assert not interruption.is_due
        time.sleep(0.07)
        assert interruption.is_due
        assert interruption.is_time_up
        assert interruption.signal is None
