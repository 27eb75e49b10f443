"""Drives one contestant on one task: times it, judges each law that it yields on fresh points, fills a run a seed."""

from __future__ import annotations

import contextlib
import datetime
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gwfbench import metrics, provenance, store
from gwfbench.budget import BudgetSpent, Counts, Meter, counted
from gwfbench.controls import Control, NoTruth
from gwfbench.info import Initial
from gwfbench.job import Job
from gwfbench.log import Log
from gwfbench.protocol import Drawn, Estimate, Instance, Judged, Marginal, Metric, Problem, Pushed
from gwfbench.record import Point, Run, Status
from gwfbench.registry import name_of
from gwfbench.rng import Streams
from gwfbench.store import Attempt

CHUNK = 65536  # judged points pushed or drawn at once
SPACED = frozenset(round(2 ** (i / 2)) for i in range(60))  # laws judged where only the limit counts; the last one too


class _BadLaw(Exception):
    """The method yielded what the contract does not allow."""


def begin(job: Job, env: str, out: Path | None) -> list[Run]:
    """A run a seed, numbered after the attempts that are under `out`; nothing is written."""
    who = job.contestant
    needs = () if isinstance(who, Control) else tuple(sorted(need.__name__ for need in who.needs))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    code, runs = job.code(), []
    for seed in job.seeds:
        identity = job.identity(seed)
        number = 1 + max((run.number for run in store.of_key(out, identity.key)), default=0) if out else 1
        budget = job.budget.limits()
        runs.append(Run(identity, needs, code, env, now, budget, batch=len(job.seeds), number=number))
    return runs


def interrupted() -> tuple[Status, str]:
    return "killed", "interrupted"


def execute(
    job: Job, env: str, out: Path | None, progress: Callable[[int, float, float], None], log: Log | None = None,
    why_stopped: Callable[[], tuple[Status, str]] = interrupted,
) -> list[Run]:  # fmt: skip
    """Run the job to its end, whatever that is; every seed gets its run, with a status and a reason.

    Args:
        env: hash of the session's environment.
        out: where the attempts' folders go; None: nothing is written.
        progress: called with (laws so far, flow time, last judged time).
        log: takes what the method prints and what the runner has to say.
        why_stopped: asked after an interrupt for the status and the reason that the runs get.

    Raises:
        KeyboardInterrupt: after the runs were kept.
        OSError: they can't be kept.
    """
    runs = begin(job, env, out)
    files = [Attempt(out, run) for run in runs] if out else []
    log = log or Log()
    drive = _Drive(job, runs, files, log)
    interrupt = False
    with contextlib.redirect_stdout(log):  # a method that prints must not break --format json
        try:
            drive.to_the_end(progress)
            drive.judge_last()
        except NoTruth as error:
            drive.end("skipped", str(error))
        except BudgetSpent as spent:
            drive.judge_last()
            drive.end("budget" if drive.steps else "timeout", str(spent))
        except KeyboardInterrupt:
            interrupt = True
            drive.end(*why_stopped())
        except (Exception, SystemExit) as error:
            with contextlib.suppress(Exception):
                traceback.print_exc(file=log)
            with contextlib.suppress(Exception):
                drive.judge_last()
            drive.end("oom" if is_out_of_memory(error) else "error", reason_of(error))
    for i, run in enumerate(runs):
        run.seconds, run.steps = drive.meter.seconds, drive.steps
        if files:
            files[i].finish(run, log.getvalue())
    if interrupt:
        raise KeyboardInterrupt
    return runs


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch has no class of its own for that on the CPU."""
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in "".join(map(str, error.args)):
        return True
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def reason_of(error: BaseException) -> str:
    """Its type and its text, on one line."""
    try:
        text = str(error).strip().replace("\n", " ")
    except Exception:  # a stranger's exception can do anything
        text = "(it can't be told)"
    return text if isinstance(error, _BadLaw) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class _Seen:
    """A law's judged points, and what it had cost when it was yielded."""

    step: int
    t: float | None  # None: only the limit counts
    index: int
    path: tuple[float, ...]  # flow times yielded so far, 0 first
    points: Tensor
    log_prob: Tensor | None
    seconds: float
    counts: Counts
    sample_seconds: float
    sample_calls: float


