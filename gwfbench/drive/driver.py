"""Drives a method from yield to yield: times it, moves or draws the points of each law, judges them and keeps them.

    for each law that the method yields (its clock runs only then):
        move or draw the judged points        drive/points.py
        judge them, if it is time             drive/judge.py
        keep a checkpoint, if it is due       drive/checkpoint.py
        stop when the budget is spent         drive/meter.py

What begins and closes a run is in drive/execute.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch

from gwfbench.drive import checkpoint, points, shapes
from gwfbench.drive.checkpoint import Checkpoint, Keeper
from gwfbench.drive.contract import line_of, own_log_z, require_next, require_whole, taken
from gwfbench.drive.controls import Control, NoTruth
from gwfbench.drive.job import Job
from gwfbench.drive.judge import ANYTIME, Judge, Seen, judged_index, readable, reason_of
from gwfbench.drive.log import Log
from gwfbench.drive.machine import Machine
from gwfbench.drive.meter import Meter, counted
from gwfbench.drive.points import Cloud
from gwfbench.drive.signals import Stops
from gwfbench.info import Field
from gwfbench.plugins.registry import name_of
from gwfbench.protocol import Drawn, I, Instance, Marginal, Problem, Pushed, Resumable, State
from gwfbench.rng import Streams
from gwfbench.store.folders import Attempt
from gwfbench.store.record import SET_UP, Run, Status

_NO_LAW: Any = object()  # not None, which a method may yield by mistake
# laws so far, flow time, last judged time; seconds of training, of moving or drawing the judged points, of judging
Progress = Callable[[int, float, float, tuple[float, float, float]], None]


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
        draw: draws its points, if they are drawn only where it is judged, and while it is valid.
        seen: its points, until all metrics have judged them; None if it is at no judged time.
    """

    law: Marginal | None = None
    draw: Callable[[], Seen | None] | None = None
    seen: Seen | None = None


