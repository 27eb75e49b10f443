"""The process from which every run is forked: it has loaded torch, pandas and the runner, and never touches CUDA.

Started by `gwfbench.process.pool` with one end of a socket, on which JSON lines go both ways:

    <- {"run": id, "descriptors": n, "words": ..., "out": ..., ...}   with n open files: channel, log, claims
    <- {"signal": id, "number": 15}                                   to the run's whole process group
    -> {"ready": true}    -> {"started": id, "pid": p}    -> {"exited": id, "code": c}    (c < 0: by signal -c)

Why not `multiprocessing`'s: that one imports the user's `__main__` again, so a plain script would need a guard, and it
neither signals groups nor ends them before their leader is reaped, after which the group's number may be another's.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from gwfbench.drive.execute import Setting, execute, is_out_of_memory
from gwfbench.drive.job import Job
from gwfbench.drive.judge import reason_of
from gwfbench.plugins import registry
from gwfbench.process.messages import Lines, send
from gwfbench.store import fingerprint
from gwfbench.store.record import Status

PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
OFTEN = 0.2  # seconds between two words of a run about where it is


def serve(descriptor: int) -> None:
    """Fork runs until the other end of the socket closes; then kill what is left of them."""
    server = socket.socket(fileno=descriptor)
    _preload()
    awake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Slurm sends it to every process of a job: the runs are to be closed before we go, which our socket tells
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    send(server, {"ready": True})
    children: dict[int, int] = {}  # pid -> id of its run
    lines, files = Lines(), list[int]()
    while True:
        readable = select.select([server, awake], [], [])[0]
        if awake in readable:
            os.read(awake, 4096)
            for pid, code in _reap():
                send(server, {"exited": children.pop(pid), "code": code})
        if server in readable:
            data, fresh, *_ = socket.recv_fds(server, 1 << 16, 256)
            files += fresh
            if not data:
                for pid in children:
                    _signal(pid, signal.SIGKILL)
                return
            for message in lines.feed(data):
                if "signal" in message:
                    for pid in [pid for pid, run in children.items() if run == message["signal"]]:
                        _signal(pid, message["number"])
                    continue
                count = message["descriptors"]
                mine, files = files[:count], files[count:]
                pid = _fork(message, mine, [server.fileno(), awake, alarm, *files])
                children[pid] = message["run"]
                send(server, {"started": message["run"], "pid": pid})


@cache
def libraries() -> ThreadpoolController:
    """The BLAS and OpenMP libraries that are loaded; found once, before the forks, as it takes 10 ms."""
    return ThreadpoolController()


def _preload() -> None:
    """Load all that a run may need, and hash our part: what is forked is what was hashed."""
    for name in ("pandas", "ot", "sklearn.model_selection", "sklearn.neural_network"):
        with contextlib.suppress(ImportError):  # a machine without it trains all the same
            importlib.import_module(name)
    for kind in ("task", "method"):
        for plugin in registry.plugins(kind).values():
            if plugin.origin == "gwfbench" and not plugin.problem:
                with contextlib.suppress(Exception):  # it is said to who asks for it
                    plugin.load()
                    fingerprint.code_hash(plugin.module)
    libraries()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it marks


def _reap() -> list[tuple[int, int]]:
    """Pids and exit codes of those that have ended; what they left in their groups is killed first."""
    ended = []
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if info is None:
            return ended
        _signal(info.si_pid, signal.SIGKILL)  # before it is reaped: until then the group's number is its own
        ended.append((info.si_pid, os.waitstatus_to_exitcode(os.waitpid(info.si_pid, 0)[1])))


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _fork(message: dict[str, Any], files: list[int], foreign: list[int]) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # here and in the child: whoever comes first
            os.setpgid(pid, pid)
        for file in files:
            os.close(file)
        return pid
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with(server)
        for file in foreign:
            os.close(file)
        code = _child(message, *files[:2])
    except BaseException:  # nothing goes on up from here: above is the server's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it had died before we asked
        os._exit(1)


def _child(message: dict[str, Any], channel: int, log: int) -> int:
    """One run, in a process of its own; its exit code."""
    me = os.getpid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    faulthandler.enable(all_threads=False)
    link = _Link(socket.socket(fileno=channel))
    signal.signal(signal.SIGTERM, _stop)
    try:
        _settle_in(message)
        job = Job.received(message["words"])
        setting = Setting(message["env"], Path(message["out"]), message["anew"], message["curve"])
        execute(job, setting, link.progress, link, link.why_stopped)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        if os.getpid() == me:
            with contextlib.suppress(Exception):
                traceback.print_exc()
            link.send({"failed": reason_of(error), "status": "oom" if is_out_of_memory(error) else "error"})
    if os.getpid() != me:  # a fork that the method made and that came back here
        return 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: closing the run is not interrupted
    raise KeyboardInterrupt


def _settle_in(message: dict[str, Any]) -> None:
    os.chdir(message["folder"])
    if sys.path != message["path"]:
        sys.path[:] = message["path"]
        importlib.invalidate_caches()
        registry.plugins.cache_clear()
    torch.set_num_threads(message["threads"])
    libraries().limit(limits=message["threads"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if message["memory"]:
        resource.setrlimit(resource.RLIMIT_DATA, (message["memory"], resource.getrlimit(resource.RLIMIT_DATA)[1]))


class _Link:
    """The child's end of its channel to the supervisor, and, for the runner, its log.

    What is written goes to descriptor 1, as all that the process prints; the supervisor keeps it, and gives it back.
    """

    def __init__(self, channel: socket.socket):
        self._channel, self._lines, self._last, self._why = channel, Lines(), 0.0, ("killed", "stopped by SIGTERM")
        self._print, self._flush = sys.stdout.write, sys.stdout.flush
        self._process = os.getpid()

    def send(self, message: dict[str, Any]) -> None:
        try:
            send(self._channel, message)
        except OSError:  # the supervisor is gone: this process is about to be killed, and must not write on
            os._exit(1)

    def progress(self, steps: int, t: float, last: float) -> None:
        now = time.monotonic()
        if now - self._last >= OFTEN and os.getpid() == self._process:
            self._last = now
            self.send({"t": t, "last": last if last < float("inf") else None})

    def write(self, text: str) -> int:
        return self._print(text)

    def flush(self) -> None:
        self._flush()

    def getvalue(self) -> str:
        """All that the process has printed, within bounds.

        Raises:
            RuntimeError: a fork of the run asks; it could take the answer that its first process waits for.
        """
        if os.getpid() != self._process:
            raise RuntimeError("a fork that the method made came back; only its first process asks for the log")
        self._flush()
        self.send({"log": True})
        while True:
            for message in self._lines.feed(self._receive(0)):
                if "log" in message:
                    return message["log"]
                self._why = (message["status"], message["reason"])

    def why_stopped(self) -> tuple[Status, str]:
        with contextlib.suppress(BlockingIOError):
            for message in self._lines.feed(self._receive(socket.MSG_DONTWAIT)):
                self._why = (message["status"], message["reason"])
        return self._why  # type: ignore[return-value]

    def _receive(self, flags: int) -> bytes:
        data = self._channel.recv(1 << 16, flags)
        if not data:
            os._exit(1)
        return data
