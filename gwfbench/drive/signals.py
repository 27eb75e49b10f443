"""SIGTERM and Ctrl-C as exceptions that wait while something is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived where nothing else was ready for it."""


class Stops:
    """In a `with`: a signal that arrives inside `held` is answered at its end; a second Ctrl-C does not wait.

    The answer is the handler of before: Ctrl-C's raises KeyboardInterrupt. For a SIGTERM without one, `Stopped` is
    raised. Ignored signals stay ignored. Elsewhere than in the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held, self._waiting = 0, 0
        self.arrived = False  # whether a signal has: a KeyboardInterrupt without one is a method's own

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._waiting and not self._held:
                self._answer(self._waiting, None)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True
        # Slurm's SIGTERM comes to the run, and from its supervisor once more; what is endless gets SIGKILL after it
        if self._held and (not self._waiting or number == signal.SIGTERM):
            self._waiting = number
        else:
            self._answer(number, frame)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self._waiting = 0
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            raise Stopped(f"stopped by {signal.Signals(number).name}")