class _Drive:
    """One generator between its yields."""

    def __init__(self, job: Job, runs: list[Run], files: list[Attempt], log: Log):
        self.job, self.runs, self.files, self.log = job, runs, files, log
        self.steps = 0
        self._device = torch.device(job.device)
        self.meter = Meter(self._device, job.budget)
        self._path = [0.0]  # flow times yielded
        self._cloud: Tensor | None = None  # the runner's own points, pushed along
        self._cloud_log_prob: Tensor | None = None
        self._pending: Callable[[], None] | None = None  # judges the last law seen

    def end(self, status: Status, reason: str) -> None:
        """Close the runs that are still going."""
        for run in self.runs:
            if run.status == "ok":
                run.status, run.reason = status, reason

    def judge_last(self) -> None:
        """Judge the last law seen, if that has not been done."""
        if self._pending is not None:
            judge, self._pending = self._pending, None
            with torch.no_grad():
                judge()

    def to_the_end(self, progress: Callable[[int, float, float], None]) -> None:
        job = self.job
        streams = Streams(job.seeds, self._device, job.dtype)
        instance = job.task.build(streams.fork(f"task/{name_of(job.task)}"))
        chosen = self._metrics(instance)
        eval_streams = streams.fork("eval")
        for law in self._laws(instance, streams.fork("method")):
            self.steps += 1
            self._check_time(law)
            index = self._judged_index(instance.problem, law.t)
            limit = job.contestant.clock == "none" or math.isinf(instance.problem.times[-1])
            with torch.no_grad():
                seen = self._see(law, instance.problem, index, limit, eval_streams)
            self._pending = None
            if seen is not None:
                self._pending = lambda seen=seen: self._judge(seen, instance, chosen, eval_streams)
                if not limit or self.steps in SPACED:
                    self.judge_last()
            progress(self.steps, law.t, instance.problem.times[-1])
            if all(run.failed for run in self.runs):
                return
            spent = self.meter.spent
            if not spent and self.steps >= (job.budget.steps or math.inf):
                spent = f"the budget of {job.budget.steps:g} steps was spent"
            if spent and law.t < instance.problem.times[-1]:
                raise BudgetSpent(spent)
        last = instance.problem.times[-1]
        if not self.steps:
            raise _BadLaw("it ended without yielding a law")
        if job.contestant.clock != "none" and math.isfinite(last) and self._path[-1] < last * (1 - 1e-6):
            raise _BadLaw(f"it ended at t = {self._path[-1]:g}; the task is judged up to t = {last:g}")

    def _laws(self, instance: Instance, streams: Streams) -> Iterator[Marginal]:
        """The contestant's laws; its clock runs between them, and gradients are on only for it."""
        who = self.job.contestant
        if isinstance(who, Control):
            laws = iter(who.fit(instance))
        else:
            laws = iter(who.fit(counted(instance.problem, self.meter), self.job.budget, streams))
        while True:
            with torch.enable_grad(), self.meter.running():
                law = next(laws, None)
            if law is None:
                return
            if not isinstance(law, Drawn | Pushed):
                raise _BadLaw(f"it yielded a {type(law).__name__}; expected Drawn or Pushed")
            yield law

    def _check_time(self, law: Marginal) -> None:
        if self.job.contestant.clock != "none" and not law.t > self._path[-1]:
            raise _BadLaw(f"its flow time went from {self._path[-1]:g} to {law.t:g}; expected it to grow")
        self._path.append(law.t)

    def _judged_index(self, problem: Problem, t: float) -> int | None:
        """Which judged time this is; a law without a clock is always compared with the last."""
        if self.job.contestant.clock == "none" or math.isinf(problem.times[-1]):
            return len(problem.times) - 1
        near = min(range(len(problem.times)), key=lambda i: abs(problem.times[i] - t))
        return near if abs(problem.times[near] - t) <= 1e-6 * max(1.0, t) else None

    def _see(self, law: Marginal, problem: Problem, index: int | None, limit: bool, streams: Streams) -> _Seen | None:
        """Move or draw the judged points of this law, its cost kept apart from training; None if it is not judged."""
        start = time.perf_counter()
        want = self.job.task.points
        if isinstance(law, Pushed):
            points, log_prob = self._push(law, problem, want, streams)
        elif index is None:
            return None
        else:
            points, log_prob = self._draw(law, min(want, law.limit or want), problem, streams), None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for run in self.runs:
            run.sample_seconds += time.perf_counter() - start
        if index is None:
            return None
        if isinstance(law, Drawn) and law.log_prob is not None:
            log_prob = torch.cat([law.log_prob(part) for part in points.split(CHUNK, 1)], 1)
        return _Seen(
            step=self.steps,
            t=None if limit else round(law.t, 12),
            index=index,
            path=tuple(self._path),
            points=points,
            log_prob=log_prob,
            seconds=self.meter.seconds,
            counts=replace(self.meter.training),
            sample_seconds=self.runs[0].sample_seconds,
            sample_calls=self.meter.sampling.score / points.shape[1],
        )

    def _push(self, law: Pushed, problem: Problem, n: int, streams: Streams) -> tuple[Tensor, Tensor | None]:
        if self._cloud is None:
            if self.steps > 1:
                raise _BadLaw(
                    "it yielded Pushed after Drawn; Pushed needs the law before it to be Pushed, or the first"
                )
            start = problem[Initial]
            self._cloud = start.draw(n, streams.fork("start"))
            self._cloud_log_prob = start.log_prob(self._cloud) if start.log_prob else None
        if law.log_det is None:
            self._cloud_log_prob = None
        noise = streams.fork(f"push/{self.steps}")
        for first in range(0, n, CHUNK):
            part = self._cloud[:, first : first + CHUNK]
            if law.log_det is not None and self._cloud_log_prob is not None:
                self._cloud_log_prob[:, first : first + CHUNK] -= law.log_det(part)
            moved = law.push(part, noise)
            _require_shape("push", moved, part.shape)
            part.copy_(moved)
        return self._cloud, self._cloud_log_prob

    def _draw(self, law: Drawn, n: int, problem: Problem, streams: Streams) -> Tensor:
        noise = streams.fork(f"draw/{self.steps}")
        parts = []
        for count in [n] if law.limit else [min(CHUNK, n - first) for first in range(0, n, CHUNK)]:
            parts.append(law.draw(count, noise))
            _require_shape("draw", parts[-1], (len(self.runs), count, *problem.shape))
        return torch.cat(parts, 1)

    def _metrics(self, instance: Instance) -> list[Metric]:
        """The task's metrics, less those that can't be had for this contestant; which and why goes to the log."""
        truth = instance.truth
        known = {
            "draw": truth.draw,
            "moments": truth.moments,
            "density": truth.log_prob,
            "score": truth.score,
            "energy": truth.energy and truth.integrand,
        }
        have = {name for name, value in known.items() if value is not None}
        chosen = []
        own = instance.truth.metrics
        names = dict.fromkeys([*self.job.task.metrics, *(metric.name for metric in own)])
        for metric in metrics.choose(names, own):
            missing = metric.needs - have - {"log_prob"}
            if metric.law == "jko" and (instance.truth.jko is None or self.job.contestant.clock != "jko"):
                self.log.write(f"{metric.name}: not judged: it compares JKO steps with the exact JKO sequence\n")
            elif missing:
                self.log.write(f"{metric.name}: not judged: the task's truth has no {', '.join(sorted(missing))}\n")
            else:
                chosen.append(metric)
        return chosen

    def _judge(self, seen: _Seen, instance: Instance, chosen: list[Metric], streams: Streams) -> None:
        began = time.perf_counter()
        points, where = seen.points, "" if seen.t is None else f" at t = {seen.t:g}"
        finite = points.flatten(1).isfinite().all(1)
        for run, good in zip(self.runs, finite.tolist(), strict=True):
            if not good and not run.failed:
                run.status, run.reason = "diverged", f"points are not finite{where or f' at step {seen.step}'}"
        if not finite.all():  # metrics see whole batches: a dead seed's points are blanked, and get no rows
            points = torch.where(finite.view(-1, *[1] * (points.ndim - 1)), points, 0.0)
        rows: list[list[Point]] = [[] for _ in self.runs]
        for metric in chosen:
            if "log_prob" in metric.needs and seen.log_prob is None:
                continue
            truth, index = metric.against(instance.truth, seen.path, seen.index)
            part = points[:, : metric.points]
            log_prob = None if seen.log_prob is None else seen.log_prob[:, : metric.points]
            rng = streams.fork(f"metric/{metric.name}/{seen.index}")
            try:
                estimate = metric.evaluate(Judged(part, log_prob, truth, index, rng))
            except (ValueError, ArithmeticError, RuntimeError) as error:
                self.log.write(f"{metric.name}{where}: null: {reason_of(error)}\n")
                nothing = torch.full((len(self.runs),), math.nan)
                estimate = Estimate(nothing, nothing, part.shape[1])
            for i, run in enumerate(self.runs):
                if run.status == "ok":
                    rows[i].append(self._point(seen, metric, estimate, i))
        for i, run in enumerate(self.runs):
            run.points += rows[i]
            run.judge_seconds += time.perf_counter() - began
            if self.files and run.status == "ok":
                self.files[i].judged(seen.step, rows[i], points[i, : store.KEPT].cpu().numpy())

    def _point(self, seen: _Seen, metric: Metric, estimate: Estimate, i: int) -> Point:
        who = self.job.contestant
        # where higher is better (accuracy on test data, say), the truth is a mark, not a bound: no floor, no alarm
        bound = isinstance(who, Control) and who.floor == metric.law and metric.better == "lower"
        role = "method" if not isinstance(who, Control) else "floor" if bound else "control"
        value, se = float(estimate.value[i]), float(estimate.se[i])
        return Point(
            step=seen.step,
            t=seen.t,
            metric=metric.name,
            metric_version=metric.version,
            better=metric.better,
            law=metric.law,
            role=role,
            value=value if math.isfinite(value) else None,
            se=se if math.isfinite(se) else None,
            n=estimate.n,
            seconds=seen.seconds,
            score_calls=seen.counts.score,
            log_prob_calls=seen.counts.log_prob,
            draw_calls=seen.counts.draw,
            sample_seconds=seen.sample_seconds,
            sample_calls=seen.sample_calls,
            metric_code=provenance.metric_code(metric),
        )


def _require_shape(what: str, got: Tensor, expected: tuple[int, ...]) -> None:
    if not isinstance(got, Tensor) or tuple(got.shape) != tuple(expected):
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise _BadLaw(f"its {what} gave {shape}; expected (S, n, ...) = {tuple(expected)}")
