"""Unadjusted Langevin algorithm: explicit Euler steps of the KL flow, with its exact score and noise.

    x <- x + h grad log pi(x) + sqrt(2 h) xi,   xi ~ N(0, I)

The law after k steps is the flow's at t = k h up to O(h). Nothing is trained: nearly the whole cost is that of moving
points, which the leaderboard shows as seconds and score calls per point.

Step size. The algorithm is stable while h < 2 / L, with L the largest curvature of -log pi where the points are. Beyond
it, points leap across pi and end far from it. L is watched on pilots, 64 chains from P_0 that make the same steps. It
is the largest eigenvalue of the Hessian at any of them, by the power method on differences of the score (192 score
calls per step, and 1216 more before the first).

Where only the limit counts, h = `cfl` / L, computed again at each step: on blr:data=twonorm L falls from 7600 to 140 on
the way. At the limit the variance along the stiffest direction is then 1 / (1 - cfl / 2) times too large. A step that
you choose, and that of a flow that is judged at finite times, stays as it is. A seed for which the step is not below
2 / L ends as diverged, its points infinite, and the log says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, Range, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams

Stable = Annotated[float, Range(lambda v: 0 < v < 2, "above 0 and below 2", 0.5)]
PILOTS = 64  # chains on which the curvature is watched
FLOW_STEP = 0.005  # where the flow's own times are judged
ROUNDS = 20  # of the power method at the first step; later ones begin at the directions of the step before


@dataclass(frozen=True)
class ULA:
    step: Positive | None = None
    """step size h, in flow time; default: 0.005, shortened to hit the judged times; where only the limit counts,
    `cfl` / L in each step, L the largest curvature of -log pi at pilots"""
    cfl: Stable = 0.5
    "step size in units of 1 / L (only where the limit alone is judged and no step is given); unstable from 2 on"
    steps: Count = 1000
    "number of steps; used only when the limit alone is judged"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3}
    reference: ClassVar[str] = """@article{roberts1996exponential,
  title={Exponential convergence of {L}angevin distributions and their discrete approximations}, author={Roberts, Gareth
  O. and Tweedie, Richard L.}, journal={Bernoulli}, volume={2}, number={4}, pages={341--363}, year={1996}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(PILOTS, rng.fork("pilots"))
        start = {"k": 0, "x": x, "v": rng.fork("directions").normal(*x.shape[1:])}
        return self.resume(problem, budget, rng, start)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, v = (torch.as_tensor(state[name]).to(rng.device, rng.dtype) for name in ("x", "v"))
        score, done = problem[LogDensity].score, int(state["k"])
        free = self.step is None and math.isinf(problem.times[-1])
        # a nominal time where h differs by seed: the limit has none
        grid = (0.0, *(range(1, self.steps + 1) if free else problem.grid(self.step or FLOW_STEP, self.steps)))
        for k in range(done + 1, len(grid)):
            with torch.no_grad():
                largest, v = curvature(score, x, v, ROUNDS if k == 1 else 1)
                h = self.cfl / largest if free else grid[k] - grid[k - 1]
                stable = h * largest < 2  # not where the curvature is nan
                if not stable.all():
                    _explain(rng.seeds, k, h, largest, stable)
                push = _step(score, h, stable)
                x = push(x, rng.fork(f"pilots/{k}"))
            kept = {"k": k, "x": x, "v": v}
            yield Pushed(float(grid[k]), push, state=lambda kept=kept: kept)


def _step(score: Field, h: float | Tensor, stable: Tensor) -> Callable[[Tensor, Streams], Tensor]:
    """One step; infinite for seeds that are not stable, (S, 1, 1)."""

    def push(x: Tensor, noise: Streams) -> Tensor:
        moved = x + h * score(x) + (2 * h) ** 0.5 * noise.normal(*x.shape[1:])
        return moved.where(stable, math.inf)

    return push


def curvature(score: Field, x: Tensor, v: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of -grad score at any of the points x (S, n, d), (S, 1, 1), and directions to go on from.

    Args:
        v: directions to start from, (S, n, d), one for each point.
        rounds: of the power method.
    """
    spread = (x - x.mean(1, keepdim=True)).norm(dim=-1).median(1).values[:, None, None]
    reach = torch.finfo(x.dtype).eps ** (1 / 3) * spread.where(spread > 0, 1.0)
    here, tiny = score(x), torch.finfo(x.dtype).tiny
    value = size = torch.zeros_like(x[..., :1])
    shift = size.amax(1, keepdim=True)
    for _ in range(rounds):
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(tiny)
        image = (here - score(x + reach * v)) / reach
        value, size = (v * image).sum(-1, keepdim=True), image.norm(dim=-1, keepdim=True)
        shift = torch.maximum(shift, size.amax(1, keepdim=True))
        v = image + shift * v  # so that the largest eigenvalue wins and not the one of largest modulus
    largest = value.amax(1, keepdim=True)
    return largest.where(largest > 0, size.amax(1, keepdim=True)), v


def _explain(seeds: tuple[int, ...], k: int, h: float | Tensor, largest: Tensor, stable: Tensor) -> None:
    """Into the log of the run."""
    for i in (~stable.flatten()).nonzero().flatten().tolist():
        length, most = float(torch.as_tensor(h).expand_as(largest)[i]), float(largest[i])
        print(
            f"ula: step {k} of seed {seeds[i]} has h = {length:.3g}\n  expected: below 2 / L = {2 / most:.3g}, beyond "
            f"which the algorithm is unstable\n  fix: leave step out, or write ula:step={0.5 / most:.2g}"
        )
