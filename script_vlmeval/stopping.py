"""A clean stop: SIGINT and SIGTERM let the batch at hand end, so that what it answered is on disk; a second one stops at once."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO = 1.0  # seconds: a terminal and a launcher may both send the same
STOPPED = "stopped by a signal"


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and did so between two batches."""


class Stop:
    """Whether somebody asked for a stop. `check()` goes between batches."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def check(self) -> None:
        """Raises Stopped when a stop was asked for."""
        if self.signal is not None:
            raise Stopped(self.signal.name)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and time.monotonic() - self._since < _ECHO:
            return
        if self.signal is not None:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self.signal, self._since = signal.Signals(number), time.monotonic()
        _log.warning("%s: stopping after this batch; once more stops at once.", self.signal.name)


@contextmanager
def between_batches() -> Iterator[Stop]:
    """Within this context the two signals wait for `check()`. In another thread than the main one, which gets none, nothing
    changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._asked) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not Python's


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within this context SIGTERM does what SIGINT does: where no batch is at hand, it interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
