"""The fork servers of this process: each is started once, and kept for the next who needs one."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gwfbench.process.messages import Garbled, Lines, send
from gwfbench.store import processes

# What a file in the working folder that has a package's name can break is told, not lost.
_CODE = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
try:
    from gwfbench.process import forkserver
except BaseException as error:
    words = {"broken": f"{type(error).__name__}: {error}"}
    os.write(int(sys.argv[2]), json.dumps(words).encode() + b"\\n")
    sys.exit(1)
forkserver.serve(int(sys.argv[2]))
os._exit(0)  # at once: there is nothing left to do
"""


LEAVE = 1.0  # seconds in which a server that has nothing to do ends by itself


class Process(Protocol):
    """A process of ours, as `subprocess.Popen` has it."""

    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


Start = Callable[[socket.socket, dict[str, str]], Process]


def started(theirs: socket.socket, more: dict[str, str]) -> Process:
    """A program of its own that is the server at this end of a socket, with more variables in its environment."""
    # what it has to say comes over the socket; -P: its working folder is no place of modules unless it is ours too
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, json.dumps(search_path()), str(theirs.fileno())],
        pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=os.environ | more,
    )  # fmt: skip


class Server:
    """Our end of a fork server."""

    def __init__(self, start: Start = started) -> None:
        if loading:  # it would load the same file, which would start a server, and so on
            raise RuntimeError("a file that the fork server loads runs gwfbench itself; has it a package's name?")
        _open_standard_files()
        self.socket, theirs = socket.socketpair()
        # a library that asks for GPUs when imported would start CUDA, which no fork survives; this way it asks NVML
        more = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self._mark = processes.mark()
        if self._mark:
            self._mark += f".{next(_numbers)}"
            more[processes.VARIABLE] = self._mark
        self._process = start(theirs, more)
        theirs.close()
        self._lines, self.owner, self.alive = Lines(), os.getpid(), True

    def send(self, message: dict[str, Any], files: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):  # it has died: `receive` says so
            send(self.socket, message, files)

    def receive(self) -> list[dict[str, Any]] | None:
        """What it says; None once it has died, and all that it had started."""
        try:
            data = self.socket.recv(1 << 16)
            if data:
                return self._lines.feed(data)
        except (OSError, Garbled):
            pass
        self.close()
        processes.end(self._mark)
        return None

    def wake(self) -> None:
        """A run may have stopped it; if it is awake, nothing happens."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It does not do what it is told; `receive` says that it has died."""
        self._process.kill()

    def close(self) -> None:
        self.alive = False
        self.socket.close()  # which tells it to end all that it has started, and itself
        last = time.monotonic() + LEAVE
        while self._process.poll() is None and time.monotonic() < last:
            time.sleep(0.002)
        self._process.kill()  # its children, if any, die with it
        self._process.wait()


def search_path() -> list[str]:
    """`sys.path` as an import reads it: whatever is no text is passed over."""
    return [place for place in sys.path if isinstance(place, str)]


def _open_standard_files() -> None:
    """Where a shell has closed 0, 1 or 2, the next file to be opened would get that number, and be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


loading = False  # whether this process is a fork server that loads what a run may need
_numbers = itertools.count()
_idle: list[Server] = []  # one is enough for one thread; each pool has its own


def take() -> Server:
    """An idle server, or a new one."""
    while _idle:
        server = _idle.pop()
        if server.owner == os.getpid():  # else it is the one of the process that forked us
            return server
    return Server()


def give(server: Server) -> None:
    """Keep a server that has nothing to do any more."""
    if server.alive:
        _idle.append(server)


@atexit.register
def cool() -> None:
    """End the servers that are not in use."""
    while _idle:
        server = _idle.pop()
        if server.owner == os.getpid():
            server.close()
