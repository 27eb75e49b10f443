"""Stein variational gradient descent: particles follow a kernel average of the score and repel each other.

    x_i <- x_i + step_k * phi(x_i) / (fudge + sqrt(g_i)),   phi(x) = 1/n sum_j [k(x_j, x) s(x_j) + grad_{x_j} k(x_j, x)]
    g <- decay g + (1 - decay) phi^2,   g = phi^2 at first

Here s = grad log pi, k(x, y) = exp(-|x - y|^2 / 2 h^2) and h^2 = med(|x - y|^2) / (2 log(n + 1)) (Liu and Wang 2016,
Algorithm 1 and section 5; their text calls the step Adagrad, but their code has the moving mean above). The median is
over the pairs of the first 256 particles.

A scaled step doesn't shrink near the limit: with a constant step size all particles end up oscillating in phase, by
more than a narrow target is wide. So step_k falls geometrically, from `step` to `last` times it, in units of each
coordinate's standard deviation in P_0 (from 256 draws). By default particles can travel 29 such units, and end up
accurate to 1/5000 of one. Liu and Wang's step is constant (0.05 in their logistic regression): for it write
step=0.05,last=1, in our units.

One particle climbs to the mode. n particles are good quadrature points rather than draws: in high dimension the
variance comes out too small (Ba et al. 2022). In 21 dimensions (blr:data=german) 512 particles have about half of it.

Only its limit is meaningful. Where a task is judged at finite times, the particles after all steps are compared with
the flow at the last of these times, although they do not stop at that time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.fields import Count, Fraction, Positive, Share, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.blocks import as_number
from gwfbench.velocity.distances import of_seeds, pull
from gwfbench.velocity.median import SAMPLE, median_bandwidth
from gwfbench.velocity.movers import first
from gwfbench.velocity.pairs import LEAST, distant, log_kernel


@dataclass(frozen=True)
class SVGD:
    particles: Count = 1024
    "number n of particles; a law has no more points than these"
    step: Positive = 0.2
    "initial step size, scaled: roughly how far a coordinate moves in one step, in units of its spread in P_0"
    last: Fraction = 0.001
    "ratio of the last step size to the first; step sizes fall geometrically"
    steps: Count = 1000
    "number of steps"
    decay: Share = 0.9
    "decay rate of the moving mean of squares"
    fudge: Positive = 1e-6
    "constant added to the square root of that mean"
    bandwidth: Positive | None = None
    "kernel bandwidth h; default: from the median distance, computed again at each step"
    rows: Count | None = None
    "number of data rows per step, drawn again for each; default: all"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "steps": 3}
    reference: ClassVar[str] = """@inproceedings{liu2016stein,
  title={Stein Variational Gradient Descent: A General Purpose {B}ayesian Inference Algorithm}, author={Liu, Qiang and
  Wang, Dilin}, booktitle={NeurIPS}, year={2016}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        return self.resume(problem, budget, rng, {"k": 0, "x": x, "squares": torch.full_like(x, torch.nan)})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, squares = (torch.as_tensor(state[name]).to(rng.device, rng.dtype) for name in ("x", "squares"))
        target, unit = problem[LogDensity], spread(problem[Initial].draw(SAMPLE, rng.fork("spread")))
        for k in range(int(state["k"]) + 1, self.steps + 1):
            with torch.no_grad():
                phi = stein_direction(x, self._score(target, rng, k)(x), self.bandwidth or median_bandwidth(x))
                squares = phi.square() if k == 1 else self.decay * squares + (1 - self.decay) * phi.square()
                step = self.step * self.last ** ((k - 1) / max(self.steps - 1, 1)) * unit
                x = x + step * phi / (self.fudge + squares.sqrt())
            kept = {"k": k, "x": x, "squares": squares}
            yield Drawn(k * self.step, partial(first, x), limit=self.particles, state=lambda kept=kept: kept)

    def _score(self, target: LogDensity, rng: Streams, k: int) -> Field:
        if self.rows is None:
            return target.score
        if target.batch is None:
            raise UserError(f"svgd:rows={self.rows}", "a task whose density is a sum over data rows", "leave rows out")
        return target.batch(self.rows, rng.fork(f"rows/{k}")).score


def spread(x: Tensor) -> Tensor:
    """Standard deviation of each coordinate of x (S, n, d), (S, 1, d); 1 where all points are the same."""
    deviation = x.std(1, keepdim=True)
    return deviation.where(deviation > 1e-6 * x.abs().amax(1, keepdim=True), 1.0)  # rounding is no spread


def stein_direction(x: Tensor, score: Tensor, h: Tensor | float) -> Tensor:
    """phi at the particles, (S, n, d).

    Args:
        x, score: (S, n, d), the particles and grad log pi there.
        h: bandwidth, one number or (S, 1, 1).
    """
    middle = x.mean(1, keepdim=True)
    y = x - middle
    precision = 1 / as_number(h, x).square()
    columns = torch.cat([score - precision * y, torch.ones_like(y[..., :1])], -1)
    sums = torch.cat([values.clamp_min_(LEAST).exp_() @ columns for _, values in log_kernel(y, y, h, "gaussian")], 1)
    phi = (sums[..., :-1] + precision * y * sums[..., -1:]) / x.shape[1]
    if (far := distant(y, y, h)) is not None:  # there y has lost digits to the middle, and sums cancel
        for at, values in log_kernel(x, x, h, "gaussian"):
            k = values[far].clamp_min_(LEAST).exp_()
            phi[far, at] = (k @ score[far] - of_seeds(precision, far) * pull(k, x[far, at], x[far])) / x.shape[1]
    return phi
