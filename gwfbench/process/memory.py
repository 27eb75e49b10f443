"""Memory of a run's processes: what the kernel says of it, and what becomes of it when it is freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from gwfbench.store import processes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**28}  # bytes; 2^25 is the most that it takes for the first


def keep_pages() -> None:
    """Let malloc keep the pages of arrays that are freed, where it is glibc's: a loop asks for the same ones again.

    Else it may give arrays of 128 kB or more back to the kernel each time, and a thousand page faults an iteration of
    vjko took a fifth of its time.
    """
    with contextlib.suppress(ValueError, OSError, AttributeError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            for option, value in KEPT.items():
                ctypes.CDLL(None).mallopt(option, value)


def out_of_memory_kills() -> int:
    """How many processes of our control group the kernel has killed for want of memory; 0 where it does not say."""
    files = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                files += [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
            elif "memory" in kinds.split(","):
                files += [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if "oom_kill " in line)
    return 0


def beyond(limit: int, root: int) -> int:
    """Bytes that a process and all below it use, if that is more than the limit; else 0. Linux only.

    Counted is anonymous and shared memory, no mapped files. A page that several processes share counts once: each has
    its part of it. That takes the kernel some time to say, so it is asked only where the sum of all pages is too much.
    """
    pids = [root, *processes.below(root)]
    if sum(map(_all, pids)) <= limit:
        return 0
    used = sum(map(_part, pids))
    return used if used > limit else 0


def _all(pid: int) -> int:
    return _sum(Path(f"/proc/{pid}/status"), ("RssAnon:", "RssShmem:")) or 0


def _part(pid: int) -> int:
    known = _sum(Path(f"/proc/{pid}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:"))
    return _all(pid) if known is None else known


def _sum(path: Path, names: tuple[str, ...]) -> int | None:
    """Bytes in these lines; None where there are none: the process is gone, or the kernel is too old to say."""
    with contextlib.suppress(OSError):
        found = [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(names)]
        return 1024 * sum(found) if found else None
    return None
