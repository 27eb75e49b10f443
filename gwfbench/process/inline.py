"""Runs in this process, one after the other: for a debugger."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import torch
from threadpoolctl import threadpool_limits

from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.judge import reason_of
from gwfbench.drive.log import Log
from gwfbench.process.pool import End, Progress
from gwfbench.store.record import Status


class Here:
    """What `pool.Pool` is, without processes: a run has ended when `start` returns."""

    def __init__(self, threads: int):
        self._threads, self._ended, self._count, self._interrupted = threads, list[tuple[int, End]](), 0, False

    def start(self, job: Job, setting: Setting, claims: Sequence[int], progress: Progress) -> int:
        log, end = _Shown() if sys.stderr.isatty() else Log(), End("error", "it was not closed", "")
        try:
            with _unchanged(), _pristine(), _threads(self._threads):

                def tell(_: int, t: float, last: float, took: tuple[float, float, float]) -> None:
                    progress(t, last if last < float("inf") else None, took)

                execute(job, setting, tell, log)
        except (OSError, RuntimeError) as error:  # RuntimeError: a fork of the method's came back
            end = End("error", reason_of(error), log.getvalue())
        except KeyboardInterrupt:
            self._interrupted, end = True, End("killed", "interrupted", log.getvalue())
        self._count += 1
        self._ended.append((self._count, end))
        return self._count

    def wait(self, seconds: float | None = None) -> list[tuple[int, End]]:
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        if not self._ended:
            time.sleep(seconds or 0.0)
        ended, self._ended = self._ended, []
        return ended

    def stop(self, status: Status, reason: str) -> list[tuple[int, End]]:
        return self._ended

    def close(self) -> None:
        """Nothing is kept."""


class _Shown(Log):
    """A log that is seen on the terminal too: a debugger asks where a method prints."""

    def write(self, text: str) -> int:
        sys.stderr.write(text)
        return super().write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """What the user's process has, it has again afterwards, whatever the method did to it.

    That is its folder, search path, environment, umask, and answers to signals.
    """
    folder = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    path, environ = list(sys.path), dict(os.environ)
    os.umask(umask := os.umask(0o077))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        sys.path[:] = path
        if environ != dict(os.environ):
            os.environ.clear()
            os.environ.update(environ)
        os.umask(umask)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _pristine() -> Iterator[None]:
    """Torch as a process of the run's own would find it, and afterwards as it was."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
