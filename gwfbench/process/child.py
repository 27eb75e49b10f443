"""One run, in a process of its own: settles in, executes the job, and says what must be known outside.

On its channel go JSON lines, both ways:

    -> {"t": flow time, "last": last judged time,      now and then
        "took": seconds of training, sampling, judging}
    -> {"clock": moment or null}                       with a budget of seconds: when they end, while the method runs
    -> {"log": true}    <- {"log": text}               all that the run has printed, within bounds
    -> {"failed": reason, "status": "error" or "oom"}  it could not close its run
    <- {"status": status, "reason": reason}            why it is about to be stopped
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from gwfbench.drive.driver import Drive
from gwfbench.drive.execute import Setting, execute, is_out_of_memory
from gwfbench.drive.job import Job
from gwfbench.drive.judge import reason_of
from gwfbench.drive.meter import Meter
from gwfbench.plugins import registry, single
from gwfbench.process.memory import keep_pages
from gwfbench.process.messages import Lines, send
from gwfbench.store.record import Status

OFTEN = 0.2  # seconds between two words of a run about where it is
ANSWER = 60.0  # seconds in which the command answers, if it hears us


@cache
def libraries() -> ThreadpoolController:
    """The BLAS and OpenMP libraries that are loaded; found once, before the forks, as it takes 10 ms."""
    return ThreadpoolController()


def perform(message: dict[str, Any], channel: int, log: int) -> int:
    """One run, in this process, which has nothing else to do; its exit code."""
    me = os.getpid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    out = sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    faulthandler.enable(all_threads=False)
    link = Link(socket.socket(fileno=channel))
    signal.signal(signal.SIGTERM, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        _settle_in(message)
        job = Job.received(message["words"])
        setting = Setting(
            *(message["env"], Path(message["out"]), message["anew"], message["curve"], tuple(message["judge"])),
            watch=link.watch,
        )
        execute(job, setting, link.progress, link, link.why_stopped)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        if os.getpid() == me:
            with contextlib.suppress(Exception):
                traceback.print_exc()
            link.send({"failed": reason_of(error), "status": "oom" if is_out_of_memory(error) else "error"})
    if os.getpid() != me:  # a fork that the method made and that came back here
        return 1
    with contextlib.suppress(Exception):
        out.flush()
        sys.stderr.flush()
    return 0


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: closing the run is not interrupted
    raise KeyboardInterrupt


def _settle_in(message: dict[str, Any]) -> None:
    os.chdir(message["folder"])
    if (sys.path, os.environ.get(single.FILES, "")) != (message["path"], message["files"]):  # the server is older
        sys.path[:] = message["path"]
        os.environ[single.FILES] = message["files"]
        importlib.invalidate_caches()
        registry.plugins.cache_clear()
    torch.set_num_threads(message["threads"])
    libraries().limit(limits=message["threads"])
    keep_pages()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if message["memory"]:
        resource.setrlimit(resource.RLIMIT_DATA, (message["memory"], resource.getrlimit(resource.RLIMIT_DATA)[1]))


@dataclass
class _Told(Meter):
    """A meter that says when the seconds of the method will end: its own signal may be lost on the method."""

    link: Link | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        if self.link is None or self.budget.seconds is None:
            with super().running():
                yield
            return
        self.link.send({"clock": time.monotonic() + max(self.budget.seconds - self.seconds, 0.0)})
        try:
            with super().running():
                yield
        finally:
            self.link.send({"clock": None})


class Link:
    """The run's end of its channel to the command, and, for the runner, its log.

    What is written goes to descriptor 1, as all that the process prints; the command keeps it, and gives it back.
    """

    def __init__(self, channel: socket.socket):
        self._channel, self._lines, self._last, self._why = channel, Lines(), 0.0, ("killed", "stopped by SIGTERM")
        self._print, self._flush = sys.stdout.write, sys.stdout.flush
        self._process = os.getpid()
        self._drive: Drive | None = None

    def watch(self, drive: Drive) -> None:
        """The method's seconds are watched from outside; and it stays, so that no generator keeps us by its end."""
        old = drive.meter
        drive.meter = _Told(old.device, old.budget, link=self)
        self._drive = drive

    def send(self, message: dict[str, Any]) -> None:
        if os.getpid() != self._process:
            return  # a fork that the method made has nothing to say
        try:
            send(self._channel, message)
        except OSError:  # the command is gone: this process is about to be killed, and must not write on
            os._exit(1)

    def progress(self, steps: int, t: float, last: float, took: tuple[float, float, float]) -> None:
        now = time.monotonic()
        if now - self._last >= OFTEN:
            self._last = now
            with contextlib.suppress(TypeError, ValueError):  # the driver says what is wrong with it
                self.send({"t": float(t), "last": float(last) if math.isfinite(last) else None, "took": took})

    def write(self, text: str) -> int:
        return self._print(text)

    def flush(self) -> None:
        self._flush()

    def getvalue(self) -> str:
        """All that the process has printed, within bounds.

        Raises:
            RuntimeError: a fork of the run asks; it could take the answer that its first process waits for.
            OSError: no answer comes, as something has put itself between us and the command.
        """
        if os.getpid() != self._process:
            raise RuntimeError("a fork that the method made came back; only its first process asks for the log")
        self._flush()
        self.send({"log": True})
        self._channel.settimeout(ANSWER)
        while True:
            for message in self._lines.feed(self._receive(0)):
                if "log" in message:
                    self._channel.settimeout(None)
                    return message["log"]
                self._why = (message["status"], message["reason"])

    def why_stopped(self) -> tuple[Status, str]:
        with contextlib.suppress(BlockingIOError):
            for message in self._lines.feed(self._receive(socket.MSG_DONTWAIT)):
                self._why = (message["status"], message["reason"])
        return self._why  # type: ignore[return-value]

    def _receive(self, flags: int) -> bytes:
        data = self._channel.recv(1 << 16, flags)
        if not data:
            os._exit(1)
        return data
