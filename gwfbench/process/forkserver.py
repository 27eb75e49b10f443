"""The process from which every run is forked: it has loaded torch, the runner and the metrics, and never touches CUDA.

A command forks it off itself before it has run anybody's code (`warm`); elsewhere `gwfbench.process.server` starts it
as a program, for what is forked has the threads, the devices and the locks of its parent. It has one end of a socket,
on which JSON lines go both ways:

    <- {"run": id, "descriptors": n, "words": ..., "out": ..., ...}   with n open files: channel, log, claims
    <- {"signal": id, "number": 15}                                   SIGTERM to the run, or SIGKILL to all it started
    -> {"ready": true}    -> {"started": id, "pid": p}    -> {"refused": id, "reason": text}
    -> {"exited": id, "code": c, "left": n}               c < 0: by signal -c; n processes that it had left were ended
    -> {"broken": text}                                   the server itself can't go on

Between the server and each run stands a keeper, which the method does not know:

    command - server - keeper - run - whatever the method starts

A keeper has one run after another: a fork of all that is loaded takes 20 ms. It adopts what the run's own children
leave behind (Linux: PR_SET_CHILD_SUBREAPER), whatever session or group that is in, ends it, and says how the run ended.
When the keeper itself is killed, the server adopts all of it and ends it. A run dies with its keeper, and a keeper with
the server (PR_SET_PDEATHSIG). The claims of a run are open in command and server alone, and the server ends after all
that it has started: see `store/locks.py`.

Why not `multiprocessing`'s: that one imports the user's `__main__` again, so a plain script would need a guard, and it
neither signals groups nor ends them before their leader is reaped, after which the group's number may be another's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gwfbench.metrics import known as known_metrics
from gwfbench.process import child
from gwfbench.process import server as own
from gwfbench.process.keeper import SUBREAPER, close, control, die_with, end, keep, kill
from gwfbench.process.messages import Garbled, Lines, send
from gwfbench.store import fingerprint, processes

# What metrics import when they are first evaluated: half a second, once in the server or in each run.
USED = {"w2": ("ot",)}
LOOK = 1.0  # seconds between two looks, whatever is told


def warm() -> None:
    """Fork a server off this process, which the first pool will find ready.

    Only where this process is the command, and has run no code but ours: it has no threads, no device and no locks that
    a fork would miss. Who calls the command's functions from a program of their own gets a server that is one too.
    """
    ours = _is_command() and threading.active_count() == 1 and not torch.cuda.is_initialized()
    if sys.platform == "linux" and ours:
        server = own.Server(_split_off)
        if server.receive():  # it is ready; else the pool starts one
            own.give(server)


def _is_command() -> bool:
    """Whether this process is `python -m gwfbench` or the script `gwfbench`."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None) or ""
    return os.path.basename(file) == "gwfbench" or (spec is not None and spec.name == "gwfbench.__main__")


class _Fork:
    """What `subprocess.Popen` is to a program."""

    def __init__(self, pid: int):
        self._pid, self._code = pid, None

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self._pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        return self._ended(0) or 0

    def _ended(self, how: int) -> int | None:
        """Its exit code, which is asked for once: after that the pid may be another's."""
        if self._code is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self._pid, how)
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _split_off(theirs: socket.socket, more: dict[str, str]) -> _Fork:
    """Fork the server at this end of a socket, with more variables in its environment."""
    pid = os.fork()
    if pid:
        return _Fork(pid)
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        descriptor = theirs.detach()
        os.closerange(3, descriptor)
        os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
        for standard, name in enumerate(("stdin", "stdout", "stderr")):  # what waits in the command's is not ours
            file = open(standard, "w" if standard else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)
            setattr(sys, f"__{name}__", file)
        fingerprint.forget()  # what the command has read of files may change before a run imports them
        os.environ.update(more)
        if processes.VARIABLE not in more or processes.wear(more[processes.VARIABLE]):
            serve(descriptor)
    finally:
        os._exit(1)


