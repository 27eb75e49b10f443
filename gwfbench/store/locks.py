"""Claims: which process works on which run, so that several may write under one folder at once.

A claim is a locked file `.claims/<key>` (flock). The kernel frees it with the last process that holds it, however
that ends: there is no time-out, and no claim outlives a crash. The supervisor takes it and hands it to the child too,
so a child that outlives its killed supervisor for a moment is still alone. NFS needs its locks to reach the server
(NFSv4, or NFSv3 with lockd; not mounted with `nolock` or `local_lock`); Linux sends flock as a lock of the whole
file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from gwfbench.store import checked

FOLDER = ".claims"
PARTIAL = ".partial-"  # what the folder of an attempt that has not ended begins with, then its key


@dataclass(frozen=True)
class Claim:
    """A run that is ours. `descriptor` may be handed to a child; `release` ends the claim for all who have it."""

    path: Path
    descriptor: int

    def release(self) -> None:
        with contextlib.suppress(OSError):  # first the file: who locked its old name sees that, and tries again
            self.path.unlink()
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
                with contextlib.suppress(OSError):  # a full disk: it is only a word for others
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode())
                return Claim(path, descriptor)
        except BlockingIOError:
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
        return checked.read_bytes(out / FOLDER / key).decode(errors="replace")[:200]
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
