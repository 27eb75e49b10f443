"""Runs in this process, one after the other: for a debugger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from threadpoolctl import threadpool_limits

from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.judge import reason_of
from gwfbench.drive.log import Log
from gwfbench.process.pool import End
from gwfbench.store.record import Status


class Here:
    """What `pool.Pool` is, without processes: a run has ended when `start` returns."""

    def __init__(self, threads: int):
        self._threads, self._ended, self._count, self._interrupted = threads, list[tuple[int, End]](), 0, False

    def start(
        self, job: Job, setting: Setting, claims: Sequence[int], progress: Callable[[float, float | None], None]
    ) -> int:
        log, end = Log(), End("error", "it was not closed", "")
        try:
            with _threads(self._threads):

                def tell(_: int, t: float, last: float) -> None:
                    progress(t, last if last < float("inf") else None)

                execute(job, setting, tell, log)
        except OSError as error:
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


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
