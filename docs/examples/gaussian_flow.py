"""Gaussian particle flow: the KL flow with the law's score replaced by that of a fitted Gaussian.

x <- x + h (grad log pi(x) + C^-1 (x - m)),   m, C the particles' mean and covariance
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, Pushed
from gwfbench.rng import Streams


@dataclass(frozen=True)
class GaussianFlow:
    step: Positive = 0.01
    "step size h, in flow time"
    steps: Count = 500
    "number of steps; used only when the limit alone is judged"
    particles: Count = 20_000
    "number of points that estimate mean and covariance"

    __post_init__ = check_fields

    needs: ClassVar = frozenset({Initial, LogDensity})
    clock: ClassVar = "flow"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    smoke: ClassVar = {"particles": 500}
    reference: ClassVar = """@misc{readme, title={The README's example}}"""

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        score, grid = problem[LogDensity].score, problem.grid(self.step, self.steps)
        x = problem[Initial].draw(self.particles, rng)  # (S, n, d)
        for before, t in zip((0.0, *grid), grid):
            m = x.mean(1, keepdim=True)
            precision = torch.linalg.inv((x - m).mT @ (x - m) / self.particles)

            def push(y, noise, h=t - before, m=m, precision=precision):
                return y + h * (score(y) + (y - m) @ precision)

            x = push(x, rng)
            yield Pushed(t, push)
