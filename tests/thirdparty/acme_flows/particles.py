"""Gaussian particle flow with particles of its own: the KL flow, the moving law's score that of a fitted Gaussian.

x <- x + h (grad log pi(x) + C^-1 (x - m)),   m, C the particles' mean and covariance
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from acme_flows.gaussians import fit
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Particles:
    step: Positive = 0.01
    "step size h, in flow time; steps are shortened to hit the judged times"
    steps: Count = 100
    "number of steps; used only when the limit alone is judged"
    particles: Count = 2000
    "number of particles; a law has no more points than these"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"particles": 300, "steps": 5}
    reference: ClassVar[str] = """@misc{acme2026particles, title={An example}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return self._laws(problem, problem[Initial].draw(self.particles, rng.fork("particles")), 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, done = state["x"], state["done"]
        assert isinstance(x, Tensor)
        assert isinstance(done, int)
        return self._laws(problem, x, done)

    def _laws(self, problem: Problem, x: Tensor, done: int) -> Iterator[Marginal]:
        grid = (0.0, *problem.grid(self.step, self.steps))
        for k in range(done + 1, len(grid)):
            mean, precision = fit(x)
            x = x + (grid[k] - grid[k - 1]) * (problem[LogDensity].score(x) + (x - mean) @ precision)

            def draw(n: int, noise: Streams, x: Tensor = x) -> Tensor:
                if n > x.shape[1]:
                    raise ValueError(f"there are {x.shape[1]} particles; {n} were asked for")
                chosen = noise.uniform(x.shape[1]).argsort(1)[:, :n, None]  # without replacement
                return x.gather(1, chosen.expand(-1, -1, x.shape[2]))

            yield Drawn(grid[k], draw, limit=x.shape[1], state=lambda x=x, k=k: {"x": x, "done": k})
