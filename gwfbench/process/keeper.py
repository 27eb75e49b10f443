"""Between the fork server and a run: waits for the run, ends what it has left, and has the next one.

What it is for is told in `process/forkserver.py`. All that it knows of a run is how it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from gwfbench.process import child
from gwfbench.process.messages import Lines, send
from gwfbench.store import processes

PARENT_DEATH, SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER of prctl(2)


def keep(channel: socket.socket) -> None:
    """One run after another: fork it, wait for its end, end what it has left, say how it ended."""
    keeper, run, lines, files = os.getpid(), 0, Lines(), list[int]()

    def forward(*_: object) -> None:
        if run:
            os.kill(run, signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    while True:
        data, fresh, *_ = socket.recv_fds(channel, 1 << 16, 2)
        files += fresh
        if not data:
            return
        for message in lines.feed(data):
            run = os.fork()  # SIGTERM is blocked, here until `run` is known, there until it is heard
            if not run:
                code = 1
                try:
                    die_with(keeper)
                    channel.close()
                    for file in files:
                        os.set_inheritable(file, False)
                    code = child.perform(message, *files)
                finally:
                    os._exit(code)
            close(files)  # who waits for their end waits for the run alone
            files = []
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) and ended.si_pid != run:
                os.waitpid(ended.si_pid, 0)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until it is reaped its number is its own
            code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
            run = 0
            left = len(processes.below(keeper))
            end(lambda: processes.below(keeper))
            send(channel, {"code": code, "left": left, "alone": not processes.below(keeper)})


def end(orphans: Callable[[], list[int]]) -> None:
    """Kill these, and whatever is there in their place, until none is left."""
    last = time.monotonic() + processes.PATIENCE
    while (found := orphans()) and time.monotonic() < last:
        processes.kill(found)
        for pid in found:
            with contextlib.suppress(ChildProcessError):  # its parent has not died yet
                os.waitpid(pid, os.WNOHANG)


def kill(keeper: int) -> None:
    """Its whole group: it, its run, and what has stayed with them. What has not is adopted by us."""
    for send_to in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send_to(keeper, signal.SIGKILL)


def die_with(parent: int) -> None:
    control(PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it had died before we asked
        os._exit(1)


def control(what: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def close(files: list[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
