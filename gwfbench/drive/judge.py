"""Judges laws: which are judged, by which metrics, and the rows that they get."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gwfbench.drive.contract import require_shape, same
from gwfbench.drive.controls import role
from gwfbench.drive.job import Job
from gwfbench.drive.log import Log
from gwfbench.drive.meter import Counts
from gwfbench.info import Field
from gwfbench.metrics import choose as choose_metrics
from gwfbench.protocol import OF_LAW, Estimate, Instance, Judged, Kept, Metric, Need
from gwfbench.rng import Streams
from gwfbench.store import fingerprint, folders
from gwfbench.store.record import Row, Run

# Where only the limit counts these laws are judged, and the last: 15 of 30, 17 of 100, 20 of 1,000, 29 of a million.
# Fixed steps: rows do not depend on the machine's speed, nor on how far a budget lets a run go.
ANYTIME = frozenset([*range(1, 11), 12, 15, 25, 30, *(k * 10**power for power in range(1, 13) for k in (1, 2, 5))])

LONGEST = 2000  # characters of a reason
DRAWS = 2000  # of the truth, at which a law's log-density is asked for


@dataclass(frozen=True)
class Seen:
    """A law's judged points (S, n, ...), and what it had cost when it was yielded.

    Args:
        forward: its log-density at `DRAWS` draws of the truth, (S, m); None: it has none there, or none is asked for.
        log_z: its own estimate of log Z, and the standard error, (S,) each.
    """

    step: int
    t: float | None  # None: only the limit counts
    index: int
    points: Tensor
    log_prob: Tensor | None
    seconds: float
    counts: Counts
    sample_seconds: float
    sample_calls: float
    forward: Tensor | None = None
    log_z: tuple[Tensor, Tensor] | None = None

    @property
    def offers(self) -> frozenset[Need]:
        """What a metric may need of a law, as far as this one has it."""
        has = {
            Need.LOG_PROB: self.log_prob is not None,
            Need.FORWARD: self.forward is not None,
            Need.ESTIMATE: self.log_z is not None or self.log_prob is not None,
        }
        return frozenset(need for need, there in has.items() if there)


@dataclass(frozen=True)
class Found:
    """A metric's values and standard errors, one of each for a seed, and the number of points used."""

    values: list[float]
    errors: list[float]
    n: int


