"""What a run prints, kept within bounds: its first and its last megabyte."""

from __future__ import annotations

KEPT = 1_000_000  # bytes of the start, and as many of the end


class Log:
    """Text or bytes in any number; `getvalue` has the start, the end, and how much was cut between them."""

    def __init__(self, kept: int = KEPT):
        self._kept, self._head, self._tail, self._cut = kept, bytearray(), bytearray(), 0

    def write(self, text: str) -> int:
        self.feed(text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush; `sys.stdout` must have it."""

    def feed(self, data: bytes) -> None:
        room = self._kept - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._kept:  # not at every write: each cut moves the whole tail
            self._trim()

    def _trim(self) -> None:
        cut = max(len(self._tail) - self._kept, 0)
        del self._tail[:cut]
        self._cut += cut

    def getvalue(self) -> str:
        self._trim()
        gap = f"\n[... {self._cut} bytes cut ...]\n".encode() if self._cut else b""
        return (self._head + gap + self._tail).decode(errors="replace")


def last_lines(text: str, count: int = 3, width: int = 300) -> str:
    """The last lines that say something, on one line."""
    lines = [line.strip() for line in text.splitlines()[-50:] if line.strip()]
    return " | ".join(lines[-count:])[-width:]
