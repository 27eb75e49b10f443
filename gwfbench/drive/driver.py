"""Drives one contestant on one task: times it, moves or draws the points of each law that it yields, and keeps them.

A run that is stopped from outside (SIGTERM, Ctrl-C, a deadline) goes on from its newest checkpoint: at the yield where
the signal found it, or else, the method being at work, at most `EVERY` seconds and one law before.
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

import numpy as np
import torch
from torch import Tensor

from gwfbench.budget import BudgetSpent, Meter, counted
from gwfbench.drive import checkpoint, shapes
from gwfbench.drive import points as cloud
from gwfbench.drive.checkpoint import Checkpoint
from gwfbench.drive.controls import Control, NoTruth
from gwfbench.drive.job import Job
from gwfbench.drive.judge import ANYTIME, Judge, Seen, reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.points import BadLaw, Cloud
from gwfbench.drive.signals import Stopped, Stops
from gwfbench.plugins.registry import name_of
from gwfbench.protocol import Drawn, I, Instance, Marginal, Problem, Pushed, Resumable
from gwfbench.rng import Streams
from gwfbench.store import folders
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Run, Status

EVERY = 120.0  # seconds between two checkpoints


def begin(job: Job, env: str, out: Path | None) -> list[Run]:
    """A run a seed, numbered after the attempts that are under `out`; nothing is written."""
    who = job.contestant
    needs = () if isinstance(who, Control) else tuple(sorted(need.__name__ for need in who.needs))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    code, runs = job.code(), []
    for seed in job.seeds:
        identity = job.identity(seed)
        number = 1 + max((run.number for run in folders.of_key(out, identity.key)), default=0) if out else 1
        budget = job.budget.limits()
        runs.append(Run(identity, needs, code, env, now, budget, batch=len(job.seeds), number=number))
    return runs


def interrupted() -> tuple[Status, str]:
    return "killed", "interrupted"


def execute(
    job: Job, env: str, out: Path | None, progress: Callable[[int, float, float], None], log: Log | None = None,
    why_stopped: Callable[[], tuple[Status, str]] = interrupted, anew: bool = False,
    curve: bool = True,
) -> list[Run]:  # fmt: skip
    """Run the job to its end, whatever that is; every seed gets its run, with a status and a reason.

    Args:
        env: hash of the session's environment.
        out: where the attempts' folders go, and where a stopped one is found to go on from; None: nothing is written.
        progress: called with (laws so far, flow time, last judged time).
        log: takes what the method prints and what the runner has to say.
        why_stopped: asked after an interrupt for the status and the reason that the runs get.
        anew: go on from nothing.
        curve: judge the laws of `judge.ANYTIME` too where only the limit counts, not the last alone.

    Raises:
        KeyboardInterrupt: after the runs were kept; on SIGTERM too.
        OSError: they can't be kept.
    """
    asked, log = job.seeds, log or Log()
    runs = begin(job, env, out)
    saved = None
    if out and not anew and isinstance(job.contestant, Resumable):
        saved = checkpoint.find(out, runs, torch.device(job.device), log)
    if saved is not None and saved.seeds != asked:  # seeds that have ended ride along: the state has them all
        job = replace(job, seeds=saved.seeds)
        runs = begin(job, env, out)
    files = [Attempt(out, run) if out and run.identity.seed in asked else None for run in runs]
    with Stops() as stops, contextlib.redirect_stdout(log):  # a method that prints must not break --format json
        drive = _Drive(job, runs, files, log, stops, saved, ANYTIME if curve else frozenset())
        stop = None
        try:
            _to_an_end(drive, progress, log)
        except KeyboardInterrupt as error:
            stop = error
        with stops.held():
            if stop is not None:
                drive.save_at_the_end()
                drive.end(*(("killed", str(stop)) if isinstance(stop, Stopped) else why_stopped()))
            for run, file in zip(runs, files, strict=True):
                run.seconds, run.steps = drive.meter.seconds, drive.steps
                run.information = tuple(sorted({*run.information, *drive.asked}))
                if file is not None:
                    if run.status not in checkpoint.RESUMED:
                        file.checkpoint.unlink(missing_ok=True)
                    file.finish(run, log.getvalue())
                    if out and saved is not None and run.status not in checkpoint.RESUMED:
                        checkpoint.remove_all(out, run)
    if stop is not None:
        raise KeyboardInterrupt(*stop.args)
    return [run for run in runs if run.identity.seed in asked]


def _to_an_end(drive: _Drive, progress: Callable[[int, float, float], None], log: Log) -> None:
    """Every end but an interrupt becomes the runs' status and reason."""
    try:
        spent = ""
        try:
            drive.to_the_end(progress)
        except BudgetSpent as error:
            spent = str(error)
        drive.judge_last()
        if spent:
            drive.end("budget" if drive.steps else "timeout", spent)
    except NoTruth as error:
        drive.end("skipped", str(error))
    except (Exception, SystemExit) as error:
        with contextlib.suppress(Exception):
            traceback.print_exc(file=log)
        if is_out_of_memory(error):
            drive.end("oom", reason_of(error))
            return
        with contextlib.suppress(Exception):
            drive.judge_last()
        drive.end("error", str(error) if isinstance(error, BadLaw) else reason_of(error))


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


