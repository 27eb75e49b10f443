"""A method and a task as strangers write them, for the type checker: they are a `Method` and a `Task`. Nothing runs it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

import gwfbench
from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Marginal, Method, Metric, Problem, Pushed, Task, Truth
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Descent:
    step: Positive = 0.1
    "step size"
    steps: Count = 10
    "number of steps when only the limit is judged"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = "@misc{descent, title={Descent}}"

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        score = problem[LogDensity].score
        for t in problem.grid(self.step, self.steps):
            yield Pushed(t, lambda x, _noise: x + self.step * score(x))


@dataclass(frozen=True)
class Point:
    dim: Count = 2
    "dimension"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial})
    metrics: ClassVar[tuple[str, ...]] = ("w2",)
    points: ClassVar[int] = 1000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = "@misc{point, title={Point}}"

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        start = Initial(lambda n, streams: streams.normal(n, self.dim))
        truth = Truth(lambda index, n, streams: torch.zeros(len(streams.seeds), n, self.dim), exact=True)
        return Instance(Problem((self.dim,), (1.0,), (start,)), truth)


method: Method = Descent()
task: Task = Point()
known: dict[str, Metric] = gwfbench.metrics()
names: list[str] = list(gwfbench.tasks())
problem: Problem = gwfbench.task("ou").build(Streams((0,))).problem
