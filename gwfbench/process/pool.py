"""One child process a run: starts them, watches their deadline and memory, and says how each ended.

A child is forked by a server of our own (`process.forkserver`), started once and kept for later calls. It reports over
a socket, prints into a pipe that is read here and cut to bounds, and holds its claims together with us. If we are
killed, the server sees our socket close and kills its children; if the server is killed, the kernel kills them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gwfbench.drive.log import Log, last_lines
from gwfbench.process import server
from gwfbench.process.memory import memory_of_groups, out_of_memory_kills
from gwfbench.process.messages import Lines, send
from gwfbench.store.record import Status

if TYPE_CHECKING:  # this module is light: a server may be started before torch is loaded here
    from gwfbench.drive.execute import Setting
from gwfbench.drive.job import Job

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
POLL = 0.25  # seconds between two looks at the memory
CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"})


@dataclass(frozen=True)
class Limits:
    """Of each run: threads of torch and BLAS, seconds of wall time, bytes of memory."""

    threads: int = 1
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class End:
    """What a run gets that could not close itself, and all that it printed."""

    status: Status
    reason: str
    log: str


@dataclass(eq=False)
class _Child:
    channel: socket.socket
    output: int
    progress: Callable[[float, float | None], None]
    kills_before: int
    log: Log = field(default_factory=Log)
    lines: Lines = field(default_factory=Lines)
    pid: int = 0
    deadline: float | None = None
    cause: tuple[Status, str] | None = None  # why we stopped it
    failed: tuple[Status, str] | None = None  # what it said of itself
    kill_at: float | None = None


class Pool:
    """Runs in processes of their own; any number at once."""

    def __init__(self, limits: Limits):
        self._limits, self._server, self._selector = limits, server.take(), selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._names = itertools.count()
        self._looked = 0.0
        self._selector.register(self._server.socket, selectors.EVENT_READ)

    def __len__(self) -> int:
        return len(self._children)

    def start(
        self, job: Job, setting: Setting, claims: Sequence[int], progress: Callable[[float, float | None], None]
    ) -> int:
        """Start a job; the number under which `wait` says that it has ended.

        Args:
            claims: descriptors that the child holds open, at most 200.
            progress: called from `wait` with (flow time, last judged time).
        """
        if not self._server.alive:
            self._selector.unregister(self._server.socket)
            self._server = server.take()
            self._selector.register(self._server.socket, selectors.EVENT_READ)
        number = next(self._names)
        ours, theirs = socket.socketpair()
        output, printed = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        memory = self._limits.memory if job.device == "cpu" else None  # CUDA maps far more than it uses
        assert setting.out is not None
        message = {
            "run": number, "descriptors": 2 + len(claims), "words": job.words(),
            "env": setting.env, "out": str(setting.out.absolute()), "anew": setting.anew, "curve": setting.curve,
            "folder": os.getcwd(), "path": sys.path, "threads": self._limits.threads, "memory": memory,
        }  # fmt: skip
        child = _Child(ours, output, progress, out_of_memory_kills())
        self._children[number] = child
        self._server.send(message, [theirs.fileno(), printed, *claims])
        theirs.close()
        os.close(printed)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._selector.register(output, selectors.EVENT_READ, child)
        return number

    def wait(self, seconds: float | None = None) -> list[tuple[int, End]]:
        """Wait for news, at most so long; the runs that have ended."""
        ended: list[tuple[int, End]] = []
        for key, _ in self._selector.select(self._patience(seconds)):
            if key.data is None:
                ended += self._listen()
                continue
            read = _read_output if key.fd == key.data.output else _read_channel
            if key.data in self._children.values() and not read(key.data):
                self._selector.unregister(key.fileobj)  # it has closed its end, and may go on
        self._enforce()
        return ended

    def stop(self, status: Status, reason: str) -> list[tuple[int, End]]:
        """Stop all: SIGTERM, and SIGKILL to those that are there after a while; how they ended."""
        ended: list[tuple[int, End]] = []
        for number in self._children:
            self._terminate(number, status, reason)
        while self._children:
            try:
                ended += self.wait()
            except KeyboardInterrupt:  # asked twice
                for child in self._children.values():
                    child.kill_at = 0.0
        return ended

    def close(self) -> None:
        """Leave the server to the next pool; nothing may be running."""
        self._selector.close()
        server.give(self._server)

    def _patience(self, seconds: float | None) -> float | None:
        now = time.monotonic()
        times = [t for c in self._children.values() for t in (c.kill_at, c.deadline if not c.cause else None)]
        waits = [max(t - now, 0.0) for t in times if t is not None] + [POLL] * bool(self._limits.memory)
        return min([*waits, *([] if seconds is None else [seconds])], default=None)

    def _listen(self) -> list[tuple[int, End]]:
        ended = []
        messages = self._server.receive()
        for message in messages or ():
            number = message.get("started", message.get("exited"))
            if number in self._children and "started" in message:
                child = self._children[number]
                child.pid = message["pid"]
                child.deadline = time.monotonic() + self._limits.seconds if self._limits.seconds else None
            elif number in self._children:
                ended.append((number, self._end(number, message["code"])))
        if messages is None:  # the server was killed
            for number, child in tuple(self._children.items()):
                _see_dead(child.pid)
                ended.append((number, self._end(number, None)))
        return ended

    def _end(self, number: int, code: int | None) -> End:
        child = self._children.pop(number)
        _read_channel(child)
        _read_output(child)
        for file in (child.channel, child.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(file)
        child.channel.close()
        os.close(child.output)
        log = child.log.getvalue()
        status, reason = child.cause or child.failed or _meaning(code, child.kills_before)
        told = "" if child.failed else last_lines(log)
        return End(status, f"{reason}; it last said: {told}" if told else reason, log)

    def _enforce(self) -> None:
        now = time.monotonic()
        look = self._limits.memory is not None and now - self._looked >= POLL
        used = memory_of_groups() if look and self._children else {}
        self._looked = now if look else self._looked
        for number, child in self._children.items():
            if child.kill_at is not None:
                if now >= child.kill_at:
                    self._server.send({"signal": number, "number": int(signal.SIGKILL)})
                    child.kill_at = now + GRACE
            elif self._limits.memory and used.get(child.pid, 0) > self._limits.memory:
                child.cause = (
                    "oom",
                    f"it used {used[child.pid] / 2**30:.2f} GiB, --memory allows {_gib(self._limits)}",
                )
                child.kill_at = now + GRACE
                self._server.send({"signal": number, "number": int(signal.SIGKILL)})
            elif child.deadline is not None and now >= child.deadline:
                self._terminate(number, "timeout", f"it took longer than --timeout {self._limits.seconds:g} seconds")

    def _terminate(self, number: int, status: Status, reason: str) -> None:
        child = self._children[number]
        if child.cause is None:
            child.cause, child.kill_at = (status, reason), time.monotonic() + GRACE
            _tell(child, {"status": status, "reason": reason})
            self._server.send({"signal": number, "number": int(signal.SIGTERM)})


def _see_dead(pid: int) -> None:
    """Kill the group of a child whose server is gone, and wait until it is dead; a zombie stays visible."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(100 if pid else 0):
            os.killpg(pid, signal.SIGKILL)
            time.sleep(0.01)


