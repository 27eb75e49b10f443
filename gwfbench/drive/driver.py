"""Drives one contestant on one task: times it, moves or draws the points of each law that it yields, and keeps them.

    for each law that the method yields (its clock runs only then):
        move or draw the judged points        drive/points.py
        judge them, if it is time             drive/judge.py
        keep a checkpoint, if it is due       drive/checkpoint.py
        stop when the budget is spent         drive/meter.py

A run that is stopped from outside (SIGTERM, Ctrl-C, a deadline) continues from its newest checkpoint: at the yield
where the signal found it, or, if the method was at work, at most `checkpoint.EVERY` seconds and one law before.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from gwfbench.budget import BudgetSpent
from gwfbench.drive import checkpoint, points, shapes
from gwfbench.drive.checkpoint import Checkpoint, Keeper
from gwfbench.drive.controls import Control, NoTruth
from gwfbench.drive.job import Job
from gwfbench.drive.judge import ANYTIME, Judge, Seen, judged_index, reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.meter import Meter, counted
from gwfbench.drive.points import BadLaw, Cloud
from gwfbench.drive.signals import Stopped, Stops
from gwfbench.plugins.registry import name_of
from gwfbench.protocol import Drawn, I, Instance, Marginal, Problem, Pushed, Resumable
from gwfbench.rng import Streams
from gwfbench.store import folders
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Run, Status

Progress = Callable[[int, float, float], None]  # laws so far, flow time, last judged time


@dataclass(frozen=True)
class Setting:
    """Where and how a job runs; no number depends on it.

    Args:
        env: hash of the environment.
        out: folder of the attempts, where a stopped one is found to continue from; None: nothing is written.
        anew: start from the beginning, whatever checkpoint there is.
        curve: judge the laws of `judge.ANYTIME` too where only the limit counts, not the last alone.
    """

    env: str
    out: Path | None = None
    anew: bool = False
    curve: bool = True


def begin(job: Job, env: str, out: Path | None) -> list[Run]:
    """One run per seed, numbered after the attempts under `out`; nothing is written."""
    who = job.contestant
    needs = () if isinstance(who, Control) else tuple(sorted(need.__name__ for need in who.needs))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    code, budget = job.code(), job.budget.limits()
    runs = []
    for seed in job.seeds:
        identity = job.identity(seed)
        number = 1 + max((run.number for run in folders.of_key(out, identity.key)), default=0) if out else 1
        runs.append(Run(identity, needs, code, env, now, budget, batch=len(job.seeds), number=number))
    return runs


def interrupted() -> tuple[Status, str]:
    return "killed", "interrupted"


def execute(
    job: Job,
    setting: Setting,
    progress: Progress,
    log: Log | None = None,
    why_stopped: Callable[[], tuple[Status, str]] = interrupted,
) -> list[Run]:
    """Run the job to its end, whatever that is; every seed gets its run, with a status and a reason.

    Args:
        log: takes what the method prints and what the driver has to say.
        why_stopped: asked after an interrupt for the status and the reason that the runs get.

    Raises:
        KeyboardInterrupt: after the runs were kept; on SIGTERM too.
        OSError: they can't be kept.
    """
    asked, out, log = job.seeds, setting.out, log or Log()
    runs = begin(job, setting.env, out)
    saved = None
    if out and not setting.anew and isinstance(job.contestant, Resumable):
        saved = checkpoint.find(out, runs, torch.device(job.device), log)
    if saved is not None and saved.seeds != asked:  # seeds that have ended ride along: the state has them all
        job = replace(job, seeds=saved.seeds)
        runs = begin(job, setting.env, out)
    files = [Attempt(out, run) if out and run.identity.seed in asked else None for run in runs]
    stop = None
    with Stops() as stops, contextlib.redirect_stdout(log):  # a method that prints must not break --format json
        drive = _Drive(job, runs, files, log, stops, setting.curve)
        try:
            _to_an_end(drive, saved, progress)
        except KeyboardInterrupt as error:
            stop = error
        with stops.held():
            if stop is not None:
                drive.save_at_the_end()
                drive.end(*(("killed", str(stop)) if isinstance(stop, Stopped) else why_stopped()))
            for run, file in zip(runs, files, strict=True):
                _close(drive, run, file, resumed=saved is not None)
    if stop is not None:
        raise KeyboardInterrupt(*stop.args)
    return [run for run in runs if run.identity.seed in asked]


def _to_an_end(drive: _Drive, saved: Checkpoint | None, progress: Progress) -> None:
    """Every end but an interrupt becomes the runs' status and reason."""
    spent = ""
    try:
        try:
            drive.to_the_end(saved, progress)
        except BudgetSpent as error:
            spent = str(error)
        drive.judge_last()
        if spent:
            drive.end("budget" if drive.steps else "timeout", spent)
    except NoTruth as error:
        drive.end("skipped", str(error))
    except (Exception, SystemExit) as error:
        with contextlib.suppress(Exception):
            traceback.print_exc(file=drive.log)
        if is_out_of_memory(error):
            drive.end("oom", reason_of(error))
            return
        with contextlib.suppress(Exception):
            drive.judge_last()
        drive.end("error", str(error) if isinstance(error, BadLaw) else reason_of(error))


