"""One child process a run: starts them, watches their deadlines and memory, and says how each ended.

A child is forked by a server of our own (`process.forkserver`), started once and kept for later calls. It reports over
a socket, and prints into a pipe that is read here and cut to bounds. Nothing that it says is taken on trust: what is no
message ends it. All clocks are ours: a method may block signals, stop itself or swallow exceptions. If we are killed,
the server sees our socket close and ends all that it has started; if the server is killed, the kernel and we do.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gwfbench.drive.log import Log, last_lines
from gwfbench.errors import UserError
from gwfbench.plugins import single
from gwfbench.process import server
from gwfbench.process.memory import beyond, out_of_memory_kills
from gwfbench.process.messages import Garbled, Lines, send
from gwfbench.store.record import Status

if TYPE_CHECKING:  # this module is light: a server may be started before torch is loaded here
    from gwfbench.drive.execute import Setting
from gwfbench.drive.job import Job

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
POLL = 0.25  # seconds between two looks at the memory
LOOK = 1.0  # seconds between two looks at all else
LATE = 5.0, 0.1  # seconds, and share of a budget of seconds, that a method may go on after its end
LINE = 1 << 20  # bytes of a message of a run, at most
TEXT = 2000  # characters of its reason
CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP"})


# flow time, last judged time if there is one; seconds of training, of sampling, of judging
Progress = Callable[[float, float | None, tuple[float, float, float]], None]


@dataclass(frozen=True)
class Limits:
    """Of each run: threads of torch and BLAS, seconds of wall time, bytes of memory."""

    threads: int = 1
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class End:
    """What a run gets that could not close itself, and all that it printed.

    Args:
        left: number of processes that it had started and that went on after it; they were ended.
    """

    status: Status
    reason: str
    log: str
    left: int = 0


@dataclass(eq=False)
class _Child:
    channel: socket.socket
    output: int
    progress: Progress
    kills_before: int
    log: Log = field(default_factory=Log)
    lines: Lines = field(default_factory=lambda: Lines(LINE))
    budget: float | None = None  # seconds of training
    pid: int = 0  # of its keeper
    deadline: float | None = None  # by the wall clock
    spent_at: float | None = None  # while the method runs: when it has gone on for too long after its budget
    cause: tuple[Status, str] | None = None  # why we stopped it
    failed: tuple[Status, str] | None = None  # what it said of itself
    kill_at: float | None = None
    kills: int = 0


class Pool:
    """Runs in processes of their own; any number at once."""

    def __init__(self, limits: Limits):
        self._limits, self._server, self._selector = limits, server.take(), selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._names = itertools.count()
        self._looked = 0.0
        self._broken = False
        self._selector.register(self._server.socket, selectors.EVENT_READ)

    def __len__(self) -> int:
        return len(self._children)

    def start(self, job: Job, setting: Setting, claims: Sequence[int], progress: Progress) -> int:
        """Start a job; the number under which `wait` says that it has ended.

        Args:
            claims: descriptors that are held open for as long as any process of the run lives, at most 200.
            progress: called from `wait`.
        """
        if not self._server.alive:
            self._selector.unregister(self._server.socket)
            self._server = server.take()
            self._selector.register(self._server.socket, selectors.EVENT_READ)
        number = next(self._names)
        memory = self._limits.memory if job.device == "cpu" else None  # CUDA maps far more than it uses
        assert setting.out is not None
        modules = {type(job.task).__module__, type(job.contestant).__module__}
        message = {
            "run": number, "descriptors": 2 + len(claims), "words": job.words(),
            "env": setting.env, "out": str(setting.out.absolute()), "anew": setting.anew, "curve": setting.curve,
            "judge": setting.judge,
            "folder": _folder(), "path": server.search_path(), "files": os.environ.get(single.FILES, ""),
            "threads": self._limits.threads, "memory": memory,
            "modules": sorted(name for name in modules if name.startswith("gwfbench.")), "metrics": job.task.metrics,
        }  # fmt: skip
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            channel, far = socket.socketpair()
            ours.callback(channel.close)
            theirs.callback(far.close)
            output, printed = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, output)
            theirs.callback(os.close, printed)
            os.set_blocking(output, False)
            child = _Child(channel, output, progress, out_of_memory_kills(), budget=job.budget.seconds)
            for file in (channel, output):
                self._selector.register(file, selectors.EVENT_READ, child)
                ours.callback(self._selector.unregister, file)
            self._children[number] = child
            ours.callback(self._children.pop, number)  # what the server never had would never end
            self._server.send(message, [far.fileno(), printed, *claims])
            ours.pop_all()
        return number

    def wait(self, seconds: float | None = None) -> list[tuple[int, End]]:
        """Wait for news, at most so long; the runs that have ended."""
        ended: list[tuple[int, End]] = []
        for key, _ in self._selector.select(self._patience(seconds)):
            if key.data is None:
                ended += self._listen()
                continue
            read = _read_output if key.fd == key.data.output else _read_channel
            try:
                open_ = key.data not in self._children.values() or read(key.data)
            except Garbled:
                open_ = False
                why = "it wrote onto its channel to the command, which the runner alone may use"
                self._kill(key.data, "error", why)
            if not open_:
                self._selector.unregister(key.fileobj)  # it has closed its end, and may go on
        self._enforce()
        return ended

    def stop(self, status: Status, reason: str) -> list[tuple[int, End]]:
        """Stop all: SIGTERM, and SIGKILL to those that are there after a while; how they ended."""
        ended: list[tuple[int, End]] = []
        if self._broken:
            self._children.clear()  # none has begun
        for child in self._children.values():
            self._terminate(child, status, reason)
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

    def _patience(self, seconds: float | None) -> float:
        now = time.monotonic()
        times = [
            t
            for c in self._children.values()
            for t in (c.kill_at, *((c.deadline, c.spent_at) if not c.cause else ()))
            if t is not None
        ]
        waits = [max(t - now, 0.0) for t in times] + [POLL] * bool(self._limits.memory)
        return min([*waits, LOOK, *([] if seconds is None else [seconds])])

    def _listen(self) -> list[tuple[int, End]]:
        ended = []
        messages = self._server.receive()
        for message in messages or ():
            if "broken" in message:
                self._broken = True
                raise UserError(
                    f"the process that starts the runs could not start: {message['broken']}",
                    "a Python that can import gwfbench and what it needs",
                    "see whether a file in this folder, or on PYTHONPATH, has the name of a package (torch.py, ot.py)",
                )
            number = message.get("started", message.get("exited", message.get("refused")))
            if number not in self._children:
                continue
            child = self._children[number]
            if "started" in message:
                child.pid = message["pid"]
                child.deadline = time.monotonic() + self._limits.seconds if self._limits.seconds else None
            elif "exited" in message:
                ended.append((number, self._end(number, _meaning(message["code"], child), message["left"])))
            else:
                ended.append((number, self._end(number, ("killed", f"it could not start: {message['reason']}"))))
        if messages is None:  # the server was killed, and all that it had started is dead
            for number in tuple(self._children):
                ended.append((number, self._end(number, ("killed", "the server that had started it was killed"))))
        return ended

    def _end(self, number: int, seen: tuple[Status, str], left: int = 0) -> End:
        child = self._children.pop(number)
        with contextlib.suppress(Garbled):
            _read_channel(child)
        _read_output(child)
        for file in (child.channel, child.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(file)
        child.channel.close()
        os.close(child.output)
        log = child.log.getvalue()
        status, reason = child.cause or child.failed or seen
        told = "" if child.failed else last_lines(log)
        return End(status, f"{reason}; it last said: {told}" if told else reason, log, 0 if child.cause else left)

    def _enforce(self) -> None:
        now, limits = time.monotonic(), self._limits
        look = limits.memory is not None and now - self._looked >= POLL
        self._looked = now if look else self._looked
        if self._server.alive:
            self._server.wake()
        for child in self._children.values():
            used = beyond(limits.memory, child.pid) if look and limits.memory and child.pid else 0
            if child.kill_at is not None:
                if now >= child.kill_at:
                    self._send_kill(child)
            elif used:
                allowed = f"--memory allows {(limits.memory or 0) / 2**30:g}"
                self._kill(child, "oom", f"it used {used / 2**30:.2f} GiB, {allowed}")
            elif child.deadline is not None and now >= child.deadline:
                self._terminate(child, "timeout", f"it took longer than --timeout {limits.seconds:g} seconds")
            elif child.spent_at is not None and now >= child.spent_at:
                told = f"told to stop at its budget of {child.budget:g} s of training, it went on"
                self._terminate(child, "timeout", told)

    def _terminate(self, child: _Child, status: Status, reason: str) -> None:
        """SIGTERM, and in a while SIGKILL."""
        if child.cause is None:
            child.cause, child.kill_at = (status, reason), time.monotonic() + GRACE
            _tell(child, {"status": status, "reason": reason})
            self._signal(child, signal.SIGTERM)

    def _kill(self, child: _Child, status: Status, reason: str) -> None:
        child.cause = child.cause or (status, reason)
        self._send_kill(child)

    def _send_kill(self, child: _Child) -> None:
        """SIGKILL to all of it; if that does not help in a while, the server goes, and all with it."""
        if child.kills > 1:
            self._server.kill()
        child.kills += 1
        child.kill_at = time.monotonic() + GRACE
        self._signal(child, signal.SIGKILL)

    def _signal(self, child: _Child, number: int) -> None:
        for name, one in self._children.items():
            if one is child:
                self._server.send({"signal": name, "number": int(number)})


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder was deleted", "a folder that exists", "change to another folder") from None


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
    """Take what it says; False at the end of that.

    Raises:
        Garbled: it is no message of a run.
    """
    try:
        data = child.channel.recv(1 << 16, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    for message in child.lines.feed(data):
        match message:
            case {
                "t": float() | int() as t,
                "last": float() | int() | None as last,
                "took": [float() | int() as training, float() | int() as sampling, float() | int() as judging],
            }:
                child.progress(t, last, (training, sampling, judging))
            case {"clock": None}:
                child.spent_at = None
            case {"clock": float() as moment} if child.budget is not None and math.isfinite(moment):
                child.spent_at = moment + max(LATE[0], LATE[1] * child.budget)
            case {"log": True}:
                _read_output(child)  # it has flushed all before it asked
                if not _tell(child, {"log": child.log.getvalue()}):
                    raise Garbled  # it asks, and does not listen
            case {"failed": str() as reason, "status": "error" | "oom" as status}:
                child.failed = (status, reason[:TEXT])
            case _:
                raise Garbled
    return bool(data)


def _tell(child: _Child, message: dict[str, Any]) -> bool:
    """Whether it has taken the message, or has ended."""
    child.channel.settimeout(GRACE)
    try:
        send(child.channel, message)
    except TimeoutError:
        return False
    except OSError:
        pass
    child.channel.settimeout(None)
    return True


def _meaning(code: int, child: _Child) -> tuple[Status, str]:
    """What an exit code says of a child that was not stopped by us and has not closed its run."""
    if code >= 0:
        return "error", f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL" and out_of_memory_kills() > child.kills_before:
        return "oom", "killed by the kernel, which had no memory left"
    if name == "SIGALRM":  # the budget's own, in a program that has taken the method's place
        return "timeout", f"ended by {name}, which ends its seconds"
    return "error" if name in CRASHES else "killed", f"ended by {name}"
