"""Which run runs when: skips what is finished, claims the rest, runs some at once, and takes every end down."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from gwfbench import provenance, store
from gwfbench.budget import Budget
from gwfbench.claims import Claim, claim, holder
from gwfbench.errors import UserError, require
from gwfbench.isolate import End, Limits, Pool
from gwfbench.job import Job
from gwfbench.log import Log
from gwfbench.record import Run, Status
from gwfbench.runner import begin, execute, reason_of

Event = Callable[[str, Job, Run | None, float], None]  # what, job, its run, share done

RETRY = ("diverged", "timeout", "oom", "error")  # "killed" is always tried again
BATCH = 200  # seeds a process: so many claims go with one message to the fork server
AGAIN = 0.5  # seconds between two looks at a run that runs elsewhere


@dataclass(frozen=True)
class Options:
    """How jobs are performed; nothing here changes a number."""

    force: bool = False  # run again what is finished
    threads: int = 1  # of torch and BLAS, a run
    jobs: int | None = None  # runs at once; None: 1 on the CPU, one a slot on GPUs
    gpus: tuple[int, ...] = ()  # the slots of a device "cuda"; none: one for each that is visible
    timeout: float | None = None  # seconds of wall time of a run
    memory: float | None = None  # GiB of a run
    retry: frozenset[str] = frozenset()  # statuses that are tried again
    isolate: bool = True  # each run in a process of its own

    def __post_init__(self) -> None:
        wrong = sorted(self.retry - {*RETRY, "killed"})
        require(not wrong, f"--retry {','.join(wrong)}", f"some of {', '.join(RETRY)}", "write --retry error,oom")
        for name, value in (("timeout", self.timeout), ("memory", self.memory)):
            good = value is None or 0 < value < float("inf")
            require(good, f"--{name} {value}", "a positive number", f"leave --{name} out for no limit")
        require(self.jobs is None or self.jobs >= 1, f"--jobs {self.jobs}", "at least 1", "write --jobs 4")
        asked = [f"--{name}" for name in ("timeout", "memory") if getattr(self, name) is not None]
        asked += ["--jobs"] * ((self.jobs or 1) > 1)
        require(
            self.isolate or not asked, f"--no-isolate with {', '.join(asked)}",
            "neither: only a process can be stopped from outside, or stand beside others", "leave one of them out",
        )  # fmt: skip


def perform(jobs: Sequence[Job], out: Path | None, event: Event, options: Options) -> Iterator[list[Run]]:
    """Execute what is not finished under `out`; each job's runs as soon as they are there, old or new.

    A run is finished when its newest attempt by the code as it is now ended in any way but a kill or one of
    `options.retry`, and not by a budget smaller than today's. One that another living process has claimed is waited
    for: its rows are then read, and if that process dies it is run here. So two equal commands at once share the work,
    and both end with all of it. Jobs come in the order in which they end.

    Raises:
        KeyboardInterrupt: after the interrupted runs were kept; on SIGTERM too.
        UserError: `out` can't be written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sigterm_interrupts())
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gwfbench-")))
        yield from _Schedule(tuple(jobs), folder, event, options).go()


def finished(run: Run, job: Job) -> bool:
    """Whether an attempt at a run of this job, by the code as it is now, need not be repeated."""
    if run.identity.seed not in job.seeds or run.identity != job.identity(run.identity.seed):
        return False
    if run.status == "killed" or run.code != job.code():
        return False
    cut = run.status in ("budget", "timeout")
    return not cut or Budget.of(run.budget).covers(job.budget)


@dataclass
class _Part:
    """Seeds of a job that run together."""

    number: int  # of the job
    job: Job  # with these seeds
    claims: tuple[Claim, ...] = ()
    known: frozenset[str] = frozenset()  # attempts that were there before
    slot: str = ""  # the device that it occupies
    share: float = 0.0  # done


