"""Gradient-flow drifting: flows of divergences between kernel density estimates of the particles and of the target.

    v = sum of weights times w(r) (m_p - m_q),   r = q_h / p_h,   m the mean shifts, Gaussian kernel of bandwidth h

    KL(q|p)  w = 1     KL(p|q)  w = 1 / r     chi^2(q|p)  w = 2 r      MMD  E_p[k (y - x)] - E_q[k (x' - x)]

(Cao, Wei and Liu 2026.) gwfbench/velocity/kde.py has the formulas and the functionals whose flows they are. A time of 1
is a flow time of h^2. In w, the ratio r is clamped to [1/cut, cut], because both weights are unbounded where only one
of the clouds has points.

On the sphere the kernel, the shifts and the steps are geodesic (velocity/sphere.py). The paper does not give the
bandwidths, steps and cuts of its figures, so all values are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.fields import Count, NonNegative, Positive, Range, at_least, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity import sphere
from gwfbench.velocity.kde import kde_flow
from gwfbench.velocity.movers import Carrier, Manifold, Network, carry
from gwfbench.velocity.pairs import typical_distance
from gwfbench.velocity.ratio import Divergence

Cut = Annotated[float, Range(lambda v: v >= 1, "at least 1, or inf", 10.0)]
BANDWIDTH = 0.2  # in mean distances of points to targets


@dataclass(frozen=True)
class GradientFlowDrifting:
    kl: NonNegative = 1.0
    "weight of KL(q|p), which the paper calls forward"
    reverse_kl: NonNegative = 0.0
    "weight of KL(p|q)"
    chi2: NonNegative = 0.0
    "weight of chi^2(q|p)"
    mmd: NonNegative = 0.0
    "weight of half the squared MMD, kernel exp(-|x - y|^2 / 2 h^2), times h^2"
    manifold: Literal["euclidean", "sphere"] = "euclidean"
    "space of points, kernel and steps; sphere: the unit sphere"
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    bandwidth: Positive | None = None
    """kernel bandwidth h, an angle on the sphere; default: a fifth of the mean distance of a step's points to
    its targets"""
    cut: Cut = 10.0
    "bound on the density ratio r: it is clamped to [1/cut, cut] in the weights of KL(p|q) and chi^2"
    step: Positive | None = None
    "step size in units of h^2 of flow time; default: one over the largest weight that the cut allows"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Annotated[int, at_least(2)] = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    latent: Count | None = None
    "dimension of the generator's noise; default: 32 or the dimension of a point, the larger one"
    width: Count = 256
    "width of the generator's hidden layers"
    depth: Count = 3
    "number of the generator's hidden layers"
    lr: Positive = 1e-3
    "learning rate of the generator's Adam"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 2, "points": 64, "batch": 64, "width": 16}
    reference: ClassVar[str] = """@misc{cao2026gradient,
  title={Gradient Flow Drifting: Generative Modeling via {W}asserstein Gradient Flows of {KDE}-Approximated
  Divergences},  author={Cao, Jiarui and Wei, Zixuan and Liu, Yuxin}, year={2026}, eprint={2603.10592}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("kl", "reverse_kl", "chi2", "mmd"),
            when=not (self.kl or self.reverse_kl or self.chi2 or self.mmd),
            expected="weights that are not all 0",
            fix="write, for example, gf_drifting:kl=0,chi2=1",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        on_sphere = self.manifold == "sphere"
        if on_sphere:
            _require_sphere(problem, rng.fork("check"))

        def velocity(x: Tensor, y: Tensor, _noise: Streams) -> Tensor:
            h = BANDWIDTH * typical_distance(x, y) if self.bandwidth is None else self.bandwidth
            weights: dict[Divergence, float] = {"kl": self.kl, "reverse_kl": self.reverse_kl, "chi2": self.chi2}
            return kde_flow(x, y, h, weights, self.mmd, self.cut, on_sphere)

        return carry(
            self,
            problem,
            rng,
            velocity,
            step=self._step(),
            steps=300,
            network=Network(self.latent, self.width, self.depth, self.lr),
            manifold=Manifold(sphere.exponential, sphere.project) if on_sphere else Manifold(),
        )

    def _step(self) -> float:
        """Weights times this step are at most 1: no point moves farther than the difference of its mean shifts."""
        largest = self.kl + self.reverse_kl * self.cut + self.chi2 * 2 * self.cut + self.mmd
        return 1 / largest if self.step is None else self.step


def _require_sphere(problem: Problem, rng: Streams) -> None:
    draws = [problem[info].draw(16, rng.fork(info.__name__)).flatten(2) for info in (Initial, TargetSamples)]
    off = max(float((x.norm(dim=-1) - 1).abs().max()) for x in draws)
    require(
        torch.Size(problem.shape).numel() > 1 and off < 1e-3,
        f"gf_drifting:manifold=sphere, where |x| differs from 1 by {off:.3g}",
        "P_0 and target on the unit sphere",
        "use a task on it (--task sphere), or leave manifold out",
    )
