"""Unadjusted Langevin algorithm: the KL flow with its exact score, discretised forward in time.

    x <- x + h grad log pi(x) + sqrt(2 h) xi,   xi ~ N(0, I)

The law after k steps is the flow's at t = k h up to O(h). Nothing is trained: the whole cost is that of moving points,
which the leaderboard shows as seconds and score calls per point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams


@dataclass(frozen=True)
class ULA:
    step: Positive = 0.005
    "step size h, in flow time; steps are shortened to hit the judged times"
    steps: Count = 1000
    "number of steps; used only when the limit alone is judged"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3}
    reference: ClassVar[str] = """@article{roberts1996exponential,
  title={Exponential convergence of {L}angevin distributions and their discrete approximations}, author={Roberts, Gareth
  O. and Tweedie, Richard L.}, journal={Bernoulli}, volume={2}, number={4}, pages={341--363}, year={1996}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return self.resume(problem, budget, rng, {"k": 0})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        score, grid = problem[LogDensity].score, (0.0, *problem.grid(self.step, self.steps))
        for k in range(int(state["k"]) + 1, len(grid)):
            yield Pushed(grid[k], _step(score, grid[k] - grid[k - 1]), state=lambda k=k: {"k": k})


def _step(score: Field, h: float) -> Callable[[Tensor, Streams], Tensor]:
    def push(x: Tensor, noise: Streams) -> Tensor:
        return x + h * score(x) + (2 * h) ** 0.5 * noise.normal(*x.shape[1:])

    return push