class _Schedule:
    """The jobs of one call, and how far they are."""

    def __init__(self, jobs: tuple[Job, ...], out: Path, event: Event, options: Options):
        self.jobs, self.out, self.event, self.options = jobs, out, event, options
        self.slots = _slots(jobs, options)
        self.env = ""
        self._done: list[dict[int, Run]] = [{} for _ in jobs]  # seed -> run
        self._ready: list[int] = []  # jobs that are done and not yet handed out
        self._old: set[str] = set()  # attempts that were there at the start
        self._waiting: deque[_Part] = deque()
        self._running: dict[int, _Part] = {}
        self._told: set[str] = set()  # runs of which it was said that they run elsewhere

    def go(self) -> Iterator[list[Run]]:
        self._look()
        yield from self._hand_out()
        if not self._waiting:
            return
        with _writing(self.out):
            store.probe(self.out)
            facts = provenance.environment(self.jobs[0].device, self.options.threads)
            store.save_environment(self.out, facts)
        self.env = provenance.env_hash(facts)
        engine = Pool(_limits(self.options)) if self.options.isolate else _Here(self.options.threads)
        try:
            while self._waiting or self._running:
                self._start(engine)
                yield from self._hand_out()
                if not (self._waiting or self._running):  # the last ones had been finished elsewhere
                    break
                for tag, end in engine.wait(AGAIN if self._waiting else None):
                    self._close(self._running.pop(tag), end)
                yield from self._hand_out()
        finally:
            for tag, end in engine.stop("killed", "interrupted"):
                if tag in self._running:
                    self._close(self._running.pop(tag), end)
            engine.close()

    def _look(self) -> None:
        """What is there already, and what is to be done."""
        if not self.jobs:
            return
        with _writing(self.out):
            old, said = store.sweep(self.out)
        for text in said:
            self.event(text, self.jobs[0], None, 0.0)
        self._old = {run.attempt for run in old}
        attempts: dict[str, list[Run]] = {}
        for run in old:
            attempts.setdefault(run.identity.key, []).append(run)
        for number, job in enumerate(self.jobs):
            at_hand = {seed: attempts.get(job.identity(seed).key, []) for seed in job.seeds}
            missing = [seed for seed in job.seeds if not self._take(number, seed, at_hand[seed], "finished before")]
            stale = any(run.code != job.code() for seed in missing for run in at_hand[seed])
            if stale and not self.options.force:
                self.event("stale: the code has changed since it last ran", job, None, self._share())
            for first in range(0, len(missing), BATCH):
                seeds = tuple(missing[first : first + BATCH])
                self._waiting.append(_Part(number, replace(job, seeds=seeds)))

    def _take(self, number: int, seed: int, attempts: list[Run], what: str) -> bool:
        """Whether the newest attempt by today's code settles this run; it is taken down then."""
        job = self.jobs[number]
        newest = [run for run in attempts if run.code == job.code()][-1:]
        for run in newest:
            again = run.attempt in self._old and (self.options.force or run.status in self.options.retry)
            if finished(run, job) and not again:
                self._settle(number, run, what, job)
                return True
        return False

    def _settle(self, number: int, run: Run, what: str, job: Job) -> None:
        self._done[number][run.identity.seed] = run
        if len(self._done[number]) == len(self.jobs[number].seeds):
            self._ready.append(number)
        self.event(what, job, run, self._share())

    def _hand_out(self) -> Iterator[list[Run]]:
        while self._ready:
            number = self._ready.pop(0)
            yield [self._done[number][seed] for seed in self.jobs[number].seeds]

    def _share(self) -> float:
        done = sum(map(len, self._done)) + sum(p.share * len(p.job.seeds) for p in self._running.values())
        return done / sum(len(job.seeds) for job in self.jobs)

    def _start(self, engine: Pool | _Here) -> None:
        """Start what there are slots for."""
        for _ in range(len(self._waiting)):
            if len(self._running) >= (self.options.jobs or len(self.jobs)):
                return
            part = self._waiting.popleft()
            slots = self.slots[part.job.device]
            ours = self._claim(part) if slots else None
            if not slots:
                self._waiting.append(part)
            elif ours is not None:
                ours.slot = slots.pop(0)
                self.event("starts", ours.job, None, self._share())

                def progress(t: float, last: float | None, part: _Part = ours) -> None:
                    part.share = min(t / last, 1.0) if last else 0.0
                    self.event(f"t = {t:.4g}", part.job, None, self._share())

                placed = replace(ours.job, device=ours.slot)
                files = [held.descriptor for held in ours.claims]
                self._running[engine.start(placed, self.env, self.out, files, progress)] = ours
                if not self.options.isolate:
                    return  # it has run: its end comes first

    def _claim(self, part: _Part) -> _Part | None:
        """The seeds of the part that are ours to run now; those that run elsewhere wait on."""
        claims: list[Claim] = []
        known: set[str] = set()
        seeds, elsewhere = [], []
        for seed in part.job.seeds:
            key = part.job.identity(seed).key
            try:
                held = claim(self.out, key)
                if held is None:
                    elsewhere.append(seed)
                    continue
                for folder in store.partials(self.out, key):  # of a process that has died since we looked
                    self.event(store.close_dead(folder), part.job, None, self._share())
                attempts = store.of_key(self.out, key)
            except OSError as error:
                self._fail(part, seed, error)
                continue
            if self._take(part.number, seed, attempts, "finished elsewhere"):
                held.release()
                continue
            claims.append(held)
            seeds.append(seed)
            known |= {run.attempt for run in attempts}
        if elsewhere:
            waits = replace(part, job=replace(part.job, seeds=tuple(elsewhere)))
            self._waiting.append(waits)
            key = part.job.identity(elsewhere[0]).key
            if key not in self._told:
                self._told.add(key)
                self.event(f"runs elsewhere ({holder(self.out, key)}): waits for it", waits.job, None, self._share())
        if not seeds:
            return None
        return _Part(part.number, replace(part.job, seeds=tuple(seeds)), tuple(claims), frozenset(known))

    def _close(self, part: _Part, end: End) -> None:
        """Take down how each seed ended: as its process has closed it, or else as its process ended."""
        self.slots[part.job.device].append(part.slot)
        part.share = 0.0
        for seed, held in zip(part.job.seeds, part.claims, strict=True):
            alone = replace(part.job, seeds=(seed,))
            key = alone.identity(seed).key
            try:
                fresh = [run for run in store.of_key(self.out, key) if run.attempt not in part.known]
                run = fresh[-1] if fresh else self._close_for(alone, key, len(part.job.seeds), end)
                held.release()
                self._settle(part.number, run, "ended", alone)
            except OSError as error:
                held.release()
                reason = end.reason if error.strerror and error.strerror in end.reason else f"{end.reason}; {error}"
                self._fail(part, seed, error, replace(end, reason=f"{reason}; it can't be kept"))

    def _close_for(self, alone: Job, key: str, batch: int, end: End) -> Run:
        """Close an attempt whose process could not."""
        for folder in store.partials(self.out, key):
            try:
                return store.close(folder, end.status, end.reason, end.log)
            except ValueError as error:
                self.event(store.set_aside(folder, str(error)), alone, None, self._share())
        (run,) = begin(alone, self.env, self.out)
        run.status, run.reason, run.batch = end.status, end.reason, batch
        store.Attempt(self.out, run).finish(run, end.log)
        return run

    def _fail(self, part: _Part, seed: int, error: OSError, end: End | None = None) -> None:
        """A row for a run that the disk does not take; it is not on the disk, so the same command runs it again."""
        alone = replace(part.job, seeds=(seed,))
        (run,) = begin(alone, self.env, None)
        run.status, run.reason = (end.status, end.reason) if end else ("error", reason_of(error))
        self._settle(part.number, run, "ended", alone)


