"""Blob method: particles follow the KL flow without noise, and a kernel estimate stands for their density.

    x_i' = s(x_i) + v(x_i),   s = grad log pi,   rho(x) = sum_j k(x - x_j),   k(x) = exp(-|x|^2 / 2 h^2)
    v(x_i) = -sum_j (1 / rho(x_i) + 1 / rho(x_j)) grad k(x_i - x_j)

This is the gradient flow of mean(log rho - log pi) over the particles (Carrillo, Craig and Patacchini 2019, equation
1.6 with m = 1). With `both` false the second term of v is left out, and v is minus the score of the kernel density
estimate.

The bandwidth h is `width` times the median distance between nearest neighbours, computed again at each step. Particles
that repel each other end up roughly on a lattice, on which rho is smooth once k reaches over the next few neighbours.
On `gaussian`, `ou` and `gmm`, width 2 is better than 1.5 in one and two dimensions; in three and four dimensions, where
h would be about as wide as the cloud, 1.5 is better. With no width do the modes of `gmm` in the plane get their right
shares.

The steps are explicit Euler steps with dt <= step, dt <= cfl h^2 (the stiffness of the repulsion is about 1 / h^2) and
dt <= reach h / max |x'|: however steep pi is at the start, no particle leaps over its neighbours. Where only the limit
is judged, there are `steps` such steps, whatever flow time they reach.

The method depends on a density estimate, which is good in one and two dimensions. In high dimension the particles end
in a cloud that is too narrow. There is no noise, and repulsion reaches no farther than h, so hardly any mass moves
between distant modes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, Positive, at_least, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.blob import repulsion, spacing
from gwfbench.velocity.movers import first


@dataclass(frozen=True)
class Blob:
    particles: Annotated[int, at_least(2)] = 1024
    "number n of particles; a law has no more points than these"
    step: Positive = 0.01
    "longest step, in flow time; steps are shortened to hit the judged times"
    steps: Count = 1000
    "number of steps; used only when the limit alone is judged"
    width: Positive | None = None
    "kernel bandwidth h in units of the distance between neighbours; default: 2 in one and two dimensions, 1.5 in more"
    bandwidth: Positive | None = None
    "kernel bandwidth h; default: set by `width`"
    both: bool = True
    "whether to use both terms of the energy's gradient; false: the score of the density estimate alone"
    cfl: Fraction = 0.5
    "longest step in units of h^2"
    reach: Positive = 0.5
    "longest move of a particle in one step, in units of h"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"  # each has steps of its own
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "steps": 3}
    reference: ClassVar[str] = """@article{carrillo2019blob,
  title={A blob method for diffusion}, author={Carrillo, Jos{\\'e} Antonio and Craig, Katy and Patacchini, Francesco
  S.}, journal={Calculus of Variations and Partial Differential Equations}, volume={58}, number={53}, year={2019}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        return self.resume(problem, budget, rng, {"k": 0, "t": 0.0, "x": x})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        k, t, x = int(state["k"]), float(state["t"]), torch.as_tensor(state["x"]).to(rng.device, rng.dtype)
        score, judged = problem[LogDensity].score, problem.times
        while k < self.steps or math.isfinite(judged[-1]):
            stop = next((time for time in judged if time > t), None)
            if stop is None:
                return
            with torch.no_grad():
                v, longest = self.velocity(score, x)
            count = math.ceil((stop - t) / longest) if math.isfinite(stop) else math.inf
            dt = longest if count == math.inf else (stop - t) / count
            k, t, x = k + 1, stop if count == 1 else t + dt, x + dt * v
            kept = {"k": k, "t": t, "x": x}
            yield Drawn(t, partial(first, x), limit=self.particles, state=lambda kept=kept: kept)

    def velocity(self, score: Field, x: Tensor) -> tuple[Tensor, float]:
        """x' at the particles x (1, n, d), and the longest step."""
        h = self.bandwidth or (self.width or (2.0 if x.shape[-1] <= 2 else 1.5)) * float(spacing(x))
        v = score(x) + repulsion(x, h, both=self.both)[0]
        speed = max(float(v.norm(dim=-1).max()), 1e-30)
        return v, min(self.step, self.cfl * h**2, self.reach * h / speed)
