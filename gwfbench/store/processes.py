"""Which process is which, what descends from it, and what a dead one has left behind.

A pid alone says little: it is given again. So a process is known by its *mark*: boot, pid and start time. A fork server
has the mark of its command in its environment (`VARIABLE`), and so has all that descends from it, whatever group,
session or parent that has moved to. By the mark, what a dead command has left is found and ended.

All of it is read from /proc, which Linux has. Elsewhere nothing is known, and nothing is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path

VARIABLE = "GWFBENCH_COMMAND"
PATIENCE = 5.0  # seconds in which what was killed has gone, unless the kernel holds it
_MARK = re.compile(r"[0-9a-f-]{36}\.\d+\.\d+")


def mark() -> str:
    """The mark of this process; empty where there is no /proc."""
    found = _stat(os.getpid())
    return f"{_boot()}.{os.getpid()}.{found[19]}" if found and _boot() else ""


def wear(mark: str) -> bool:
    """Put a mark into the environment of this process, which was forked; whether others can see it there.

    What they see is the memory that has the strings with which the program was started. It is written anew: the mark,
    and as many of today's variables as there is room for, the shortest first.
    """
    os.environ[VARIABLE] = mark
    for name, value in os.environb.items():
        os.putenv(name, value)  # from now on the C library has copies elsewhere
    words = [b"%s=%s\0" % item for item in os.environb.items()]
    words.sort(key=lambda word: (not word.startswith(f"{VARIABLE}=".encode()), len(word)))
    start, end = map(int, _stat(os.getpid())[47:49] or (0, 0))
    text = b""
    while words and len(text) + len(words[0]) <= end - start:
        text += words.pop(0)
    if text:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    return Path("/proc/self/environ").read_bytes().startswith(f"{VARIABLE}={mark}\0".encode())


def is_dead(mark: str) -> bool:
    """Whether the process of this mark has ended; False where that can't be known."""
    if not _MARK.fullmatch(mark):
        return False
    boot, pid, start = mark.split(".")
    if not _boot() or boot != _boot():
        return False  # another boot, or another machine that shares the folder: its locks tell
    found = _stat(int(pid))
    return not found or found[0] in "ZX" or found[19] != start


def end(mark: str) -> int:
    """Kill all processes whose environment has this mark, or one that begins with it; how many there were."""
    ended: set[int] = set()
    last = time.monotonic() + PATIENCE
    while (found := _marked(mark)) and time.monotonic() < last:
        ended |= kill(found)
        time.sleep(0.01)
    return len(ended)


def kill(pids: list[int]) -> set[int]:
    """Send SIGKILL to these; those that were there."""
    there = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            there.add(pid)
    return there


def below(pid: int, but: Collection[int] = ()) -> list[int]:
    """The living processes that descend from this one, as far as their parents live; without `but` and all below."""
    found, todo = list[int](), [pid]
    while todo:
        for child in _children(todo.pop()):
            if child not in but and (stat := _stat(child)) and stat[0] not in "ZX":
                found.append(child)
                todo.append(child)
    return found


def _marked(mark: str) -> list[int]:
    if not _MARK.match(mark):
        return []
    entry, found = f"{VARIABLE}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            for one in (folder / "environ").read_bytes().split(b"\0"):
                if (one == entry or one.startswith(entry + b".")) and int(folder.name) != os.getpid():
                    found.append(int(folder.name))
    return found


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the name, the state first; empty if there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
