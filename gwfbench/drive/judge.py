"""Judges laws: which are judged, by which metrics, and the rows that they get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench import metrics
from gwfbench.budget import Counts
from gwfbench.drive.controls import Control
from gwfbench.drive.job import Job
from gwfbench.drive.log import Log
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Need
from gwfbench.rng import Streams
from gwfbench.store import fingerprint
from gwfbench.store.record import Row, Run

# Where only the limit counts these laws are judged, and the last: 15 of 30, 17 of 100, 20 of 1,000, 29 of a million.
# Fixed steps: rows do not depend on the machine's speed, nor on how far a budget lets a run go.
ANYTIME = frozenset([*range(1, 11), 12, 15, 25, 30, *(k * 10**power for power in range(1, 13) for k in (1, 2, 5))])


@dataclass(frozen=True)
class Seen:
    """A law's judged points (S, n, ...), and what it had cost when it was yielded."""

    step: int
    t: float | None  # None: only the limit counts
    index: int
    points: Tensor
    log_prob: Tensor | None
    seconds: float
    counts: Counts
    sample_seconds: float
    sample_calls: float


class Judge:
    """The metrics that can be had for one contestant on one instance; which not, and why, goes to the log."""

    def __init__(self, job: Job, instance: Instance, streams: Streams, log: Log):
        self._job, self._instance, self._streams, self._log = job, instance, streams, log
        self._chosen = self._choose()
        self._codes = {metric.name: fingerprint.metric_code(metric) for metric in self._chosen}

    def judge(self, seen: Seen, path: Sequence[float], runs: list[Run]) -> list[list[Row]]:
        """The rows of each run that is going; those that diverged are marked, and get none.

        Args:
            path: flow times of the laws, 0 first, up to the judged one at least.
        """
        points, where = seen.points, "" if seen.t is None else f" at t = {seen.t:g}"
        finite = points.flatten(1).isfinite().all(1)
        for run, good in zip(runs, finite.tolist(), strict=True):
            if not good and not run.failed:
                run.status, run.reason = "diverged", f"points are not finite{where or f' at step {seen.step}'}"
        if not finite.all():  # metrics see whole batches: a dead seed's points are blanked, and get no rows
            points = torch.where(finite.view(-1, *[1] * (points.ndim - 1)), points, 0.0)
        rows: list[list[Row]] = [[] for _ in runs]
        for metric in self._chosen:
            if Need.LOG_PROB in metric.needs and seen.log_prob is None:
                continue
            estimate = self._estimate(metric, seen, points, path, where)
            for i, run in enumerate(runs):
                if run.status == "ok":
                    rows[i].append(self._point(seen, metric, estimate, i))
        return rows

    def _choose(self) -> list[Metric]:
        truth, chosen = self._instance.truth, []
        names = dict.fromkeys([*self._job.task.metrics, *(metric.name for metric in truth.metrics)])
        for metric in metrics.choose(names, truth.metrics):
            reason = truth.lacks(metric, self._job.contestant.clock)
            if reason:
                self._log.write(f"{metric.name}: not judged: {reason}\n")
            else:
                chosen.append(metric)
        return chosen

    def _estimate(self, metric: Metric, seen: Seen, points: Tensor, path: Sequence[float], where: str) -> Estimate:
        truth, index = metric.against(self._instance.truth, tuple(path[: seen.step + 1]), seen.index)
        part = points[:, : metric.points]
        log_prob = None if seen.log_prob is None else seen.log_prob[:, : metric.points]
        rng = self._streams.fork(f"metric/{metric.name}/{seen.index}")
        try:
            return metric.evaluate(Judged(part, log_prob, truth, index, rng))
        except (ValueError, ArithmeticError, RuntimeError) as error:
            self._log.write(f"{metric.name}{where}: null: {reason_of(error)}\n")
            nothing = torch.full((len(points),), math.nan)
            return Estimate(nothing, nothing, part.shape[1])

    def _point(self, seen: Seen, metric: Metric, estimate: Estimate, i: int) -> Row:
        who = self._job.contestant
        # where higher is better (accuracy on test data, say), the truth is a mark, not a bound: no floor, no alarm
        bound = isinstance(who, Control) and who.floor == metric.law and metric.better == "lower"
        role = "method" if not isinstance(who, Control) else "floor" if bound else "control"
        value, se = float(estimate.value[i]), float(estimate.se[i])
        return Row(
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
            metric_code=self._codes[metric.name],
        )


def reason_of(error: BaseException) -> str:
    """Its type and its text, on one line."""
    try:
        text = str(error).strip().replace("\n", " ")
    except Exception:  # a stranger's exception can do anything
        text = "(it can't be told)"
    return f"{type(error).__name__}: {text}"