def serve(descriptor: int) -> None:
    """Fork runs until the other end of the socket closes; then end what is left of them."""
    channel = socket.socket(fileno=descriptor)
    control(SUBREAPER, 1)
    # Slurm sends it to every process of a job: the runs are to be closed before we go, which our socket tells
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    server = _Server(channel)
    try:
        child.libraries()
        gc.freeze()  # a collection in a child would copy every page that it marks
        server.go()
    except OSError:  # the command has gone
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            send(channel, {"broken": f"{type(error).__name__}: {error}"})
    finally:
        server.end()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While a user's own file may be loaded: no server of ours is started by it, and we don't outlive the command."""
    parent, loaded = os.getppid(), threading.Event()

    def watch() -> None:
        while not loaded.wait(LOOK):
            if os.getppid() != parent:
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    own.loading = True
    try:
        yield
    finally:
        own.loading = False
        loaded.set()
        watcher.join()


def _load(modules: list[str], judges: list[str]) -> None:
    """Load what a run of these modules and metrics needs of us, and hash it: what is forked is what was hashed."""
    for name in (name for judge in judges for name in USED.get(judge, ())):
        # a machine without it trains all the same; a user's own file of that name is told by the run that imports it
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    for name in ("numpy.random", "gwfbench.drive.controls", *modules):
        with contextlib.suppress(Exception):  # reported when the plug-in is asked for
            importlib.import_module(name)
            fingerprint.code_hash(name)
    known = known_metrics()
    for judge in (known[name] for name in judges if name in known):
        fingerprint.metric_code(judge)
    gc.freeze()


@dataclass
class _Keeper:
    """A keeper, and the run that it has, if any.

    Args:
        channel: to it; None once it is to end.
    """

    pid: int
    channel: socket.socket | None
    run: int | None = None
    claims: list[int] = field(default_factory=list)
    lines: Lines = field(default_factory=Lines)


class _Server:
    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._keepers: dict[int, _Keeper] = {}  # by pid
        self._loaded = set[str]()  # modules and metrics
        self._files: list[int] = []  # received, and of a message that is not whole yet
        self._awake, self._alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def go(self) -> None:
        """Raises OSError when the command has gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        send(self._channel, {"ready": True})
        lines = Lines()
        while True:
            busy = {one.channel: one for one in self._keepers.values() if one.channel and one.run is not None}
            readable = select.select([self._channel, self._awake, *busy], [], [], LOOK)[0]
            if self._awake in readable:
                os.read(self._awake, 4096)
            for channel in busy.keys() & set(readable):
                self._listen(busy[channel], channel)
            self._reap()
            for keeper in self._keepers:  # a method may have stopped it
                os.kill(keeper, signal.SIGCONT)
            if self._channel in readable:
                data, fresh, *_ = socket.recv_fds(self._channel, 1 << 16, 256)
                for file in fresh:
                    os.set_inheritable(file, False)
                self._files += fresh
                if not data:
                    return
                for message in lines.feed(data):
                    self._heed(message)

    def end(self) -> None:
        """End all runs, and all that they have started."""
        signal.set_wakeup_fd(-1)
        for keeper in self._keepers:
            kill(keeper)
            os.waitpid(keeper, 0)
        self._keepers = {}
        end(self._orphans)

    def _heed(self, message: dict[str, Any]) -> None:
        if "signal" in message:
            for pid, keeper in self._keepers.items():
                if keeper.run == message["signal"] and message["number"] == signal.SIGKILL:
                    kill(pid)
                elif keeper.run == message["signal"]:
                    os.kill(pid, message["number"])
            return
        count, run = message["descriptors"], message["run"]
        mine, self._files = self._files[:count], self._files[count:]
        try:
            if len(mine) < count:
                raise OSError("too many open files; see ulimit -n")
            self._load(message)
            keeper = self._given(message, mine)
        except OSError as error:
            close(mine)
            send(self._channel, {"refused": run, "reason": str(error)})
            return
        close(mine[:2])
        keeper.run, keeper.claims = run, mine[2:]
        send(self._channel, {"started": run, "pid": keeper.pid})

    def _load(self, message: dict[str, Any]) -> None:
        """Load what this run needs, if no run before needed it; keepers of before, which lack it, go."""
        wanted = {*message["modules"], *message["metrics"]}
        if wanted <= self._loaded:
            return
        with _alone():
            _load(message["modules"], message["metrics"])
        self._loaded |= wanted
        for keeper in self._keepers.values():
            if keeper.run is None:
                _dismiss(keeper)

    def _given(self, message: dict[str, Any], files: list[int]) -> _Keeper:
        """A keeper that has taken the run, with the first two files: an idle one, or a new one."""
        for keeper in self._keepers.values():
            if keeper.channel and keeper.run is None:
                with contextlib.suppress(OSError):  # it was killed
                    send(keeper.channel, message, files[:2])
                    return keeper
        keeper = self._fork(files)
        self._keepers[keeper.pid] = keeper
        assert keeper.channel
        send(keeper.channel, message, files[:2])
        return keeper

    def _listen(self, keeper: _Keeper, channel: socket.socket) -> None:
        """Take what a keeper says of its run."""
        try:
            data = channel.recv(1 << 16)
            messages = keeper.lines.feed(data)
        except (OSError, Garbled):
            data, messages = b"", []
        for message in messages:
            self._ended(keeper, message["code"], message["left"])
            if not message["alone"]:
                data = b""
        if not data:  # it has gone, or is no keeper any more
            _dismiss(keeper)
            kill(keeper.pid)

    def _reap(self) -> None:
        """Take leave of keepers that were killed, once nothing is left of their runs."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            pid = info.si_pid
            if pid not in self._keepers:
                os.waitpid(pid, 0)
                continue
            left = len(self._orphans())
            kill(pid)  # its group, before it is reaped: until then the group's number is its own
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            keeper = self._keepers.pop(pid)
            _dismiss(keeper)
            if keeper.run is not None:
                self._ended(keeper, code, left)

    def _ended(self, keeper: _Keeper, code: int, left: int) -> None:
        """Tell of a run that has ended, once nothing is left of it."""
        run, claims = keeper.run, keeper.claims
        keeper.run, keeper.claims = None, []
        end(self._orphans)
        send(self._channel, {"exited": run, "code": code, "left": left})
        close(claims)

    def _orphans(self) -> list[int]:
        """What lives below us and below none of our keepers."""
        return processes.below(os.getpid(), but=self._keepers)

    def _fork(self, files: list[int]) -> _Keeper:
        """A new keeper, which has none of our files, nor these."""
        server = os.getpid()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # here and in the keeper: whoever comes first
                os.setpgid(pid, pid)
            theirs.close()
            return _Keeper(pid, ours)
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            die_with(server)
            control(SUBREAPER, 1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in self._keepers.values():
                _dismiss(other)
                close(other.claims)
            close([ours.detach(), self._channel.detach(), self._awake, self._alarm, *self._files, *files])
            keep(theirs)
        finally:
            os._exit(1)


def _dismiss(keeper: _Keeper) -> None:
    """Let a keeper end, once its run has."""
    if keeper.channel:
        keeper.channel.close()
        keeper.channel = None