def _gib(limits: Limits) -> str:
    return f"{(limits.memory or 0) / 2**30:g}"


def _read_output(child: _Child) -> bool:
    """Take what it has printed; False at the end of that."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):  # then the others' turn
            data = os.read(child.output, 1 << 16)
            if not data:
                return False
            child.log.feed(data)
    return True


def _read_channel(child: _Child) -> bool:
    """Take what it says; False at the end of that."""
    try:
        data = child.channel.recv(1 << 16, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    for message in child.lines.feed(data):
        if "t" in message:
            child.progress(message["t"], message["last"])
        elif "log" in message:
            _read_output(child)  # it has flushed all before it asked
            _tell(child, {"log": child.log.getvalue()})
        elif "failed" in message:
            child.failed = (message["status"], message["failed"])
    return bool(data)


def _tell(child: _Child, message: dict[str, Any]) -> None:
    child.channel.settimeout(GRACE)
    with contextlib.suppress(OSError):  # it has ended meanwhile
        send(child.channel, message)
    child.channel.settimeout(None)


def _meaning(code: int | None, kills_before: int) -> tuple[Status, str]:
    """What an exit code says of a child that was not stopped by us and has not closed its run."""
    if code is None:
        return "killed", "the server that had started it was killed"
    if code >= 0:
        return "error", f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL" and out_of_memory_kills() > kills_before:
        return "oom", "killed by the kernel, which had no memory left"
    return "error" if name in CRASHES else "killed", f"ended by {name}"
