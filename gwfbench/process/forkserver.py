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

A keeper waits for its run and ends as that ended. It adopts what the run's own children leave behind (Linux:
PR_SET_CHILD_SUBREAPER), whatever session or group that is in; when the keeper ends, the server adopts all of it and
ends it. A run dies with its keeper, and a keeper with the server (PR_SET_PDEATHSIG). The claims of a run are open in
command and server alone, and the server ends after all that it has started: see `store/locks.py`.

Why not `multiprocessing`'s: that one imports the user's `__main__` again, so a plain script would need a guard, and it
neither signals groups nor ends them before their leader is reaped, after which the group's number may be another's.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from gwfbench.metrics import known as known_metrics
from gwfbench.process import child
from gwfbench.process import server as own
from gwfbench.process.messages import Lines, send
from gwfbench.store import fingerprint, processes

# What metrics import when they are first evaluated: half a second, once in the server or in each run.
USED = {"w2": ("ot",), "c2st": ("sklearn.model_selection", "sklearn.neural_network")}
PARENT_DEATH, SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER of prctl(2)
LOOK = 1.0  # seconds between two looks, whatever is told


def warm() -> None:
    """Fork a server off this process, which the first pool will find ready.

    Only for a command that has run no code but ours: it has no threads, no device and no locks that a fork would miss.
    """
    if sys.platform == "linux" and threading.active_count() == 1 and not torch.cuda.is_initialized():
        own.give(own.Server(_split_off))


class _Fork:
    """What `subprocess.Popen` is to a program."""

    def __init__(self, pid: int):
        self._pid, self._code = pid, None

    def send_signal(self, sig: int, /) -> None:
        if self._ended(os.WNOHANG) is None:
            os.kill(self._pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

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
        sys.stdin, sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(k, "r+", closefd=False)) for k in range(3))
        os.environ.update(more)
        if processes.VARIABLE not in more or processes.wear(more[processes.VARIABLE]):
            serve(descriptor)
    finally:
        os._exit(1)


def serve(descriptor: int) -> None:
    """Fork runs until the other end of the socket closes; then end what is left of them."""
    channel = socket.socket(fileno=descriptor)
    _control(SUBREAPER, 1)
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
        with contextlib.suppress(Exception):  # it is said to who asks for it
            importlib.import_module(name)
            fingerprint.code_hash(name)
    known = known_metrics()
    for judge in (known[name] for name in judges if name in known):
        fingerprint.metric_code(judge)
    gc.freeze()


class _Server:
    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._runs: dict[int, int] = {}  # pid of the keeper -> id of its run
        self._claims: dict[int, list[int]] = {}  # and the claims of the run
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
            readable = select.select([self._channel, self._awake], [], [], LOOK)[0]
            if self._awake in readable:
                os.read(self._awake, 4096)
            self._reap()
            for keeper in self._runs:  # a method may have stopped it
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
        for keeper in self._runs:
            _kill(keeper)
            os.waitpid(keeper, 0)
        self._runs = {}
        self._end_orphans()

    def _heed(self, message: dict[str, Any]) -> None:
        if "signal" in message:
            for keeper, run in self._runs.items():
                if run == message["signal"] and message["number"] == signal.SIGKILL:
                    _kill(keeper)
                elif run == message["signal"]:
                    os.kill(keeper, message["number"])
            return
        count, run = message["descriptors"], message["run"]
        mine, self._files = self._files[:count], self._files[count:]
        try:
            if len(mine) < count:
                raise OSError("too many open files; see ulimit -n")
            wanted = {*message["modules"], *message["metrics"]}
            if not wanted <= self._loaded:
                with _alone():
                    _load(message["modules"], message["metrics"])
                self._loaded |= wanted
            keeper = self._fork(message, *mine[:2])
        except OSError as error:
            _close(mine)
            send(self._channel, {"refused": run, "reason": str(error)})
            return
        _close(mine[:2])
        self._runs[keeper], self._claims[keeper] = run, mine[2:]
        send(self._channel, {"started": run, "pid": keeper})

    def _reap(self) -> None:
        """Tell of the runs that have ended, once nothing is left of them."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            pid = info.si_pid
            if pid not in self._runs:
                os.waitpid(pid, 0)
                continue
            left = len(self._orphans())
            _kill(pid)  # its group, before it is reaped: until then the group's number is its own
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            run = self._runs.pop(pid)
            self._end_orphans()
            send(self._channel, {"exited": run, "code": code, "left": left})
            _close(self._claims.pop(pid))

    def _orphans(self) -> list[int]:
        """What lives below us and below none of our keepers."""
        return processes.below(os.getpid(), but=self._runs)

    def _end_orphans(self) -> None:
        last = time.monotonic() + processes.PATIENCE
        while (found := self._orphans()) and time.monotonic() < last:
            processes.kill(found)
            for pid in found:
                with contextlib.suppress(ChildProcessError):  # its parent has not died yet
                    os.waitpid(pid, os.WNOHANG)

    def _fork(self, message: dict[str, Any], channel: int, log: int) -> int:
        """The pid of the keeper of a new run."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # here and in the keeper: whoever comes first
                os.setpgid(pid, pid)
            return pid
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            _die_with(server)
            _control(SUBREAPER, 1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            claims = [file for held in self._claims.values() for file in held]
            _close([self._channel.fileno(), self._awake, self._alarm, *self._files, *claims])
            _keep(message, channel, log)
        finally:
            os._exit(1)


def _keep(message: dict[str, Any], channel: int, log: int) -> None:
    """Fork the run, wait for its end, and end as it did."""
    keeper = os.getpid()
    run = os.fork()
    if not run:
        code = 1
        try:
            _die_with(keeper)
            code = child.perform(message, channel, log)
        finally:
            os._exit(code)
    _close([channel, log])  # who waits for their end waits for the run alone
    signal.signal(signal.SIGTERM, lambda *_: os.kill(run, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    pid = status = 0
    while pid != run:
        pid, status = os.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # of SIGKILL there is none
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(keeper, number)


def _kill(keeper: int) -> None:
    """Its whole group: it, its run, and what has stayed with them. What has not is adopted by us."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(keeper, signal.SIGKILL)


def _die_with(parent: int) -> None:
    _control(PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it had died before we asked
        os._exit(1)


def _control(what: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def _close(files: list[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
