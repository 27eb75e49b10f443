"""Checks of a metric: with draws of the truth and of P_0 on the small copies of tasks."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from gwfbench.check.outcome import Check, Skipped, expect
from gwfbench.check.trial import SEEDS, Subject, other_luck, unchanged
from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.job import Job
from gwfbench.drive.judge import Found, Judge, Seen
from gwfbench.drive.log import Log
from gwfbench.drive.meter import Counts
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.metrics import choose
from gwfbench.plugins import registry
from gwfbench.protocol import OF_LAW, Instance, Metric, Need
from gwfbench.rng import Streams

POINTS = 1000  # most points that are judged
REPEATS = 10  # of SEEDS, to see how far values spread
TASKS = 3  # with which a metric is checked, QUICK ones first
QUICK = ("gaussian", "toy2d", "ou", "gmm", "blr", "images")


@dataclass
class Trial:
    """A metric on a task, and the laws that it is given."""

    metric: Metric
    task: Subject
    _values: dict[tuple[str, tuple[int, ...], int], Found] = field(default_factory=dict)

    def judge(self, seeds: tuple[int, ...] = SEEDS) -> Judge:
        """A judge by this metric alone."""
        made = instance(self.task.small, seeds)
        own = replace(made, truth=replace(made.truth, metrics=(self.metric,)))
        job = Job(self.task.small, CONTROLS["exact"], seeds)
        return Judge(job, own, Streams(seeds).fork("eval"), Log(), [self.metric.name])

    def law(self, which: str, seeds: tuple[int, ...] = SEEDS, again: int = 0) -> Seen:
        """Draws of the truth ("exact") or of P_0 ("still"), with all that is known of their densities."""
        made, rng = instance(self.task.small, seeds), Streams(seeds).fork(f"law/{again}")
        problem, truth, index = made.problem, made.truth, len(made.problem.times) - 1
        n = min(self.metric.points or POINTS, POINTS)
        if which == "exact":
            assert truth.draw is not None
            points = truth.draw(index, min(n, truth.limit or n), rng)
            density = None if truth.log_prob is None else (lambda x: truth.log_prob(index, x))  # type: ignore[misc]
        else:
            points, density = problem[Initial].draw(n, rng), problem[Initial].log_prob
        log_prob = density(points) if density and Need.LOG_PROB in self.metric.needs else None
        nothing = Counts()
        seen = Seen(1, None, index, points, log_prob, 0.0, nothing, 0.0, 0.0)
        if Need.FORWARD in self.metric.needs and density is not None:
            seen = self.judge(seeds).look_back(seen, density)
        return seen

    def value(self, which: str, seeds: tuple[int, ...] = SEEDS, again: int = 0) -> Found:
        """The metric of a law."""
        key = which, seeds, again
        if key not in self._values:
            self._values[key] = self.estimate(self.law(which, seeds, again), seeds)
        return self._values[key]

    def estimate(self, seen: Seen, seeds: tuple[int, ...] = SEEDS, kept: dict[Hashable, Any] | None = None) -> Found:
        """The metric of what is seen.

        Raises:
            Skipped: a law of draws has not what it needs.
        """
        lacking = self.metric.needs & OF_LAW - seen.offers
        if lacking:
            raise Skipped(f"draws alone have no {', '.join(sorted(lacking))}")
        return self.judge(seeds).estimate(self.metric, seen, (0.0, math.inf), kept)


@cache
def instance(task: Any, seeds: tuple[int, ...]) -> Instance:
    """The task built for these seeds."""
    return task.build(Streams(seeds).fork(f"task/{registry.name_of(task)}"))


def gives_a_number_for_each_seed(trial: Trial) -> None:
    """Finite values for draws of the truth, with standard errors that are not negative, of at most `points` points."""
    found = trial.value("exact")
    expect(
        all(map(math.isfinite, found.values)), f"{found.values} for draws of the truth", "finite numbers",
        "see what the metric divides by, or takes the logarithm of",
    )  # fmt: skip
    most = trial.metric.points
    expect(
        most is None or found.n <= most, f"n = {found.n}", f"at most points = {most}", "give the number of points used"
    )


def tells_the_start_from_the_truth(trial: Trial) -> None:
    """P_0 is worse than the truth, in the direction of `better`: mean over seeds."""
    exact, still = (sum(trial.value(which).values) / len(SEEDS) for which in ("exact", "still"))
    sign = 1 if trial.metric.better == "lower" else -1
    expect(
        math.isinf(still) or sign * (still - exact) > 0, f"exact {exact:.3g}, still {still:.3g}",
        f"exact {'below' if sign > 0 else 'above'} still, as better = '{trial.metric.better}'",
        "check the sign; or this task's start is its truth for this metric: name another by --task",
    )  # fmt: skip


def twice_is_the_same(trial: Trial) -> None:
    """Evaluated again under other global random states, it gives the same bits. The process is left unchanged."""
    seen = trial.law("still")
    unchanged(lambda: trial.estimate(seen))
    first = trial.value("still")
    with other_luck():
        second = trial.estimate(trial.law("still"))
    expect(
        _bits(first) == _bits(second), f"{second.values} after {first.values}", "the same bits",
        "draw all noise from judged.rng",
    )  # fmt: skip


def leaves_what_it_judges(trial: Trial) -> None:
    """Points and log-densities are as they were."""
    seen = trial.law("still")
    before = [None if x is None else x.clone() for x in (seen.points, seen.log_prob)]
    trial.estimate(seen)
    after = (seen.points, seen.log_prob)
    changed = any(x is not None and y is not None and not torch.equal(x, y) for x, y in zip(before, after, strict=True))
    expect(not changed, "it changed the points that it was given", "the same points", "work on a copy")


def is_the_same_after_other_metrics(trial: Trial) -> None:
    """What other metrics of the task have kept changes no bit."""
    seen, kept = trial.law("still"), dict[Hashable, Any]()
    for name in trial.task.cls.metrics:
        (other,) = (Trial(one, trial.task) for one in choose([name], instance(trial.task.small, SEEDS).truth.metrics))
        quick = other.metric.at == "each" and other.metric.law == "flow"
        if quick and other.metric.needs & OF_LAW <= seen.offers:
            try:
                other.estimate(replace(seen, points=seen.points[:, : other.metric.points]), kept=kept)
            except (ValueError, ArithmeticError, RuntimeError, UserError, Skipped):
                continue
    alone, after = trial.value("still"), trial.estimate(seen, kept=kept)
    expect(
        _bits(alone) == _bits(after), f"{after.values} after other metrics, {alone.values} alone", "the same bits",
        "keep under a key that says all that the kept value depends on",
    )  # fmt: skip


def seeds_do_not_see_each_other(trial: Trial) -> None:
    """A seed's value does not depend on the other seeds, except for rounding."""
    among = trial.value("still")
    for row, seed in enumerate(SEEDS):
        (alone,), (value,) = trial.value("still", (seed,)).values, [among.values[row]]
        close = value == alone or abs(alone - value) <= 1e-3 * (abs(value) + _size(among))
        expect(close, f"{value:.6g} for seed {seed} among others, {alone:.6g} alone", "the same", "reduce over n alone")


