"""Porous-medium particles: the blob method for porous-medium flows, with attraction if the task has an interaction.

    x_i' = -n grad_{x_i} F,   F = w/(n (m - 1)) sum_i rho(x_i)^(m - 1) + 1/(2 n^2) sum_ij W(x_i - x_j)
    rho(x) = 1/n sum_j k(x - x_j),   k the normal density of standard deviation h

(Carrillo, Craig and Patacchini 2019, section 4.) The first part of F is w/(m - 1) int rho^m with one density smoothed;
for m = 2 it is an interaction energy with kernel w k.

The bandwidth is h = width sigma n^(-0.99/d), where sigma^2 is the mean variance of a coordinate. It is updated after
each law, so that h grows with a cloud that spreads. At width 4 it is about the distance between neighbours in a
Barenblatt profile. The power 0.99 is the authors': h must vanish more slowly than that distance. Between two laws this
is the gradient flow of one energy, which therefore falls. As W is even, the centre of mass does not move.

The steps are explicit midpoint steps with dt <= cfl h^2 / (w m max rho^(m-1)) and dt <= cfl h / max |x'|, shortened to
hit the judged times. The second bound is needed where W moves particles faster than they spread.

P_0's particles are draws and not a grid as in the paper, so that rho starts with the noise of a density estimate. The
smoothed density is flatter than the true one, and so the spread is too slow. On `barenblatt` with 1024 particles the
variance ends at 0.99 of the truth in dimension 2 and 0.93 in dimension 3. In dimension 6, with 2048 particles, h is
1.1 sigma and the variance ends at 0.69 of the truth (0.87 with width=2). More particles hardly help there, because
n^(-1/d) is near 1 for any n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, Positive, at_least, check_fields
from gwfbench.info import Field, Info, Initial, InteractionEnergy, InternalEnergy
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.blob import repulsion
from gwfbench.velocity.blocks import at_once
from gwfbench.velocity.movers import first

PAIRS = 2**16  # of particles whose W is asked for at once, on a CPU

Velocity = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> x' and rho^(m - 1)


@dataclass(frozen=True)
class PorousParticles:
    particles: Annotated[int, at_least(2)] = 1024
    "number n of particles; a law has no more points than these"
    width: Positive = 4.0
    "kernel bandwidth h in units of sigma n^(-0.99/d)"
    cfl: Fraction = 0.5
    "steps in units of the longest that the smallest scale h allows"
    step: Positive = 0.05
    "longest step, in flow time"
    steps: Count = 1000
    "number of steps; used only when the limit alone is judged"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, InternalEnergy})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "step": 1.0}
    reference: ClassVar[str] = """@article{carrillo2019blob,
  title={A blob method for diffusion}, author={Carrillo, Jos{\\'e} Antonio and Craig, Katy and Patacchini, Francesco
  S.}, journal={Calculus of Variations and Partial Differential Equations}, volume={58}, number={53}, year={2019}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        return self.resume(problem, budget, rng, {"k": 0, "x": x})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x = torch.as_tensor(state["x"]).to(rng.device, rng.dtype)
        internal, kernel = problem[InternalEnergy], None
        if any(isinstance(info, InteractionEnergy) for info in problem.infos):
            kernel = problem[InteractionEnergy].kernel
        grid = (0.0, *problem.grid(self.step, self.steps))
        for k in range(int(state["k"]) + 1, len(grid)):
            with torch.no_grad():
                h = self.bandwidth(x)
                field = partial(velocity, h=h, internal=internal, kernel=kernel)
                x = self._over(field, x, float(h), internal, grid[k] - grid[k - 1])
            kept = {"k": k, "x": x}
            yield Drawn(grid[k], partial(first, x), limit=self.particles, state=lambda kept=kept: kept)

    def bandwidth(self, x: Tensor) -> Tensor:
        """h of the particles x (1, n, d), (1, 1, 1)."""
        sigma = x.var(1, correction=0).mean(-1).sqrt()
        return (self.width * sigma * x.shape[1] ** (-0.99 / x.shape[2]))[:, None, None]

    def _over(self, field: Velocity, x: Tensor, h: float, internal: InternalEnergy, time: float) -> Tensor:
        """The particles (1, n, d) after a time."""
        left = time
        while left > 1e-9 * time:
            v, power = field(x)
            densest, speed = torch.stack([power.max(), v.norm(dim=-1).max()]).tolist()
            diffusion = internal.weight * internal.m * densest
            dt = min(self.cfl * h * h / diffusion, self.cfl * h / max(speed, 1e-30))
            dt = left / math.ceil(left / dt) if dt < left else left  # equal ones at the end: no sliver is left
            x = x + dt * field(x + 0.5 * dt * v)[0]
            left -= dt
        return x


def velocity(x: Tensor, h: Tensor, internal: InternalEnergy, kernel: Field | None) -> tuple[Tensor, Tensor]:
    """-n grad F at the particles x (1, n, d), and rho^(m - 1), (1, n)."""
    v, power = repulsion(x, h, internal.m)
    v = internal.weight * v
    return (v, power) if kernel is None else (v - attraction(x, kernel), power)


def attraction(x: Tensor, kernel: Field) -> Tensor:
    """1/n sum_j grad W(x_i - x_j), (S, n, d), by autograd of W on blocks of rows."""
    n = x.shape[1]

    def total(rows: Tensor) -> Tensor:
        return kernel((rows[:, :, None] - x[:, None]).flatten(1, 2)).sum()

    parts = x.split(max(1, at_once(x, PAIRS) // n), 1)
    return torch.cat([torch.func.grad(total)(rows) for rows in parts], 1) / n
