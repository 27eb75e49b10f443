"""JSON objects over a socket, one a line: how a run, its fork server and its command talk."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

# Ours for good: a method may replace json.dumps.
_encode, _decode = json.JSONEncoder().encode, json.JSONDecoder().decode


class Garbled(ValueError):
    """What came over the socket is no message."""


class Lines:
    """Objects out of a stream of bytes.

    Args:
        most: bytes of a line, at most.
    """

    def __init__(self, most: int = 2**28) -> None:
        self._rest, self._most = b"", most

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The objects that are whole now.

        Raises:
            Garbled: a line is none, or too long.
        """
        *whole, self._rest = (self._rest + data).split(b"\n")
        try:
            found = [_decode(line.decode()) for line in whole]
        except (ValueError, RecursionError):
            raise Garbled from None
        if len(self._rest) > self._most or not all(isinstance(one, dict) for one in found):
            raise Garbled
        return found


def send(channel: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send an object, and open files with it.

    Raises:
        OSError: the other end is closed.
    """
    data = _encode(message).encode() + b"\n"
    sent = socket.send_fds(channel, [data], files) if files else 0
    channel.sendall(data[sent:])
