"""KSD descent: L-BFGS moves particles to a minimum of their squared kernel Stein discrepancy to the target.

    KSD^2 = 1/n^2 sum_ij k_pi(x_i, x_j),   s = grad log pi,   k(x, y) = exp(-|x - y|^2 / (2 sigma))
    k_pi(x, y) = k [s(x).s(y) + (s(x) - s(y)).(x - y) / sigma + d / sigma - |x - y|^2 / sigma^2]

(Korba et al. 2021, equations 3 and 4, Algorithm 2; sigma is not squared, as in their code.) The gradient needs second
derivatives of log pi, here by autograd through log_prob.

By default sigma follows the scale of the particles: before each law it is set to h^2 of svgd's median rule, med(|x -
y|^2) / (2 log(n + 1)), unless it is within a factor of 1.2 of that already. A new sigma is a new objective, for which
L-BFGS starts again. Lengths are in units of sqrt(sigma), so the descent does not depend on the unit of length. Their
code has sigma = 1.

The optimiser is PyTorch's L-BFGS with a strong Wolfe search. It keeps its memory between laws and runs in the problem's
precision on its device, whereas SciPy's would copy each iterate to the host. A law is `inner` iterations. There are
fewer laws if the gradient falls below `tolerance`.

The KSD has bad stationary points. Particles on a hyperplane about which pi is symmetric stay there (their Lemma 11),
and many that start near one end on it. Distant modes may all be found, but with wrong shares, to which the KSD is
almost blind.

Only its limit is meaningful. Where a task is judged at finite times, the last law is compared with the flow at the last
of them, although the descent does not stop at that time.
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
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.distances import apart
from gwfbench.velocity.median import median_bandwidth
from gwfbench.velocity.movers import first

SAME = 1.2  # ratio of two sigmas within which the old one stays


@dataclass(frozen=True)
class KSDDescent:
    particles: Count = 1024
    "number n of particles; a law has no more points than these, and an iteration costs n^2"
    sigma: Positive | None = None
    "kernel parameter sigma, the square of a length; default: svgd's median rule, computed again before each law"
    laws: Count = 50
    "largest number of laws"
    inner: Count = 10
    "number of L-BFGS iterations per law, each of one or a few evaluations"
    history: Count = 10
    "number of pairs of steps and gradients that L-BFGS remembers"
    tolerance: Positive = 1e-7
    "largest entry of the gradient of sigma KSD^2, with lengths in units of sqrt(sigma), at which the descent ends"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "looped"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"particles": 64, "laws": 3, "inner": 2}
    reference: ClassVar[str] = """@inproceedings{korba2021kernel,
  title={Kernel {S}tein Discrepancy Descent}, author={Korba, Anna and Aubin-Frankowski, Pierre-Cyril and Majewski,
  Szymon and Ablin, Pierre}, booktitle={ICML}, year={2021}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        log_prob = problem[LogDensity].log_prob
        x = problem[Initial].draw(self.particles, rng.fork("particles")).detach()
        sigma = self.sigma or float(median_bandwidth(x).square())
        unit, u, optimiser = self._start(x, sigma)

        def loss() -> Tensor:
            value = sigma * squared_ksd(log_prob, unit * u, sigma).sum()
            (u.grad,) = torch.autograd.grad(value, u)
            return value.detach()

        for k in range(1, self.laws + 1):
            median = sigma if self.sigma else float(median_bandwidth(x).square())
            if not sigma / SAME <= median <= sigma * SAME:
                sigma = median
                unit, u, optimiser = self._start(x, sigma)
            optimiser.step(loss)
            x = unit * u.detach()
            # the gradient kept is that of the last trial, at x or next to it
            yield Drawn(k * 1e-3, partial(first, x), limit=self.particles)
            if u.grad is not None and float(u.grad.abs().max()) <= self.tolerance:
                return

    def _start(self, x: Tensor, sigma: float) -> tuple[float, Tensor, torch.optim.LBFGS]:
        """The unit of length, the particles in it, and their optimiser, whose steps and tolerance so have no unit."""
        unit = math.sqrt(sigma)
        u = (x / unit).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [u],
            max_iter=self.inner,
            history_size=self.history,
            tolerance_grad=self.tolerance,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        return unit, u, optimiser


def squared_ksd(log_prob: Field, x: Tensor, sigma: float) -> Tensor:
    """KSD^2 of the particles x (S, n, d), which require gradients, (S,); it can be differentiated.

    Args:
        log_prob: of the target, (S, n, d) -> (S, n), twice differentiable.
        sigma: of the kernel, the square of a length.
    """
    (s,) = torch.autograd.grad(log_prob(x).sum(), x, create_graph=True)
    y = x - x.mean(1, keepdim=True)  # differences alone count; rounding is less
    length = y.square().sum(-1)
    square = length[:, :, None] + length[:, None] - 2 * y @ y.mT
    cross, own = s @ y.mT, (s * y).sum(-1)  # s_i . y_j and s_i . y_i
    slopes = own[:, :, None] + own[:, None] - cross - cross.mT
    if (far := apart(length[..., None], length[..., None], 1 / sigma)) is not None:  # differences alone keep digits
        gap, change = (z[far, :, None] - z[far, None] for z in (x, s))
        square = square.index_put((far,), gap.square().sum(-1))
        slopes = slopes.index_put((far,), (change * gap).sum(-1))
    kernel = (-square / (2 * sigma)).exp()
    return (kernel * (s @ s.mT + slopes / sigma + x.shape[-1] / sigma - square / sigma**2)).mean((1, 2))
