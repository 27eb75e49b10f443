"""Claims: which process works on which run, so that several may write under one folder at once.

A claim is a locked file `.claims/<key>` (flock), held by the command and by the fork server of its run, and by nothing
that a method can start. The kernel frees it when both have ended, however that was. The server ends only after all that
it has started; where it was killed itself, whoever takes the claim next ends what is left, by the mark in the file
(`store/processes.py`). So no claim outlives a crash, and no process of a run outlives its claim. NFS needs its locks to
reach the server (NFSv4, or NFSv3 with lockd; not mounted with `nolock` or `local_lock`); Linux sends flock as a lock of
the whole file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from gwfbench.store import checked, processes

FOLDER = ".claims"
PARTIAL = ".partial-"  # what the folder of an attempt that has not ended begins with, then its key
_mine: set[int] = set()  # descriptors of our claims
_dead: dict[str, float] = {}  # marks of dead commands whose claims are held all the same, and since when
_cleared: set[str] = set()  # marks of dead commands that have left nothing any more


@dataclass(frozen=True)
class Claim:
    """A run that is ours. `descriptor` may be handed to a fork server; `release` ends the claim for all who have it."""

    path: Path
    descriptor: int

    def release(self) -> None:
        with contextlib.suppress(OSError):  # first the file: who locked its old name sees that, and tries again
            self.path.unlink()
        _mine.discard(self.descriptor)
        with contextlib.suppress(OSError):  # a method in this process has closed it
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)


def claim(out: Path, key: str) -> Claim | None:
    """Claim the run of this key, or None if a living process has it.

    Raises:
        OSError: the folder can't be written.
    """
    path = out / FOLDER / key
    while True:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                _end_what_is_left(_mark(descriptor))
                words = f"pid {os.getpid()} on {socket.gethostname()}\n{processes.mark()}"
                with contextlib.suppress(OSError):  # a full disk: it is only a word for others
                    os.truncate(descriptor, 0)
                    os.pwrite(descriptor, words.encode(), 0)
                _mine.add(descriptor)
                return Claim(path, descriptor)
        except BlockingIOError:
            _hurry(_mark(descriptor))
            os.close(descriptor)
            return None
        except FileNotFoundError:  # its holder released it between our open and our lock
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def holder(out: Path, key: str) -> str:
    """The holder of this key's claim, in words; empty if it is not known."""
    try:
        return checked.read_bytes(out / FOLDER / key).decode(errors="replace")[:200].partition("\n")[0]
    except OSError:
        return ""


def is_claimed(out: Path, key: str) -> bool:
    """Whether a living process works on the run of this key."""
    try:
        descriptor = os.open(out / FOLDER / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _mark(descriptor: int) -> str:
    return os.pread(descriptor, 400, 0).decode(errors="replace").partition("\n")[2]


def _end_what_is_left(mark: str) -> None:
    """Whoever held the claim before us and did not release it has died, and its fork server too."""
    if mark not in _cleared and processes.is_dead(mark):
        processes.end(mark)
        _cleared.add(mark)


def _hurry(mark: str) -> None:
    """A command has died, and its server has not: it is given time to clear up, and ended with all that it left."""
    if processes.is_dead(mark) and time.monotonic() - _dead.setdefault(mark, time.monotonic()) > processes.PATIENCE:
        processes.end(mark)


def _let_go() -> None:
    """What a method forks in this process (`--no-isolate`) is no holder."""
    for descriptor in _mine:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _mine.clear()


os.register_at_fork(after_in_child=_let_go)
