"""Blob: the KL flow of particles whose density is that of their own kernel estimate, without noise.

    x_i' = s(x_i) + v(x_i),   s = grad log pi,   rho(x) = sum_j k(x - x_j),   k(x) = exp(-|x|^2 / 2 h^2)
    v(x_i) = -sum_j (1 / rho(x_i) + 1 / rho(x_j)) grad k(x_i - x_j)

the gradient flow of mean(log rho - log pi) over the particles (Carrillo, Craig and Patacchini 2019, equation 1.6 with
m = 1). With `both` false the second term of v is left out, and v is minus the score of the kernel density estimate.
h = width times the median distance between nearest neighbours, anew in each step: particles that repel each other end
about on a lattice, on which rho is smooth once k reaches over the next few. On `gaussian`, `ou` and `gmm` in one and
two dimensions width 2 is better than 1.5, in three and four, where h would be about as wide as the cloud, 1.5. No width
mends the shares of `gmm`'s modes in the plane.

Explicit Euler steps dt <= step, dt <= cfl h^2 (the repulsion's stiffness is about 1 / h^2) and
dt <= reach h / max |x'|: however steep pi is at the start, no particle leaps over its neighbours. Where only the limit
is judged these are `steps` steps, whatever flow time they reach. All of it rests on a density estimate: good in one and
two dimensions; in many the particles end in a cloud that is too narrow. There is no noise, and repulsion reaches
no farther than h: between modes far apart hardly any mass goes over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.blob import repulsion, spacing
from gwfbench.velocity.movers import first


@dataclass(frozen=True)
class Blob:
    particles: int = 1024
    "n, all that there is to draw"
    step: float = 0.01
    "longest step, in flow time; shortened where it must hit a judged time"
    steps: int = 1000
    "how many, where only the limit is judged"
    width: float | None = None
    "h in units of the distance between neighbours; none: 2 in one and two dimensions, 1.5 in more"
    bandwidth: float | None = None
    "h; none: by `width`"
    both: bool = True
    "both terms of the energy's gradient, or the estimate's score alone"
    cfl: float = 0.5
    "longest step in units of h^2"
    reach: float = 0.5
    "longest way of a particle in a step, in units of h"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"  # each has steps of its own
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "steps": 3}
    reference: ClassVar[str] = """@article{carrillo2019blob,
  title={A blob method for diffusion}, author={Carrillo, Jos{\\'e} Antonio and Craig, Katy and Patacchini, Francesco
  S.}, journal={Calculus of Variations and Partial Differential Equations}, volume={58}, number={53}, year={2019}}"""

    def __post_init__(self) -> None:
        for name, ok, expected in (
            ("particles", self.particles >= 2, "at least 2"),
            ("step", 0 < self.step < math.inf, "a positive number"),
            ("steps", self.steps >= 1, "at least 1"),
            ("width", self.width is None or 0 < self.width < math.inf, "a positive number, or none"),
            ("bandwidth", self.bandwidth is None or 0 < self.bandwidth < math.inf, "a positive number, or none"),
            ("cfl", 0 < self.cfl <= 1, "above 0, to 1"),
            ("reach", 0 < self.reach < math.inf, "a positive number"),
        ):
            require(ok, f"blob:{name}={getattr(self, name)}", expected, f"leave {name} out for its default")

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
