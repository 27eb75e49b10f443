"""The controls that bracket every task: they run like methods but get the truth too.

`exact` draws from the truth: its value of a metric is that metric's noise floor. `still` never moves. `exact_jko`, on
tasks that know it, draws from the exact JKO sequence over the judged times: the floor of `symkl_jko`, and, under the
flow's metrics, the discretisation error that no JKO method can beat but by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from gwfbench.protocol import Drawn, Instance, Marginal, Metric, Problem, Pushed, Truth
from gwfbench.store.record import Role


@dataclass(frozen=True)
class Control:
    """A contestant with the answer in its hands.

    floor: the law ("flow" or "jko") of the metrics for which its values are the noise floor; None if of none.
    """

    name: str
    summary: str
    clock: Literal["jko", "flow", "none"]
    floor: Literal["flow", "jko"] | None
    fit: Callable[[Instance], Iterator[Marginal]]
    version: int = 1


class NoTruth(Exception):
    """A control, or all metrics that are asked for, need what this task's truth does not have: the run is skipped."""


def _exact(instance: Instance) -> Iterator[Marginal]:
    return _draws(instance.problem, instance.truth)


def _exact_jko(instance: Instance) -> Iterator[Marginal]:
    assert instance.truth.jko is not None
    steps = tuple(after - before for before, after in pairwise((0.0, *instance.problem.times)))
    return _draws(instance.problem, instance.truth.jko(steps))


def _draws(problem: Problem, truth: Truth) -> Iterator[Marginal]:
    draw, density = truth.draw, truth.log_prob
    if draw is None:
        raise NoTruth("this task has no ground truth")
    for index, t in enumerate(problem.times):
        log_prob = None if density is None else (lambda x, index=index: density(index, x))
        yield Drawn(t, lambda n, rng, index=index: draw(index, n, rng), log_prob, truth.limit)


def _still(instance: Instance) -> Iterator[Marginal]:
    for t in instance.problem.times:
        yield Pushed(t, lambda x, _noise: x, lambda x: torch.zeros_like(x.flatten(2)[..., 0]), lambda y: y)


CONTROLS = {
    control.name: control
    for control in (
        Control("exact", "draws from the truth: the noise floor", "flow", "flow", _exact),
        Control("exact_jko", "draws from the exact JKO sequence", "jko", "jko", _exact_jko),
        Control("still", "stays at the initial law", "jko", None, _still),
    )
}


def role(contestant: object, metric: Metric) -> Role:
    """What a contestant's value of a metric is: the floor if it draws from what the metric compares with.

    Where higher is better the truth is a mark (accuracy on test data, say), and no floor, unless the metric says so.
    """
    if not isinstance(contestant, Control):
        return "method"
    bounds = metric.better == "lower" or metric.bound
    return "floor" if contestant.floor == metric.law and bounds else "control"
