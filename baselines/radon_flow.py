"""Radon-Wasserstein flow: particles descend KL(q || pi); on each line they follow the flow of their projection.

    x <- x + sum_l theta_l move_l(theta_l.x),   move_l = tau_l w_l, at most `reach` bandwidths

where w_l, from velocity/radon.py, is the velocity E[theta.grad log pi | theta.x = r] - (log q_theta)'(r), estimated by
kernel sums over the projected particles. `variant` kdrw takes it as it is; rrw smooths it once more, which makes it a
gradient flow of KL on particles too (Hess-Childs, Slepcev and Xu 2026). A step costs O(n) per line, and kernels act in
one dimension only. pi is at rest for any bandwidth, as both parts are smoothed alike.

The bandwidth h of a line is width n^(-1/5) times the standard deviation along it, width 2 for kdrw and 1 for rrw, and
the floor is 0.02: the authors' numbers ("adaptive"; eps = 0.02 / n).

The authors take one random line per step, and one time step for all lines, between 0.005 and 1 depending on the
example. Ours differs by default:

    lines    d orthogonal ones per step, so that a call of the score moves a particle in all directions, not in one
    tau      step h^2, falling geometrically to `last` times that: each line has its own unit of time. KL still falls,
             but not at the rate of the paper's flow. Steps have no unit, and random lines leave no jitter in the end
    reach    a particle moves half a bandwidth at most along one line

For the authors' scheme write lines=1,own=false,last=1,reach=inf and their step. One line per step slows the flow by the
factor d: on a Gaussian that is the same in all directions, the mean of theta w(theta.x) is a d-th of the velocity of
KL's flow.

Only its limit is meaningful, as for SVGD. On blr:data=german (21 dimensions), where SVGD's particles have about half of
the variance, these have 0.95 to 1.33 of each coordinate's. Distant modes are harder: mass crosses gaps no better than
in `blob`, and first steps that are too long give the modes of toy2d wrong shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, NonNegative, Positive, StepOrInf, at_least, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.movers import first
from gwfbench.velocity.radon import Variant, frames, on_lines

BLOCK = 1 << 21  # projected particles at a time


@dataclass(frozen=True)
class RadonFlow:
    particles: Annotated[int, at_least(2)] = 1024
    "number n of particles; a law has no more points than these"
    variant: Variant = "rrw"
    "velocity on a line; kdrw: from kernel sums (kernel density); rrw: the same, smoothed once more (regularised)"
    lines: Count | None = None
    "number of random lines per step, orthogonal in groups of d; from d lines on their moves are averaged; default: d"
    step: Positive = 1.0
    "first step size, in squared bandwidths of each line; in flow time if `own` is false"
    last: Fraction = 0.01
    "ratio of the last step size to the first; step sizes fall geometrically"
    steps: Count = 1000
    "number of steps"
    own: bool = True
    "whether each line has its own unit of time, its squared bandwidth; false: all lines have the same unit"
    reach: StepOrInf = 0.5
    "longest move of a particle along one line in a step, in bandwidths"
    width: Positive | None = None
    """kernel bandwidth h on a line, in units of n^(-1/5) standard deviations of the particles along it; default: 2 for
    kdrw, 1 for rrw"""
    floor: NonNegative = 0.02
    "constant added to the sum of kernels, each of height 1"
    cells: Annotated[int, at_least(2)] = 10
    "number of grid cells per bandwidth"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "steps": 3}
    reference: ClassVar[str] = """@article{hesschilds2026radon,
  title={Radon--{W}asserstein Gradient Flows for Interacting-Particle Sampling in High Dimensions}, author={Hess-Childs,
  Elias and Slep{\\v{c}}ev, Dejan and Xu, Lantian}, journal={arXiv:2602.05227}, year={2026}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        return self.resume(problem, budget, rng, {"k": 0, "x": x})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, score = torch.as_tensor(state["x"]).to(rng.device, rng.dtype), problem[LogDensity].score
        for k in range(int(state["k"]) + 1, self.steps + 1):
            tau = self.step * self.last ** ((k - 1) / max(self.steps - 1, 1))
            theta = frames(rng.fork(f"lines/{k}"), self.lines or x.shape[2], x.shape[2])
            with torch.no_grad():
                x = x + self.move(x, score(x), theta, tau)
            kept = {"k": k, "x": x}
            yield Drawn(k * self.step, partial(first, x), limit=self.particles, state=lambda kept=kept: kept)

    def move(self, x: Tensor, score: Tensor, theta: Tensor, tau: float) -> Tensor:
        """The move of the particles x (S, n, d) in a step of size tau on the lines theta (S, L, d)."""
        width = self.width or {"kdrw": 2.0, "rrw": 1.0}[self.variant]
        moved = torch.zeros_like(x)
        for part in theta.split(max(1, BLOCK // x[..., 0].numel()), 1):
            h, w = on_lines(x, score, part, width, self.variant, self.floor, self.cells)
            far = self.reach * h
            moved += (w * (tau * h.square() if self.own else tau)).clamp(-far, far).mT @ part
        return moved * min(1.0, x.shape[2] / theta.shape[1])
