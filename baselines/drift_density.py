"""Drifting from a density: a one-step generator that regresses on its own outputs, moved by smoothed scores.

    V(x) = m_p(x) - m_q(x),   m_p = h^2 grad log(k * p),   m_q = h^2 grad log(k * q),   k = N(0, h^2 I)
    one Adam step on the mean square of G(z) - stop(G(z) + step V(G(z))),   z ~ N(0, I)

(Cao, Yan and Zhao 2026.) Of p only the unnormalised density gamma is known. Both m_p and m_q are means around x:

    m_p(x) = sum_j w_j h e_j,   w_j in proportion to gamma(x + h e_j), sum 1,   e_j ~ N(0, I)             sampling
    m_p(x) = h^2 sum_j w_j grad log gamma(x + h e_j),   the same weights                                    score
    m_q(x) = mean shift of x to other generated points, Gaussian kernel

Only the abstract of the paper was available. It has the one-step generator, the field of Gaussian-smoothed scores, the
local importance-sampling mean shift for p (`estimator=sampling`), the mean shift over a batch for q, and the objective
with a stopped gradient. Its second estimator of m_p, "second-order curvature-corrected", is not implemented here. Its
numbers for a four-mode mixture (mean error 0.0754, covariance error 0.0425, RBF MMD 0.0020) can't be compared with
ours, because the abstract does not say what the mixture is.

Everything else is ours:

- `estimator=score` has the same limit, because grad (k * p) = k * grad p. It is exact where the score is constant
  within h. Where h is wider than a mode, it has more noise than the other estimator.
- Draws come in pairs e, -e.
- Each half of the generated points takes the other half for m_q, since a point in its own cloud would be its own
  nearest neighbour and be held there.
- h falls geometrically from `first` to `last`, in units of the points' own spread, the root of the mean variance of a
  coordinate. A wide kernel moves mass between modes; a narrow one smooths less away.
- The generator is G(z) = s (z' + net(z)), with z' the first d coordinates of z, s the size of P_0's coordinates
  (velocity/size.py), and net 0 at the start: the first law is N(0, s^2 I).

Both means are over points within about h of x. In more than a few dimensions no such points have weight, and V is only
noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, Range, at_least, check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.silu import SiLU
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.movers import LATENT
from gwfbench.velocity.pairs import mean_shift
from gwfbench.velocity.size import coordinate_size

Even = Annotated[int, Range(lambda v: v >= 2 and v % 2 == 0, "an even number, at least 2", 32)]
Estimator = Literal["sampling", "score"]


@dataclass(frozen=True)
class DriftDensity:
    estimator: Estimator = "sampling"
    "estimate of the smoothed score of the target: from values of the density, or from its scores too"
    first: Positive = 1.0
    "bandwidth h at the first step, in units of `unit`"
    last: Positive | None = None
    "bandwidth h at the last step, in units of `unit`; default: points^(-1/(d+4)), Silverman's"
    unit: Positive | None = None
    "length that bandwidths are multiples of; default: root of the mean variance of a step's points in a coordinate"
    draws: Even = 64
    "number of draws around each generated point"
    step: Positive = 1.0
    "step size in units of h^2 of flow time"
    steps: Count = 1000
    "number of Adam steps"
    points: Annotated[int, at_least(4)] = 512
    "number of generated points per step"
    every: Count = 10
    "number of Adam steps per law"
    latent: Count | None = None
    "dimension of the generator's noise, at least d; default: 32, but d where it is larger"
    width: Count = 256
    "width of the generator's hidden layers"
    depth: Count = 3
    "number of the generator's hidden layers"
    lr: Positive = 1e-3
    "learning rate of the generator's Adam"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 4, "points": 32, "draws": 4, "width": 16, "every": 2}
    reference: ClassVar[str] = """@misc{cao2026onestep,
  title={One-Step Sampler for {B}oltzmann Distributions via Drifting}, author={Cao, Wenhan and Yan, Keyu and Zhao, Lin},
  year={2026}, eprint={2603.17579}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("last", "first"),
            when=self.last is not None and self.last > self.first,
            expected=f"at most the first bandwidth, {self.first:g}",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        size = coordinate_size(problem, rng.fork("size"))
        return self.resume(problem, budget, rng, {"k": 0, "size": size})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        (d,), target = problem.shape, problem[LogDensity]
        latent = self._latent(d)
        size = torch.as_tensor(state["size"]).to(rng.device, rng.dtype)[:, None, None]
        net = SiLU((latent, *[self.width] * self.depth, d), rng.fork("generator"))
        end_at_zero(net)
        adam = Adam(net.parameters, self.lr)
        if "parameters" in state:
            adam.load(state)

        def images(z: Tensor, frozen: bool = False) -> Tensor:
            return size * (z[..., :d] + net(z, frozen))

        def draw(n: int, noise: Streams) -> Tensor:
            return images(noise.normal(n, latent), frozen=True)

        for k in range(int(state["k"]) + 1, self.steps + 1):
            noise = rng.fork(f"step/{k}")
            x = images(noise.normal(self.points, latent))
            h = self._bandwidth(k, x.detach())
            move = self.step * velocity(target, x.detach(), h, self.draws, self.estimator, noise)
            # the gradient of |x - stop(x + move)|^2, in units of the size, mean over points and coordinates
            adam.descend(-2 * (x * move / size**2).sum() / (self.points * d), 1.0)
            if k % self.every == 0 or k == self.steps:
                kept = {**adam.state(), "k": k, "size": size[:, 0, 0].clone()}
                yield Drawn(float(k), draw, state=lambda kept=kept: kept)

    def _latent(self, d: int) -> int:
        latent = max(LATENT, d) if self.latent is None else self.latent
        refuse(self, "latent", when=latent < d, expected=f"at least {d}, the dimension of a point")
        return latent

    def _bandwidth(self, k: int, x: Tensor) -> Tensor:
        """h of the k-th step at points x, (S, 1, 1)."""
        n, d = x.shape[1:]
        last = min(self.first, n ** (-1 / (d + 4))) if self.last is None else self.last
        share = self.first * (last / self.first) ** ((k - 1) / max(self.steps - 1, 1))
        return share * (spread(x) if self.unit is None else torch.full_like(x[:, :1, :1], self.unit))


@torch.no_grad()
def velocity(target: LogDensity, x: Tensor, h: Tensor, draws: int, estimator: Estimator, noise: Streams) -> Tensor:
    """V at x (S, n, d); each half of x is the sample of q for the other half. h: (S, 1, 1)."""
    one, two = x.tensor_split(2, 1)
    to_q = torch.cat([mean_shift(a, b, h, "gaussian")[0] for a, b in ((one, two), (two, one))], 1)
    return attraction(target, x, h, draws, estimator, noise) - to_q


def attraction(target: LogDensity, x: Tensor, h: Tensor, draws: int, estimator: Estimator, noise: Streams) -> Tensor:
    """m_p at x (S, n, d) from that many draws around each point, in pairs e and -e."""
    n, d = x.shape[1:]
    half = h[..., None] * noise.fork("around").normal(n, draws // 2, d)
    shift = torch.cat([half, -half], 2)  # (S, n, draws, d)
    there = (x[:, :, None] + shift).flatten(1, 2)
    weights = target.log_prob(there).unflatten(1, (n, draws)).softmax(-1)[..., None]
    if estimator == "sampling":
        return (weights * shift).sum(2)
    return h**2 * (weights * target.score(there).unflatten(1, (n, draws))).sum(2)


def spread(x: Tensor) -> Tensor:
    """Root of the mean variance of the coordinates of x (S, n, d), (S, 1, 1)."""
    return x.var(1, keepdim=True).mean(-1, keepdim=True).sqrt()


@torch.no_grad()
def end_at_zero(net: SiLU) -> None:
    """Set the last layer to 0."""
    for leaf in net.parameters.leaves[-2:]:
        leaf.zero_()