class Judge:
    """The metrics that can judge one contestant on one instance; which can't, and why, goes to the log.

    Args:
        names: of the metrics, at each law; empty: all of the task, where each says.
    """

    def __init__(self, job: Job, instance: Instance, streams: Streams, log: Log, names: Sequence[str] = ()):
        self._job, self._instance, self._streams, self._log = job, instance, streams, log
        self.chosen: list[Metric] = []
        self._asked = bool(names)
        self._of_truth: tuple[int, dict[Hashable, Any]] = -1, {}  # index, and what metrics have computed of it
        own = instance.truth.metrics
        names = names or [*job.task.metrics, *(metric.name for metric in own)]
        for metric in choose_metrics(dict.fromkeys(names), own):
            reason = instance.truth.lacks(metric, job.contestant.clock)
            if reason:
                log.write(f"{metric.name}: not judged: {reason}\n")
            else:
                self.chosen.append(metric)
        self._codes = {metric.name: fingerprint.metric_code(metric) for metric in self.chosen}
        self._draws: tuple[int, Tensor] | None = None  # index, and the truth's draws there

    @property
    def backward(self) -> list[str]:
        """Names of the metrics that ask for a law's log-density at draws of the truth."""
        return [one.name for one in self.chosen if Need.FORWARD in one.needs]

    def look_back(self, seen: Seen, density: Field) -> Seen:
        """With the law's log-density at draws of the truth; not numbers where it can't be had, and why in the log."""
        points = self._exact(seen.index)
        try:
            found = density(points.clone())
        except (ValueError, ArithmeticError, RuntimeError) as error:
            self._log.write(f"no log-density at draws of the truth at step {seen.step}: {reason_of(error)}\n")
            found = torch.full(points.shape[:2], math.nan, dtype=points.dtype, device=points.device)
        require_shape("log_prob", found, tuple(points.shape[:2]))
        return replace(seen, forward=found)

    def _exact(self, index: int) -> Tensor:
        """The truth's draws, (S, m, ...), the same for all laws of this time."""
        if self._draws is None or self._draws[0] != index:
            truth, rng = self._instance.truth, self._streams.fork(f"exact/{index}")
            empty = torch.empty(len(rng.seeds), 0, *self._instance.problem.shape)
            self._draws = index, Judged(empty, None, truth, index, rng).reference(DRAWS, rng)
        return self._draws[1]

    def count(self, n: int) -> int:
        """How many points are moved or drawn, of n that the task asks for: no more than the metrics that were asked for
        take, or are kept."""
        most = [one.points or n for one in self.chosen] if self._asked else [n]
        return min(n, max([*most, folders.KEPT]))

    def dense(self, n: int) -> int:
        """Of how many of n points the log-density is asked for: by a metric, or to be kept for one."""
        most = [one.points or n for one in self.chosen if one.needs & {Need.LOG_PROB, Need.ESTIMATE}]
        return min(n, max([*most, folders.KEPT]))

    def due(self, seen: Seen, last: bool, have: Collection[str] = ()) -> list[Metric]:
        """The metrics that are to judge this law now.

        Args:
            last: whether it is the last one.
            have: names of metrics that have judged it.
        """
        able = [one for one in self.chosen if one.needs & OF_LAW <= seen.offers]
        each = self._asked or last
        return [one for one in able if (each or one.at == "each" or one is able[0]) and one.name not in have]

    def judge(self, seen: Seen, path: Sequence[float], runs: list[Run], metrics: Sequence[Metric]) -> list[list[Row]]:
        """The rows of each run that is going; those that diverged are marked, and get none.

        Args:
            path: flow times of the laws, 0 first, up to the judged one at least.
        """
        points, where = seen.points, "" if seen.t is None else f" at t = {seen.t:g}"
        finite = _finite(points)
        for run, good in zip(runs, finite, strict=True):
            if not good and not run.failed:
                run.status, run.reason = "diverged", f"points are not finite{where or f' at step {seen.step}'}"
        if not all(finite):  # metrics see whole batches: a dead seed's points are blanked, and get no rows
            alive = torch.tensor(finite, device=points.device).view(-1, *[1] * (points.ndim - 1))
            seen = replace(seen, points=torch.where(alive, points, 0.0))
        rows: list[list[Row]] = [[] for _ in runs]
        of_law: dict[Hashable, Any] = {}
        for metric in metrics:
            reason = ""
            try:
                found = self.estimate(metric, seen, path, of_law)
            except (ValueError, ArithmeticError, RuntimeError) as error:
                reason = reason_of(error)
                self._log.write(f"{metric.name}{where}: null: {reason}\n")
                nothing = [math.nan] * len(points)
                found = Found(nothing, nothing, points[:, : metric.points].shape[1])
            for i, run in enumerate(runs):
                if run.status == "ok":
                    rows[i].append(self.row(metric, seen, found, i, reason))
        return rows

    def estimate(
        self, metric: Metric, seen: Seen, path: Sequence[float], of_law: dict[Hashable, Any] | None = None
    ) -> Found:
        """The metric of a law; the same random numbers whenever it is asked for.

        Args:
            of_law: what metrics have computed of this law.

        Raises:
            ValueError, ArithmeticError, RuntimeError: the metric can't judge these points.
        """
        truth, index = metric.against(self._instance.truth, tuple(path[: seen.step + 1]), seen.index)
        log_prob = None if seen.log_prob is None else seen.log_prob[:, : metric.points]
        rng = self._streams.fork(f"metric/{metric.name}/{seen.index}")
        if self._of_truth[0] != seen.index:
            self._of_truth = seen.index, {}
        # an exact JKO sequence is another one at each law
        kept = Kept({} if of_law is None else of_law, self._of_truth[1] if metric.law == "flow" else {})
        forward = None if seen.forward is None else (self._exact(seen.index), seen.forward)
        judged = Judged(seen.points[:, : metric.points], log_prob, truth, index, rng, kept, forward, seen.log_z)
        return _found(metric.name, metric.evaluate(judged), len(seen.points))

    def row(self, metric: Metric, seen: Seen, found: Found, i: int, reason: str = "") -> Row:
        """The row of seed number i.

        Args:
            reason: why there is no value, if the metric has failed.
        """
        value, se = found.values[i], found.errors[i]
        worst = "" if math.isfinite(value) else reason or ("infinite" if math.isinf(value) else "not a number")
        return Row.of(
            step=seen.step,
            t=seen.t,
            metric=metric.name,
            metric_version=metric.version,
            better=metric.better,
            law=metric.law,
            role=role(self._job.contestant, metric),
            value=value if math.isfinite(value) else None,
            se=se if math.isfinite(se) else None,
            n=found.n,
            seconds=seen.seconds,
            score_calls=seen.counts.score,
            log_prob_calls=seen.counts.log_prob,
            draw_calls=seen.counts.draw,
            sample_seconds=seen.sample_seconds,
            sample_calls=seen.sample_calls,
            judge_seconds=None,
            metric_code=self._codes[metric.name],
            worst=worst,
        )


def judged_index(times: Sequence[float], clock: str, t: float | None) -> int | None:
    """Which of the judged times this is; the last where only the limit counts; None if it is none of them."""
    if t is None or clock == "none" or math.isinf(times[-1]):
        return len(times) - 1
    near = min(range(len(times)), key=lambda i: abs(times[i] - t))
    return near if same(times[near], t) else None


def _finite(points: Tensor) -> list[bool]:
    """Which seeds' points (S, n, ...) are finite: those with a finite sum are, which is quickly told."""
    flat = points.flatten(1)
    sums = flat.sum(1).isfinite()
    return (sums if bool(sums.all()) else flat.isfinite().all(1)).tolist()


def _found(name: str, estimate: object, seeds: int) -> Found:
    """An estimate for so many seeds as plain numbers: what a metric gives is checked when it is taken.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(estimate, Estimate):
        raise ValueError(f"{name} gave a {type(estimate).__name__}; expected an Estimate")
    for what, part in (("value", estimate.value), ("se", estimate.se)):
        real = isinstance(part, Tensor) and part.is_floating_point()
        if not real or part.shape != (seeds,):
            got = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"{name} gave {what} as {got}; expected real numbers ({seeds},), one for each seed")
    if type(estimate.n) is not int or estimate.n < 1:
        raise ValueError(f"{name} gave n = {estimate.n!r}; expected a whole number of points, 1 or more")
    values, errors = torch.stack(
        [estimate.value.double(), estimate.se.to(estimate.value.device, torch.float64)]
    ).tolist()
    if any(error < 0 for error in errors):
        raise ValueError(f"{name} gave a negative standard error; expected 0 or more, or NaN where it is not known")
    return Found(values, errors, estimate.n)


def reason_of(error: BaseException) -> str:
    """Its type and its text, on one line."""
    try:
        text = str(error).strip().replace("\n", " ")
    except Exception:  # a stranger's exception can do anything
        text = "(it can't be told)"
    return readable(f"{type(error).__name__}: {text}")


def readable(text: str) -> str:
    """The text as a file can keep it: no half characters, and not without end."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