class _Here:
    """Runs in this process, one after the other: for a debugger."""

    def __init__(self, threads: int):
        self._threads, self._ended, self._count, self._interrupted = threads, list[tuple[int, End]](), 0, False

    def start(
        self, job: Job, env: str, out: Path, claims: Sequence[int], progress: Callable[[float, float | None], None]
    ) -> int:
        log, end = Log(), End("error", "it was not closed", "")
        try:
            with _threads(self._threads):
                execute(job, env, out, lambda steps, t, last: progress(t, last if last < float("inf") else None), log)
        except OSError as error:
            end = End("error", reason_of(error), log.getvalue())
        except KeyboardInterrupt:
            self._interrupted, end = True, End("killed", "interrupted", log.getvalue())
        self._count += 1
        self._ended.append((self._count, end))
        return self._count

    def wait(self, seconds: float | None = None) -> list[tuple[int, End]]:
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        if not self._ended:
            time.sleep(seconds or 0.0)
        ended, self._ended = self._ended, []
        return ended

    def stop(self, status: Status, reason: str) -> list[tuple[int, End]]:
        return self._ended

    def close(self) -> None:
        """Nothing is kept."""


def _slots(jobs: Sequence[Job], options: Options) -> dict[str, list[str]]:
    """Devices that may be occupied at once, for each device that the jobs name."""
    slots = {}
    for device in dict.fromkeys(job.device for job in jobs):
        if device.partition(":")[0] == "cpu":
            slots[device] = [device] * (options.jobs or 1)
        elif device == "cuda":
            visible = options.gpus or tuple(range(torch.cuda.device_count()))
            wrong = [number for number in visible if not 0 <= number < torch.cuda.device_count()]
            require(
                not wrong, f"--gpus {','.join(map(str, wrong))}", f"numbers below {torch.cuda.device_count()}",
                "leave it out for all that are visible",
            )  # fmt: skip
            slots[device] = [f"cuda:{number}" for number in visible]
        else:
            slots[device] = [device]
    unused = bool(options.gpus) and "cuda" not in slots
    require(not unused, "--gpus", "with --device cuda", "write --device cuda, or leave --gpus out")
    return slots


def _limits(options: Options) -> Limits:
    return Limits(options.threads, options.timeout, int(options.memory * 2**30) if options.memory else None)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {out}: {error.strerror}", "a folder that can be written", "name another folder"
        ) from None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, a cluster's word for "stop", does what Ctrl-C does; outside the main thread it stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
