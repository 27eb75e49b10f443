"""The fork servers of this process: each is started once, and kept for the next who needs one."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from gwfbench.process.messages import Lines, send


class Server:
    """Our end of a fork server."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gwfbench.process import forkserver"
        words = [sys.executable, "-c", f"{code}; forkserver.serve(int(sys.argv[2]))"]
        self._process = subprocess.Popen(
            [*words, json.dumps(sys.path), str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True,
            # a library that asks for GPUs when imported would start CUDA, which no fork survives; this way it asks NVML
            env=os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )  # fmt: skip
        theirs.close()
        self._lines, self.owner, self.alive = Lines(), os.getpid(), True

    def send(self, message: dict[str, Any], files: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):  # it has died: `receive` says so
            send(self.socket, message, files)

    def receive(self) -> list[dict[str, Any]] | None:
        """What it says; None once it has died."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        if data:
            return self._lines.feed(data)
        self.close()
        return None

    def close(self) -> None:
        self.alive = False
        self.socket.close()
        self._process.kill()  # its children, if any, die with it
        self._process.wait()


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


def warm() -> None:
    """Start a server that the first pool will find ready, where there is none."""
    give(take())


@atexit.register
def cool() -> None:
    """End the servers that are not in use."""
    while _idle:
        server = _idle.pop()
        if server.owner == os.getpid():
            server.close()
