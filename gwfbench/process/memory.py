"""What the kernel says about memory: of process groups, and of those that it killed for want of it."""

from __future__ import annotations

import contextlib
from pathlib import Path


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


def memory_of_groups() -> dict[int, int]:
    """Bytes of each process group that are its own: anonymous and shared memory, no mapped files. Linux only."""
    used: dict[int, int] = {}
    for folder in Path("/proc").iterdir() if Path("/proc/self/status").exists() else ():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # gone meanwhile
                group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
                lines = (folder / "status").read_text().splitlines()
                parts = [int(x.split()[1]) for x in lines if x.startswith(("RssAnon:", "RssShmem:"))]
                used[group] = used.get(group, 0) + 1024 * sum(parts)
    return used