def _close(drive: _Drive, run: Run, file: Attempt | None, resumed: bool) -> None:
    """Fill in what the run has cost, and move its folder into place."""
    run.seconds, run.steps = drive.meter.seconds, drive.steps
    run.information = tuple(sorted({*run.information, *drive.asked}))
    if file is None:
        return
    ended = run.status not in checkpoint.RESUMED
    if ended:
        file.checkpoint.unlink(missing_ok=True)
    file.finish(run, drive.log.getvalue())
    if ended and resumed:
        checkpoint.remove_all(file.out, run)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch has no class of its own for that on the CPU."""
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in "".join(map(str, error.args)):
        return True
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


@dataclass(frozen=True)
class _Watched(Problem):
    """A problem that notes what is asked of it: a method may do with less than the task offers."""

    asked: set[str] = field(default_factory=set)

    def __getitem__(self, info: type[I]) -> I:
        found = super().__getitem__(info)
        self.asked.add(type(found).__name__)
        return found


@dataclass
class _Last:
    """The last law: first not drawn or seen, then judged.

    Args:
        law: as yielded; None once the method has gone on, for it is valid no more.
        draw: draws its points, if they are drawn only where it is judged.
        seen: its points, until they are judged; None if it is at no judged time.
    """

    law: Marginal | None = None
    draw: Callable[[], Seen | None] | None = None
    seen: Seen | None = None


class _Drive:
    """One generator between its yields."""

    def __init__(
        self, job: Job, runs: list[Run], files: list[Attempt | None], log: Log, stops: Stops, curve: bool
    ):  # fmt: skip
        self.job, self.runs, self.log = job, runs, log
        self.meter = Meter(torch.device(job.device), job.budget)
        self.asked: set[str] = set()  # names of the infos that the method has used
        self._curve = ANYTIME if curve else frozenset()
        self._stops = stops
        self._keeper = Keeper(files, stops, log, resumable=isinstance(job.contestant, Resumable))
        self._path = [0.0]  # flow times yielded
        self._cloud = Cloud()
        self._last = _Last()
        self._judge: Judge | None = None  # None until the task is built

    @property
    def steps(self) -> int:
        """Number of laws yielded."""
        return len(self._path) - 1

    def end(self, status: Status, reason: str) -> None:
        """Close the runs that are still going."""
        for run in self.runs:
            if run.status == "ok":
                run.status, run.reason = status, reason

    def to_the_end(self, saved: Checkpoint | None, progress: Progress) -> None:
        """Drive the method until it ends or all runs have failed; the last law may be left to `judge_last`.

        Raises:
            BudgetSpent: before that.
            BadLaw: it yields what the contract does not allow.
        """
        job = self.job
        if saved is not None:
            self._restore(saved)
        streams = Streams(job.seeds, self.meter.device, job.dtype)
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
        problem, eval_streams = instance.problem, streams.fork("eval")
        self._judge = Judge(job, instance, eval_streams, self.log)
        last = problem.times[-1]
        limit = job.contestant.clock == "none" or math.isinf(last)
        if saved is not None and self._settled(limit, last):
            return
        for law in self._laws(instance, streams.fork("method"), saved and saved.state):
            with self._stops.held(), torch.no_grad():  # the cloud and its step, or neither
                self._take(law, problem, limit, eval_streams)
            if self._keeper.due():
                self._save()
            if self._settled(limit, last):
                return
            progress(self.steps, law.t, last)
        if not self.steps:
            raise BadLaw("it ended without yielding a law")
        if job.contestant.clock != "none" and math.isfinite(last) and self._path[-1] < last * (1 - 1e-6):
            raise BadLaw(f"it ended at t = {self._path[-1]:g}; the task is judged up to t = {last:g}")

    def _laws(self, instance: Instance, streams: Streams, state: checkpoint.State | None) -> Iterator[Marginal]:
        """The contestant's laws; its clock runs between them, and gradients are on only for it."""
        who = self.job.contestant
        if isinstance(who, Control):
            laws = iter(who.fit(instance))
        else:
            plain = counted(instance.problem, self.meter)
            problem = _Watched(plain.shape, plain.times, plain.infos, self.asked)
            laws = shapes.laws(who, problem, self.job.budget, streams, state)
        while True:
            self._last.law = None
            with torch.enable_grad(), self.meter.running():
                law = next(laws, None)
            if law is None:
                return
            if not isinstance(law, Drawn | Pushed):
                raise BadLaw(f"it yielded a {type(law).__name__}; expected Drawn or Pushed")
            yield law

    def _take(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> None:
        """Make this law the last one, and see it."""
        before = self._path[-1]
        self._path.append(law.t)
        if self.job.contestant.clock != "none" and not law.t > before:
            raise BadLaw(f"its flow time went from {before:g} to {law.t:g}; expected it to grow")
        see = partial(self._see, law, problem, limit, streams)
        if isinstance(law, Drawn) and limit and self.steps not in self._curve and not self._keeper.resumable:
            # drawn only if it turns out to be the last: a generator of a thousand steps has twenty judged laws
            self._last = _Last(law, draw=see)
        else:
            self._last = _Last(law, seen=see())

    def _see(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> Seen | None:
        """Move or draw the judged points of this law, its cost kept apart from training; None if it is not judged."""
        start = time.perf_counter()
        index = judged_index(problem.times, self.job.contestant.clock, law.t)
        if isinstance(law, Drawn) and index is None:
            return None
        for run in self.runs:
            run.paired = isinstance(law, Pushed) or law.limit is not None
        count = self.job.task.points
        if isinstance(law, Pushed):
            moved, log_prob = self._cloud.push(law, self.steps, count, problem, streams)
        else:
            moved, log_prob = points.draw(law, self.steps, count, problem, streams)
        self.meter.wait()
        for run in self.runs:
            run.sample_seconds += time.perf_counter() - start
        if index is None:
            return None
        return Seen(
            step=self.steps,
            t=None if limit else round(law.t, 12),
            index=index,
            points=moved,
            log_prob=log_prob,
            seconds=self.meter.seconds,
            counts=replace(self.meter.training),
            sample_seconds=self.runs[0].sample_seconds,
            sample_calls=self.meter.sampling.score / moved.shape[1],
        )

    def _settled(self, limit: bool, last: float) -> bool:
        """Judge the last law, if it is time; whether no run is going any more.

        Raises:
            BudgetSpent: the seconds or steps are used up, and it was not the flow's last law.
        """
        if not limit or self.steps in self._curve:
            self.judge_last()
        if all(run.failed for run in self.runs):
            return True
        if self.job.contestant.clock == "none" or self._path[-1] < last:
            self.meter.require_left(self.steps)
        return False

    def judge_last(self) -> None:
        """Judge the last law, if that has not been done; an interrupt leaves all its rows or none."""
        if self._last.draw is not None:
            draw, self._last.draw = self._last.draw, None
            with self._stops.held(), torch.no_grad():
                self._last.seen = draw()
        seen = self._last.seen
        if seen is None or self._judge is None or not self._cloud.whole:
            return
        began = time.perf_counter()
        try:
            with torch.no_grad():
                rows = self._judge.judge(seen, self._path, self.runs)
        except Exception:
            self._last.seen = None  # not again
            raise
        with self._stops.held():
            self._last.seen = None
            for run, more in zip(self.runs, rows, strict=True):
                run.judge_seconds += time.perf_counter() - began
                run.rows += more
            self._keeper.judged(seen, self.runs, rows)

    def save_at_the_end(self) -> None:
        """A checkpoint at the last law, if the method has not gone on since and one can be had."""
        if self._keeper.resumable and self._last.law is not None:
            try:
                self._save()
            except Exception as error:  # the run has ended: what the newest checkpoint has is what is left
                self.log.write(f"no checkpoint at step {self.steps}: {reason_of(error)}\n")

    def _save(self) -> None:
        """Write a checkpoint of the last law, if it has a state."""
        law = self._last.law
        self._keeper.started()
        if law is not None and law.state is not None:
            state = law.state()
            content = checkpoint.of(self.runs, self._path, state, self._cloud, self._last.seen, self.meter, self.log)
            self._keeper.save(content)

    def _restore(self, saved: Checkpoint) -> None:
        """Everything as it was when the checkpoint was written."""
        self._path = list(saved.path)
        self._cloud, self._last = Cloud(saved.cloud, saved.cloud_log_prob), _Last(seen=saved.seen)
        self.meter.seconds, self.meter.training, self.meter.sampling = saved.seconds, saved.training, saved.sampling
        self.log.write(f"{saved.log}--- goes on after step {self.steps}\n")
        for run, values in zip(self.runs, saved.runs, strict=True):
            for name, value in values.items():
                setattr(run, name, value)
            run.resumed = saved.resumed + 1
        self._keeper.restore(self.runs, saved.draws)