def standard_error_is_large_enough(trial: Trial) -> None:
    """Values of new draws of P_0 spread by at most three times the given standard errors."""
    found = [trial.value("still", again=again) for again in range(REPEATS)]
    values = torch.tensor([one.values for one in found], dtype=torch.float64)
    errors = torch.tensor([one.errors for one in found], dtype=torch.float64)
    if not bool((values.isfinite() & errors.isfinite()).all()):
        raise Skipped("it gives no standard error here")
    spread, error = float(values.var(0).mean().sqrt()), float(errors.square().mean().sqrt())
    rounding = 1e-6 * float(values.abs().max())
    expect(
        spread <= 3 * error + rounding, f"values spread by {spread:.2g}, standard error {error:.2g}",
        "a standard error of at least a third of that", "check its formula, or give NaN where it is not known",
    )  # fmt: skip


def _bits(found: Found) -> list[str]:
    return [repr(value) for value in (*found.values, *found.errors)]


def _size(found: Found) -> float:
    return max((abs(value) for value in found.values if math.isfinite(value)), default=1.0)


CHECKS = tuple(
    map(
        Check,
        (
            gives_a_number_for_each_seed, tells_the_start_from_the_truth, twice_is_the_same, leaves_what_it_judges,
            is_the_same_after_other_metrics, seeds_do_not_see_each_other, standard_error_is_large_enough,
        ),
    )
)  # fmt: skip


def tasks(metric: Metric) -> list[Subject]:
    """The first few tasks to check a metric with: of those that list it; if none does, of all that it can judge."""
    plugins = [one for one in registry.plugins("task").values() if not one.problem]
    listed = [one.name for one in plugins if metric.name in (one.metrics or one.load().metrics)]
    names = listed or [one.name for one in plugins]
    found: list[Subject] = []
    for name in sorted(names, key=lambda name: QUICK.index(name) if name in QUICK else len(QUICK)):
        subject = Subject.read("task", name)
        try:
            truth = instance(subject.small, SEEDS).truth
        except UserError:  # its data are not here
            continue
        if truth.draw is not None and not truth.lacks(metric, "flow"):
            found.append(subject)
        if len(found) == TASKS:
            break
    return found
