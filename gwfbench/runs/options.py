"""How runs are performed: at once, where, and within which limits."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gwfbench.drive.job import Job
from gwfbench.errors import require, unknown
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins.registry import spec
from gwfbench.process.pool import Limits
from gwfbench.rng import Streams

BATCH = 200  # seeds a process: so many claims go with one message to the fork server
MOST = 10_000  # runs at once, and threads of each
SMALLEST, LARGEST = 0.001, 1e6  # GiB of memory
FILES = 4  # open files of each run that goes on
RETRY = ("diverged", "timeout", "oom", "error")  # "killed" is always tried again


@dataclass(frozen=True)
class Options:
    """How jobs are performed; nothing here changes a number (without `curve` there are fewer)."""

    force: bool = False  # run again what is finished
    threads: int = 1  # of torch and BLAS, a run
    jobs: int | None = None  # runs at once; None: 1 on the CPU, one a slot on GPUs
    gpus: tuple[int, ...] = ()  # the slots of a device "cuda"; none: one for each that is visible
    timeout: float | None = None  # seconds of wall time of a run
    memory: float | None = None  # GiB of a run
    retry: frozenset[str] = frozenset()  # statuses that are tried again
    isolate: bool = True  # each run in a process of its own
    curve: bool = True  # where only the limit counts: judge about 20 laws on the way, not the last alone
    judge: tuple[str, ...] = ()  # the metrics that judge alone, at each law; none: all of the task

    def __post_init__(self) -> None:
        wrong = sorted(self.retry - {*RETRY, "killed"})
        require(not wrong, f"--retry {','.join(wrong)}", f"some of {', '.join(RETRY)}", "write --retry error,oom")
        good = self.timeout is None or 0 < self.timeout < float("inf")
        require(good, f"--timeout {self.timeout}", "a positive number of seconds", "leave --timeout out for no limit")
        good = self.memory is None or SMALLEST <= self.memory <= LARGEST
        require(
            good, f"--memory {self.memory}", f"a number of GiB from {SMALLEST:g} to {LARGEST:g}",
            "leave --memory out for no limit",
        )  # fmt: skip
        good = self.jobs is None or 1 <= self.jobs <= MOST
        require(good, f"--jobs {self.jobs}", f"a number from 1 to {MOST}", "write --jobs 4")
        good = 1 <= self.threads <= MOST
        require(good, f"--threads {self.threads}", f"a number from 1 to {MOST}", "write --threads 4")
        asked = [f"--{name}" for name in ("timeout", "memory") if getattr(self, name) is not None]
        asked += ["--jobs"] * ((self.jobs or 1) > 1)
        require(
            self.isolate or not asked, f"--no-isolate with {', '.join(asked)}",
            "one of them: only a process can be stopped from outside, or run next to others", "leave one of them out",
        )  # fmt: skip


def slots(jobs: Sequence[Job], options: Options) -> dict[str, list[str]]:
    """Devices that may be occupied at once, for each device that the jobs name."""
    found = {}
    for device in dict.fromkeys(job.device for job in jobs):
        if device.partition(":")[0] == "cpu":
            found[device] = [device] * (options.jobs or 1)
        elif device == "cuda":
            visible = options.gpus or tuple(range(torch.cuda.device_count()))
            wrong = [number for number in visible if not 0 <= number < torch.cuda.device_count()]
            require(
                not wrong, f"--gpus {','.join(map(str, wrong))}", f"numbers below {torch.cuda.device_count()}",
                "leave it out for all that are visible",
            )  # fmt: skip
            found[device] = [f"cuda:{number}" for number in visible]
        else:
            found[device] = [device]
    unused = bool(options.gpus) and "cuda" not in found
    require(not unused, "--gpus", "with --device cuda", "write --device cuda, or leave --gpus out")
    return found


def require_files(jobs: Sequence[Job], options: Options, slots: dict[str, list[str]]) -> None:
    """Raise `UserError` if so many runs at once need more open files than this process may have."""
    seeds = max((len(job.seeds) for job in jobs), default=1)
    count = min(sum(map(len, slots.values())), options.jobs or len(jobs), sum(len(job.seeds) for job in jobs))
    need = 24 + count * (FILES + min(seeds, BATCH))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fits = limit == resource.RLIM_INFINITY or need <= limit or not options.isolate
    require(
        fits, f"{count} runs at once, and at most {limit} open files", f"about {need} open files (see `ulimit -n`)",
        f"ulimit -n {need}, or a smaller --jobs",
    )  # fmt: skip


def require_metrics(jobs: Sequence[Job], names: Sequence[str]) -> None:
    """Raise `UserError` unless each task of the jobs knows metrics of these names; built for its own ones only."""
    for task in dict.fromkeys(job.task for job in jobs) if names else ():
        known = set(known_metrics())
        if not known.issuperset(names):
            known |= {metric.name for metric in task.build(Streams((0,))).truth.metrics}
        for name in names:
            if name not in known:
                raise unknown(f"metric of {spec(task)}", name, known, see="python -m gwfbench list --metrics")


def limits(options: Options) -> Limits:
    """What each process is held to."""
    return Limits(options.threads, options.timeout, int(options.memory * 2**30) if options.memory else None)