class _Drive:
    """One generator between its yields."""

    def __init__(
        self, job: Job, runs: list[Run], files: list[Attempt | None], log: Log, stops: Stops,
        saved: Checkpoint | None, curve: frozenset[int],
    ):  # fmt: skip
        self.job, self.runs, self.files, self.log = job, runs, files, log
        self.steps = 0
        self.asked: set[str] = set()  # names of the infos that the method has used
        self._device = torch.device(job.device)
        self.meter = Meter(self._device, job.budget)
        self._path = [0.0]  # flow times yielded
        self._cloud = Cloud()
        self._pending: Seen | None = None  # the last law, till it is judged
        self._judge: Judge | None = None
        self._law: Marginal | None = None  # the last law, till the method goes on
        self._undrawn: Callable[[], Seen | None] | None = None  # draws the last law, if nobody has
        self._curve = curve  # numbers of the laws that are judged where only the limit counts
        self._stops, self._saved, self._saved_at = stops, saved, time.monotonic()
        self._keeps = any(files) and isinstance(job.contestant, Resumable)
        if saved is not None:
            self._restore(saved)

    def end(self, status: Status, reason: str) -> None:
        """Close the runs that are still going."""
        for run in self.runs:
            if run.status == "ok":
                run.status, run.reason = status, reason

    def judge_last(self) -> None:
        """Judge the last law seen, if that has not been done; an interrupt leaves all its rows or none."""
        if self._undrawn is not None:
            draw, self._undrawn = self._undrawn, None
            with self._stops.held(), torch.no_grad():
                self._pending = draw()
        seen = self._pending
        if seen is None or self._judge is None or not self._cloud.whole:
            return
        began = time.perf_counter()
        try:
            with torch.no_grad():
                rows = self._judge.judge(seen, self._path, self.runs)
        except Exception:
            self._pending = None  # not again
            raise
        with self._stops.held():
            self._pending = None
            for i, run in enumerate(self.runs):
                run.judge_seconds += time.perf_counter() - began
                run.rows += rows[i]
                file = self.files[i]
                if file is not None and run.status == "ok":
                    count = folders.most(seen.points[i, :1].nbytes)
                    density = None if seen.log_prob is None else _kept(seen.log_prob[i], count)
                    file.judged(seen.step, rows[i], _kept(seen.points[i], count), density)

    def to_the_end(self, progress: Callable[[int, float, float], None]) -> None:
        job = self.job
        streams = Streams(job.seeds, self._device, job.dtype)
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
        problem, eval_streams = instance.problem, streams.fork("eval")
        self._judge = Judge(job, instance, eval_streams, self.log)
        last = problem.times[-1]
        limit = job.contestant.clock == "none" or math.isinf(last)
        if self._saved is not None and self._settled(limit, last):
            return
        for law in self._laws(instance, streams.fork("method")):
            with self._stops.held(), torch.no_grad():  # the cloud and its step, or neither
                self.steps += 1
                self._check_time(law)
                self._undrawn = None
                if isinstance(law, Drawn) and limit and self.steps not in self._curve and not self._keeps:
                    # drawn only if it turns out to be the last: a generator of a thousand steps has twenty judged laws
                    self._undrawn = partial(self._see, law, problem, limit, eval_streams)
                else:
                    self._pending = self._see(law, problem, limit, eval_streams)
                self._law = law
            if self._keeps and time.monotonic() - self._saved_at >= EVERY:
                self._save()
            if self._settled(limit, last):
                return
            progress(self.steps, law.t, last)
        if not self.steps:
            raise BadLaw("it ended without yielding a law")
        if job.contestant.clock != "none" and math.isfinite(last) and self._path[-1] < last * (1 - 1e-6):
            raise BadLaw(f"it ended at t = {self._path[-1]:g}; the task is judged up to t = {last:g}")

    def _settled(self, limit: bool, last: float) -> bool:
        """Judge the law that was just seen, if it is time; whether no run is going any more.

        Raises:
            BudgetSpent: the seconds or steps are used up, and it was not the flow's last law. A method may go on after
                its last oracle call: the call that goes beyond is what ends it.
        """
        if not limit or self.steps in self._curve:
            self.judge_last()
        if all(run.failed for run in self.runs):
            return True
        budget, spent = self.job.budget, ""
        if budget.seconds is not None and self.meter.seconds >= budget.seconds:
            spent = f"the budget of {budget.seconds:g} s was spent"
        elif budget.steps is not None and self.steps >= budget.steps:
            spent = f"the budget of {budget.steps:g} steps was spent"
        if spent and (self.job.contestant.clock == "none" or self._path[-1] < last):
            raise BudgetSpent(spent)
        return False

    def _laws(self, instance: Instance, streams: Streams) -> Iterator[Marginal]:
        """The contestant's laws; its clock runs between them, and gradients are on only for it."""
        who = self.job.contestant
        if isinstance(who, Control):
            laws = iter(who.fit(instance))
        else:
            plain = counted(instance.problem, self.meter)
            problem = _Watched(plain.shape, plain.times, plain.infos, self.asked)
            state = self._saved.state if self._saved is not None else None
            laws = shapes.laws(who, problem, self.job.budget, streams, state)
        self._saved = None  # its memory is not needed any more
        while True:
            self._law = None
            with torch.enable_grad(), self.meter.running():
                law = next(laws, None)
            if law is None:
                return
            if not isinstance(law, Drawn | Pushed):
                raise BadLaw(f"it yielded a {type(law).__name__}; expected Drawn or Pushed")
            yield law

    def _check_time(self, law: Marginal) -> None:
        if self.job.contestant.clock != "none" and not law.t > self._path[-1]:
            raise BadLaw(f"its flow time went from {self._path[-1]:g} to {law.t:g}; expected it to grow")
        self._path.append(law.t)

    def _judged_index(self, problem: Problem, t: float) -> int | None:
        """Which judged time this is; a law without a clock is always compared with the last."""
        if self.job.contestant.clock == "none" or math.isinf(problem.times[-1]):
            return len(problem.times) - 1
        near = min(range(len(problem.times)), key=lambda i: abs(problem.times[i] - t))
        return near if abs(problem.times[near] - t) <= 1e-6 * max(1.0, t) else None

    def _see(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> Seen | None:
        """Move or draw the judged points of this law, its cost kept apart from training; None if it is not judged."""
        start = time.perf_counter()
        index = self._judged_index(problem, law.t)
        if isinstance(law, Drawn) and index is None:
            return None
        for run in self.runs:
            run.paired = isinstance(law, Pushed) or law.limit is not None
        move = self._cloud.push if isinstance(law, Pushed) else cloud.draw
        points, log_prob = move(law, self.steps, self.job.task.points, problem, streams)  # type: ignore[arg-type]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for run in self.runs:
            run.sample_seconds += time.perf_counter() - start
        if index is None:
            return None
        return Seen(
            step=self.steps,
            t=None if limit else round(law.t, 12),
            index=index,
            points=points,
            log_prob=log_prob,
            seconds=self.meter.seconds,
            counts=replace(self.meter.training),
            sample_seconds=self.runs[0].sample_seconds,
            sample_calls=self.meter.sampling.score / points.shape[1],
        )

    def save_at_the_end(self) -> None:
        """A checkpoint at the last law, if the method has not gone on since and one can be had."""
        if self._keeps and self._law is not None:
            try:
                self._save()
            except Exception as error:  # the run has ended: what the newest checkpoint has is what is left
                self.log.write(f"no checkpoint at step {self.steps}: {reason_of(error)}\n")

    def _save(self) -> None:
        """Write a checkpoint of the law that was just seen, if it has a state; a full disk goes to the log."""
        self._saved_at = time.monotonic()
        if self._law is None or self._law.state is None:
            return
        names = ("status", "reason", "rows", "sample_seconds", "judge_seconds")
        going = [{name: getattr(run, name) for name in names} for run in self.runs]
        content = Checkpoint(
            seeds=self.job.seeds,
            path=tuple(self._path),
            state=self._law.state(),
            cloud=self._cloud.points,
            cloud_log_prob=self._cloud.log_prob,
            seen=self._pending,
            seconds=self.meter.seconds,
            training=self.meter.training,
            sampling=self.meter.sampling,
            runs=tuple(going),
            draws=tuple(file.draws if file else {} for file in self.files),
            log=self.log.getvalue(),
            resumed=self.runs[0].resumed,
        )
        places = [file.checkpoint for file in self.files if file]
        try:
            with self._stops.held():
                checkpoint.save(places, content)
        except OSError as error:
            self.log.write(f"no checkpoint at step {self.steps}: {reason_of(error)}\n")

    def _restore(self, saved: Checkpoint) -> None:
        self.steps, self._path = len(saved.path) - 1, list(saved.path)
        self._cloud, self._pending = Cloud(saved.cloud, saved.cloud_log_prob), saved.seen
        self.meter.seconds, self.meter.training, self.meter.sampling = saved.seconds, saved.training, saved.sampling
        self.log.write(f"{saved.log}--- goes on after step {self.steps}\n")
        for run, file, old, draws in zip(self.runs, self.files, saved.runs, saved.draws, strict=True):
            for name, value in old.items():
                setattr(run, name, value)
            run.resumed = saved.resumed + 1
            for step in sorted(int(name[1:]) for name in draws if name[0] == "t"):
                rows = [point for point in run.rows if point.step == step]
                if file is not None:
                    file.judged(step, rows, draws[f"t{step}"], draws.get(f"l{step}"))


def _kept(points: Tensor, count: int) -> np.ndarray:
    """The first points, copied: the runner moves its cloud in place."""
    return points[:count].to("cpu", copy=True).numpy()