class Drive:
    """One generator between its yields."""

    def __init__(
        self, job: Job, runs: list[Run], files: list[Attempt | None], log: Log, stops: Stops, curve: bool,
        metrics: Sequence[str] = (),
    ):  # fmt: skip
        self.job, self.runs, self.log = job, runs, log
        self.meter = Meter(torch.device(job.device), job.budget)
        self.machine = Machine(self.meter.device)
        self.asked: set[str] = set()  # names of the infos that the method has used
        self._curve, self._metrics = ANYTIME if curve else frozenset(), metrics
        self._times: tuple[float, ...] = ()  # that are judged
        self._points = job.task.points  # of a law that metrics see
        self._stops = stops
        self._keeper = Keeper(files, stops, log, resumable=isinstance(job.contestant, Resumable))
        self._path = [0.0]  # flow times yielded
        self._cloud = Cloud()
        self._last = _Last()
        self._where = ""  # the line that yielded it
        self._began = False  # the method
        self._judge: Judge | None = None  # None until the task is built
        # what can end a method between two laws; the law before must have been drawn by then
        self._cut_short = bool(job.budget.limits().keys() - {"steps"})
        self._generator: Iterator[Marginal] | None = None

    @property
    def steps(self) -> int:
        """Number of laws yielded."""
        return len(self._path) - 1

    def end(self, status: Status, reason: str) -> None:
        """Close the runs that are still going."""
        if status == "error" and not self._began:
            reason = f"{SET_UP}{reason}"
        for run in self.runs:
            if run.status == "ok":
                run.status, run.reason = status, readable(reason)

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
        self._judge, self._times = Judge(job, instance, eval_streams, self.log, self._metrics), problem.times
        self._points = self._judge.count(instance.truth.points or self._points)
        if self._metrics and not self._judge.chosen:
            raise NoTruth(f"none of {', '.join(self._metrics)} can judge it; log.txt says why")
        if saved is not None and self._cloud.log_prob is not None and (lost := self._judge.backward):
            self.log.write(f"{', '.join(lost)}: not judged from here on: the maps before the restart are not kept\n")
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
            run = self.runs[0]
            progress(self.steps, law.t, last, (self.meter.seconds, run.sample_seconds, run.judge_seconds))
        require_whole(self.steps, self._path[-1], problem.times, limit)

    def _laws(self, instance: Instance, streams: Streams, state: State | None) -> Iterator[Marginal]:
        """The contestant's laws; its clock runs between them, and gradients are on only for it."""
        who = self.job.contestant
        plain = counted(instance.problem, self.meter, len(self.job.seeds))
        problem = _Watched(plain.shape, plain.times, plain.infos, self.asked)
        self.machine.begin()
        self._began = True
        with self._training():
            if isinstance(who, Control):
                laws = iter(who.fit(instance))
            else:
                laws = shapes.laws(who, problem, self.job.budget, streams, state)
        self._generator = laws  # it is closed with us, after the run: its own end may take for ever
        while True:
            self._last.law = None
            try:
                with self._training():
                    law = next(laws, _NO_LAW)
            except BaseException:
                self._last.draw = None  # the method has gone on: what the last law would draw now is not that law
                raise
            if law is _NO_LAW:
                return
            self._last.draw = None
            self._where = line_of(laws)
            yield taken(law, self._where)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The block is the method's: its clock runs."""
        self.machine.starts()
        try:
            with torch.enable_grad(), self.meter.running():
                yield
        finally:
            self.machine.stops()

    def _take(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> None:
        """Make this law the last one, and see it."""
        before = self._path[-1]
        if self.job.contestant.clock != "none":
            require_next(law, before, problem.times, limit, self._where)
        self._path.append(law.t)
        see = partial(self._see, law, problem, limit, streams)
        if isinstance(law, Drawn) and limit and self.steps not in self._curve and not self._cut_short:
            # drawn only if it turns out to be the last: a generator of a thousand steps has twenty judged laws
            self._last = _Last(law, draw=see)
        else:
            self._last = _Last(law, seen=see())

    def _see(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> Seen | None:
        """Move or draw the judged points of this law, its cost kept apart from training; None if it is not judged."""
        start = perf_counter()
        index = judged_index(problem.times, self.job.contestant.clock, law.t)
        if isinstance(law, Drawn) and index is None:
            return None
        for run in self.runs:
            run.paired = isinstance(law, Pushed) or law.limit is not None
        count = self._points
        dense = self._judge.dense(count) if self._judge is not None else 0
        if isinstance(law, Pushed):
            moved, log_prob = self._cloud.push(law, self.steps, count, dense, problem, streams)
        else:
            moved, log_prob = points.draw(law, self.steps, count, dense, problem, streams)
        self.meter.wait()
        for run in self.runs:
            run.sample_seconds += perf_counter() - start
        if index is None:
            return None
        seen = Seen(
            step=self.steps,
            t=None if limit else round(law.t, 12),
            index=index,
            points=moved,
            log_prob=log_prob,
            seconds=self.meter.seconds,
            counts=replace(self.meter.training),
            sample_seconds=self.runs[0].sample_seconds,
            sample_calls=self.meter.sampling.score / moved.shape[1],
            log_z=own_log_z(law, len(moved)) if isinstance(law, Drawn) else None,
        )
        # a drawn law is valid only now; one that is pushed has its density later, too, and is judged more seldom
        return self._look_back(seen, law.log_prob) if isinstance(law, Drawn) else seen

    def _look_back(self, seen: Seen, density: Field | None) -> Seen:
        """With the law's log-density at draws of the truth, if a metric asks; its cost is the judge's."""
        judge = self._judge
        if density is None or judge is None or not judge.backward or seen.forward is not None:
            return seen
        began, calls = perf_counter(), replace(self.meter.sampling)
        with torch.no_grad():
            seen = judge.look_back(seen, density)
        self.meter.wait()
        self.meter.sampling = calls
        for run in self.runs:
            run.judge_seconds += perf_counter() - began
        return seen

    def _settled(self, limit: bool, last: float) -> bool:
        """Judge the last law, if it is time; whether no run is going any more.

        Raises:
            BudgetSpent: the seconds or steps are used up, and it was not the flow's last law.
        """
        if not limit or self.steps in self._curve:
            self.judge_last(ended=False)
        if all(run.failed for run in self.runs):
            return True
        if self.job.contestant.clock == "none" or self._path[-1] < last:
            self.meter.require_left(self.steps)
        return False

    def judge_last(self, ended: bool = True) -> None:
        """Judge the last law by the metrics that have not; an interrupt leaves all the rows that they give or none.

        Args:
            ended: whether no law comes after it.
        """
        self._draw_last()
        seen, judge = self._last.seen, self._judge
        if seen is None or judge is None or not self._cloud.whole:
            return
        seen = self._last.seen = self._look_back(seen, self._cloud.density)
        have = {row.metric for run in self.runs for row in run.rows if row.step == seen.step}
        last = ended if seen.t is None else seen.index == len(self._times) - 1
        due = judge.due(seen, last, have)
        if have and not due:
            return
        began = perf_counter()
        try:
            with torch.no_grad():
                rows = judge.judge(seen, self._path, self.runs, due)
        except Exception:
            self._last.seen = None  # not again
            raise
        with self._stops.held():
            if not self._judge_later(seen, {*have, *(metric.name for metric in due)}):
                self._last.seen = None
            took = perf_counter() - began
            for run, more in zip(self.runs, rows, strict=True):
                run.judge_seconds += took
                more[:] = [replace(row, judge_seconds=run.judge_seconds) for row in more]
                run.rows += more
            self._keeper.judged(seen, self.runs, rows)

    def _judge_later(self, seen: Seen, have: set[str]) -> bool:
        """Whether there are metrics that judge this law only if a run has ended with it."""
        return seen.t is None and self._judge is not None and bool(self._judge.due(seen, True, have))

    def _draw_last(self) -> None:
        """Draw the points of the last law, if that was put off."""
        if self._last.draw is not None:
            draw, self._last.draw = self._last.draw, None
            with self._stops.held(), torch.no_grad():
                self._last.seen = draw()

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
            self._draw_last()
            if self._last.seen is not None:
                self._last.seen = self._look_back(self._last.seen, self._cloud.density)
            state = law.state()
            self.machine.look()
            content = checkpoint.of(
                self.runs, self._path, state, self._cloud, self._last.seen, self.meter, self.machine, self.log
            )
            self._keeper.save(content)

    def _restore(self, saved: Checkpoint) -> None:
        """Everything as it was when the checkpoint was written."""
        self._path = list(saved.path)
        self._cloud, self._last = Cloud(saved.cloud, saved.cloud_log_prob), _Last(seen=saved.seen)
        self.meter.seconds, self.meter.training, self.meter.sampling = saved.seconds, saved.training, saved.sampling
        self.machine.resumed(saved.units)
        self.log.write(f"{saved.log}--- goes on after step {self.steps}\n")
        for run, values in zip(self.runs, saved.runs, strict=True):
            for name, value in values.items():
                setattr(run, name, value)
            run.resumed = saved.resumed + 1
        self._keeper.restore(self.runs, saved.draws)
