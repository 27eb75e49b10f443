"""f-divergence flow: particles, or a generator, descend Tsallis' divergence regularised by the MMD.

    D(q) = min over s >= 0 of D_f(s || p) + MMD^2(s, q) / (2 lambda),   v = -grad h,   h its first variation

(Stein, Neumayer, Rux and Steidl 2025, arXiv 2402.04613; velocity/envelope.py.) f is of order alpha > 1: order 2 is
chi^2, and the limit 1 is KL, which `kale_flow` has. The larger alpha is, the harder the flow pushes those parts of q
where p has little mass. At each step the problem for s, whose unknowns are the weights of the target points, is solved
from the previous h.

Particles move by step bandwidth^2 lambda v, so that `step` has no unit; for large lambda that is the flow of
`mmd_flow`. The authors' step size is our step bandwidth^2 lambda. They keep one set of target points for the whole run,
while ours are fresh at each step.

Their example has alpha 3, lambda 1, the imq kernel of bandwidth^2 0.5 and step size 0.001: 50 000 steps of 900
particles. Their imq, (s + |x - y|^2)^(-1/2), is ours divided by the bandwidth, which acts as if lambda were multiplied
by it. With steps as long, and P_0 as wide, as ours, the bandwidth must fall, as in kale_flow; that is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, Positive, Range, at_least, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.envelope import envelope_witness
from gwfbench.velocity.kernels import KERNELS, rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry, number

STEPS = 300  # of particles
Order = Range(lambda v: 1 < v <= 20, "above 1 and at most 20", 3)


@dataclass(frozen=True)
class FFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    alpha: Annotated[float, Order] = 3.0
    "order of Tsallis' divergence; 2: chi^2"
    step: Positive = 2.0
    "step size in units of bandwidth^2 lambda"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 512
    "number of fresh target points per step, and of unknowns"
    regularisation: Positive = 0.1
    "regularisation lambda"
    kernel: Literal["gaussian", "imq", "laplace", "matern32", "matern52"] = "imq"
    "kernel k; imq has the longest range"
    bandwidth: Positive | None = None
    """kernel bandwidth h after its fall; default: `width` times the root mean square distance between the batch's
    target points"""
    width: Positive = 0.2
    "kernel bandwidth in units of that distance; ignored if `bandwidth` is given"
    wider: Annotated[float, at_least(1)] = 20.0
    "ratio of the first bandwidth to the last; 1: a constant bandwidth"
    falling: Fraction = 0.6
    "share of the steps in which the bandwidth falls, geometrically"
    latent: Count | None = None
    "dimension of the generator's noise; default: 32 or the dimension of a point, the larger one"
    generator_width: Count = 256
    "width of the generator's hidden layers"
    generator_depth: Count = 3
    "number of the generator's hidden layers"
    generator_lr: Positive = 1e-3
    "learning rate of the generator's Adam"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 32}
    reference: ClassVar[str] = """@article{stein2025moreau,
  title={{W}asserstein Gradient Flows for {M}oreau Envelopes of $f$-Divergences in Reproducing Kernel {H}ilbert Spaces},
  author={Stein, Viktor and Neumayer, Sebastian and Rux, Nicolaj and Steidl, Gabriele}, journal={arXiv:2402.04613},
  year={2025}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        lam, steps, witness = self.regularisation, count(), None
        fall = self.falling * number(self, STEPS)

        def velocity(x: Tensor, y: Tensor, _: Streams) -> Tensor:
            nonlocal witness
            last = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
            h = last * self.wider ** max(0.0, 1 - next(steps) / fall)
            witness = envelope_witness(KERNELS[self.kernel](h), x, y, lam, self.alpha, witness)
            return -(h**2) * lam * witness.gradient(x)

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=STEPS,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
