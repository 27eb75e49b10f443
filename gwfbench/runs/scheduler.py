"""Which run runs when: skips what is finished, claims the rest, runs some at once, and takes every end down."""

from __future__ import annotations

import contextlib
import math
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gwfbench.budget import Budget, BudgetSpent
from gwfbench.drive.execute import Setting, begin
from gwfbench.drive.job import Job
from gwfbench.drive.judge import ANYTIME, reason_of
from gwfbench.errors import UserError
from gwfbench.process.inline import Here
from gwfbench.process.pool import End, Pool
from gwfbench.runs.events import Event, Kind, Listener
from gwfbench.runs.options import BATCH, Options, limits, require_files, require_metrics, slots
from gwfbench.runs.pace import Pace, Runs
from gwfbench.store import environment, folders
from gwfbench.store.locks import Claim, claim, holder
from gwfbench.store.record import Run, took

AGAIN = 0.5  # seconds between two looks at a run that runs elsewhere


def perform(
    jobs: Sequence[Job], out: Path | None, tell: Listener, options: Options,
    expected: Mapping[Runs, float] | None = None,
) -> Iterator[list[Run]]:  # fmt: skip
    """Execute what is not finished under `out`; each job's runs as soon as they are there, old or new.

    A run is finished when `answer` finds an attempt at it, and that one did not end in one of `options.retry`. One that
    another living process has claimed is waited for: its rows are then read, and if that process dies it is run here.
    So two equal commands at once share the work, and both end with all of it. Jobs come in the order in which they end.

    Args:
        expected: seconds of a run by task and method, as rows name them, for the time that is left.

    Raises:
        KeyboardInterrupt: after the interrupted runs were kept; on SIGTERM too.
        UserError: `out` can't be written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sigterm_interrupts())
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gwfbench-")))
        yield from _Schedule(tuple(jobs), folder, tell, options, Pace(expected or {})).go()


def finished(run: Run, job: Job, curve: bool = False, judge: Sequence[str] = ()) -> bool:
    """Whether an attempt at a run of this job, by the code as it is now, need not be repeated.

    It must be what the job would give: ended by itself, as it would have ended within the job's budget.

    Args:
        curve: whether the laws of `judge.ANYTIME` are asked for too.
        judge: the metrics that are asked for, at each law; none: all of the task, where each says.
    """
    if not judged_by(run, judge):
        return False
    if run.identity.seed not in job.seeds or run.identity != job.identity(run.identity.seed):
        return False
    if run.status == "killed" or not run.began or run.code != job.code() or (curve and not has_curve(run)):
        return False
    return _ends_the_same(run, job.budget)


def answer(attempts: Sequence[Run], job: Job, curve: bool = False, judge: Sequence[str] = ()) -> Run | None:
    """The newest attempt that answers this job: `finished`, and the same job was not begun again after it.

    Args:
        attempts: at one run, the newest last.
    """
    for run in reversed(attempts):
        if finished(run, job, curve, judge):
            return run
        same = run.code == job.code() and run.judge == tuple(judge) and Budget.of(run.budget) == job.budget
        if run.status == "killed" and same:
            return None
    return None


def has_curve(run: Run) -> bool:
    """Whether what `--no-curve` leaves out was judged, as far as the run had gone."""
    judged = {row.step for row in run.rows if row.t is None}
    return not judged or all(step in judged for step in ANYTIME if step < max(judged))


def judged_by(run: Run, asked: Sequence[str]) -> bool:
    """Whether a run was judged by all that is asked for: one of `--judge` is no whole one, and may have what another
    asks for; a whole one has all, but some metrics at its last law alone."""
    if run.judge or not asked:
        return set(asked) <= set(run.judge) and bool(asked) == bool(run.judge)
    laws = {row.step for row in run.rows}
    return all({row.step for row in run.rows if row.metric == name} in (set(), laws) for name in asked)


def _ends_the_same(run: Run, asked: Budget) -> bool:
    """Whether the run would have ended as it has if its budget had been the one asked for."""
    if run.status == "skipped" or Budget.of(run.budget) == asked:
        return True
    limits = asked.limits()
    if run.status in ("budget", "timeout"):
        by = next((name for name, limit in run.budget.items() if str(BudgetSpent(name, limit)) == run.reason), "")
        if run.status == "timeout" and by and limits.get(by, math.inf) <= run.budget[by]:
            return True  # no law within the larger budget: none within a smaller one
        if not by or limits.pop(by, None) != run.budget[by]:
            return False
    # a limit that its own budget had held it to, or that it did not need
    return all(run.budget.get(name, math.inf) <= limit or _within(run, name, limit) for name, limit in limits.items())


def _within(run: Run, name: str, limit: float) -> bool:
    """Whether it is known of a run that it ended by itself before it had used up this limit."""
    last = run.rows[-1] if run.rows else None
    if run.status != "ok" or last is None or last.step != run.steps:
        return False
    if name == "seconds":
        return run.seconds < limit
    if name == "steps":  # all of them end a run where only the limit counts, but not a flow at its end
        return run.steps < limit or (last.t is not None and run.steps == limit)
    return getattr(last, name) <= limit


@dataclass
class _Part:
    """Seeds of a job that run together."""

    number: int  # of the job
    job: Job  # with these seeds
    claims: tuple[Claim, ...] = ()
    known: frozenset[str] = frozenset()  # attempts that were there before
    slot: str = ""  # the device that it occupies
    share: float = 0.0  # done
    began: float = 0.0  # by the clock


class _Schedule:
    """The jobs of one call, and how far they are."""

    def __init__(self, jobs: tuple[Job, ...], out: Path, tell: Listener, options: Options, pace: Pace):
        self.jobs, self.options, self._typed = jobs, options, out
        with _writing(out):
            folders.require_folder(out)
            self.out = out.absolute()  # once: a method in this process may go elsewhere
        self._listener, self._pace = tell, pace
        whose = [job.identity(job.seeds[0]) for job in jobs]
        self._kinds = [(who.task, who.method) for who in whose]
        self.slots = slots(jobs, options)
        require_files(jobs, options, self.slots)
        require_metrics(jobs, options.judge)
        self.env = ""
        self._done: list[dict[int, Run]] = [{} for _ in jobs]  # seed -> run
        self._ready: list[int] = []  # jobs that are done and not yet handed out
        self._old: set[str] = set()  # attempts that were there at the start
        self._waiting: deque[_Part] = deque()
        self._running: dict[int, _Part] = {}
        self._active: list[_Part] = []  # the same, and the one that begins
        self._held: list[Claim] = []
        self._told: set[str] = set()  # runs of which it was said that they run elsewhere

    def go(self) -> Iterator[list[Run]]:
        self._look()
        yield from self._hand_out()
        if not self._waiting:
            return
        with _writing(self._typed):
            folders.probe(self.out)
            facts = environment.environment(self.jobs[0].device, self.options.threads)
            folders.save_environment(self.out, facts)
        self.env = environment.env_hash(facts)
        engine = Pool(limits(self.options)) if self.options.isolate else Here(self.options.threads)
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
            for held in tuple(self._held):  # an interrupt may have come between a claim and its run
                self._release(held)
            engine.close()

    def _look(self) -> None:
        """What is there already, and what is to be done."""
        if not self.jobs:
            return
        with _writing(self._typed):
            old, said = folders.sweep(self.out)
        for text in said:
            self._tell("folder", text, self.jobs[0])
        self._old = {run.attempt for run in old}
        attempts: dict[str, list[Run]] = {}
        for run in old:
            attempts.setdefault(run.identity.key, []).append(run)
        for number, job in enumerate(self.jobs):
            at_hand = {seed: attempts.get(job.identity(seed).key, []) for seed in job.seeds}
            missing = [seed for seed in job.seeds if not self._take(number, seed, at_hand[seed], "finished before")]
            stale = any(run.code != job.code() for seed in missing for run in at_hand[seed])
            if stale and not self.options.force:
                self._tell("stale", "stale: the code has changed since it last ran", job)
            for first in range(0, len(missing), BATCH):
                seeds = tuple(missing[first : first + BATCH])
                self._waiting.append(_Part(number, replace(job, seeds=seeds)))

    def _take(self, number: int, seed: int, attempts: list[Run], what: str) -> bool:
        """Whether one of the attempts settles this run; it is taken down then."""
        job = self.jobs[number]
        run = answer(attempts, job, self.options.curve, self.options.judge)
        again = run and run.attempt in self._old and (self.options.force or run.status in self.options.retry)
        if run is None or again:
            return False
        self._settle(number, run, what, job)
        return True

    def _settle(self, number: int, run: Run, what: str, job: Job) -> None:
        self._done[number][run.identity.seed] = run
        if len(self._done[number]) == len(self.jobs[number].seeds):
            self._ready.append(number)
        self._tell("end", what, job, run)

    def _hand_out(self) -> Iterator[list[Run]]:
        while self._ready:
            number = self._ready.pop(0)
            yield [self._done[number][seed] for seed in self.jobs[number].seeds]

    def _tell(self, kind: Kind, text: str, job: Job, run: Run | None = None) -> None:
        self._listener(Event(kind, text, job, run, self._share(), self._left()))

    def _share(self) -> float:
        done = sum(map(len, self._done)) + sum(p.share * len(p.job.seeds) for p in self._active)
        return done / sum(len(job.seeds) for job in self.jobs)

    def _left(self) -> float:
        at_once = self.options.jobs or sum(map(len, self.slots.values())) + len(self._active)
        parts = [*self._waiting, *self._active]
        if not parts and self._share() < 1:  # nobody has looked yet what there is to do
            return math.nan
        return self._pace.left(((self._kinds[p.number], p.share) for p in parts for _ in p.job.seeds), at_once)

    def _start(self, engine: Pool | Here) -> None:
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
                ours.slot, ours.began = slots.pop(0), time.monotonic()
                self._active.append(ours)
                self._tell("start", "starts", ours.job)

                def progress(
                    t: float, last: float | None, seconds: tuple[float, float, float], part: _Part = ours
                ) -> None:  # fmt: skip
                    share = t / last if last else 0.0
                    part.share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
                    self._tell("progress", f"t = {t:.4g}, {took(*seconds)}", part.job)

                placed = replace(ours.job, device=ours.slot)
                files = [held.descriptor for held in ours.claims]
                how = self.options
                setting = Setting(self.env, self.out, anew=how.force, curve=how.curve, judge=how.judge)
                self._running[engine.start(placed, setting, files, progress)] = ours
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
                self._held.append(held)
                for folder in folders.partials(self.out, key):  # of a process that has died since we looked
                    self._tell("folder", folders.close_dead(folder), part.job)
                attempts = folders.of_key(self.out, key)
            except OSError as error:
                self._fail(part, seed, error)
                continue
            if self._take(part.number, seed, attempts, "finished elsewhere"):
                self._release(held)
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
                self._tell("elsewhere", f"runs elsewhere ({holder(self.out, key)}): waits for it", waits.job)
        if not seeds:
            return None
        return _Part(part.number, replace(part.job, seeds=tuple(seeds)), tuple(claims), frozenset(known))

    def _release(self, held: Claim) -> None:
        if held in self._held:
            self._held.remove(held)
            held.release()

    def _close(self, part: _Part, end: End) -> None:
        """Take down how each seed ended: as its process has closed it, or else as its process ended."""
        self.slots[part.job.device].append(part.slot)
        self._active.remove(part)
        each = (time.monotonic() - part.began) / len(part.job.seeds)
        for seed, held in zip(part.job.seeds, part.claims, strict=True):
            alone = replace(part.job, seeds=(seed,))
            key = alone.identity(seed).key
            try:
                fresh = [run for run in folders.of_key(self.out, key) if run.attempt not in part.known]
                run = fresh[-1] if fresh else self._close_for(alone, key, len(part.job.seeds), end)
                self._release(held)
                self._pace.ended(self._kinds[part.number], each)
                left = f" ({end.left} that it had left running: ended too)" if end.left else ""
                self._settle(part.number, run, f"ended{left}", alone)
            except OSError as error:
                self._release(held)
                reason = end.reason if error.strerror and error.strerror in end.reason else f"{end.reason}; {error}"
                self._fail(part, seed, error, replace(end, reason=f"{reason}; it can't be kept"))

    def _close_for(self, alone: Job, key: str, batch: int, end: End) -> Run:
        """Close an attempt whose process could not."""
        for folder in folders.partials(self.out, key):
            try:
                return folders.close(folder, end.status, end.reason, end.log)
            except ValueError as error:
                self._tell("folder", folders.set_aside(folder, str(error)), alone)
        (run,) = begin(alone, self.env, self.out, self.options.judge)
        run.status, run.reason, run.batch = end.status, end.reason, batch
        folders.Attempt(self.out, run).finish(run, end.log)
        return run

    def _fail(self, part: _Part, seed: int, error: OSError, end: End | None = None) -> None:
        """A row for a run that the disk does not take; it is not on the disk, so the same command runs it again."""
        alone = replace(part.job, seeds=(seed,))
        (run,) = begin(alone, self.env, None, self.options.judge)
        run.status, run.reason = (end.status, end.reason) if end else ("error", reason_of(error))
        self._settle(part.number, run, "ended", alone)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {out}: {error.strerror}", "a folder that can be written", "name another folder"
        ) from None


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
