"""JSON objects over a socket, one a line: how a run, its fork server and its supervisor talk."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any


class Lines:
    """Objects out of a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]


def send(channel: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send an object, and open files with it.

    Raises:
        OSError: the other end is closed.
    """
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(channel, [data], files) if files else 0
    channel.sendall(data[sent:])
