"""DrMMD flow: particles, or a generator, descend the chi^2 divergence regularised by a kernel.

    DrMMD(q || p) = (1 + lambda) |(Sigma_p + lambda)^{-1/2} (E_q k - E_p k)|^2,   v = -grad w
    w = 2 (1 + lambda) (Sigma_p + lambda)^{-1} (E_q k - E_p k),   Sigma_p = E_p k(y, .) (x) k(y, .)

(Chen et al. 2024.) The divergence tends to chi^2 as lambda -> 0. As lambda -> infinity it tends to MMD^2, so that the
flow is then twice as fast as `mmd_flow`. The witness w is the solution of one linear system in the target points.

The bandwidth falls geometrically, from `wider` times its last value, in the first part of the run. A kernel must first
reach the particles of a wide P_0 and then resolve the target's details. A kernel of constant bandwidth pushed away
those particles that started outside of its range (on toy2d's three rings, W2 was 1.11).

Particles move by step bandwidth^2 lambda / (1 + lambda) v, so that `step` has no unit; the authors' learning rate is
step lambda. For their rings they take lambda 0.001, bandwidth 0.15 (wider=1) and step 0.1, which is 4.4 here.

With `adaptive`, lambda is replaced by lambda sqrt(D / D_0), where D is the divergence at the step before and D_0 that
at the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, Positive, at_least, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import KERNELS, rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry, number
from gwfbench.velocity.witness import drmmd, drmmd_witness

LEAST = 1e-3  # times `regularisation`: lambda may not reach 0, where the system is singular

STEPS = 300  # of particles


@dataclass(frozen=True)
class DrMMD:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 1.0
    "step size in units of bandwidth^2 lambda / (1 + lambda)"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 512
    "number of fresh target points per step, and of unknowns of the linear system"
    regularisation: Positive = 0.1
    "regularisation lambda"
    adaptive: bool = False
    "whether lambda falls in proportion to the square root of the divergence"
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
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 32}
    reference: ClassVar[str] = """@article{chen2024regularized,
  title={(De)-regularized Maximum Mean Discrepancy Gradient Flow}, author={Chen, Zonghao and Mustafi, Aratrika and
  Glaser, Pierre and Korba, Anna and Gretton, Arthur and Sriperumbudur, Bharath K.}, journal={arXiv:2409.14980},
  year={2024}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        lam, first = (
            torch.full((len(rng.seeds), 1), self.regularisation, device=rng.device, dtype=rng.dtype),
            None,
        )  # (S, 1)
        steps, fall = count(), self.falling * number(self, STEPS)

        def velocity(x: Tensor, y: Tensor, _: Streams) -> Tensor:
            nonlocal lam, first
            last = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
            h = last * self.wider ** max(0.0, 1 - next(steps) / fall)
            witness = drmmd_witness(KERNELS[self.kernel](h), x, y, lam)
            v = -(h**2) * (lam / (1 + lam))[..., None] * witness.gradient(x)
            if self.adaptive:
                now = drmmd(witness, x, y)[:, None].clamp_min(0)  # below 0 by rounding alone
                first = now if first is None else first
                lam = self.regularisation * (now / first).sqrt().clamp_min(LEAST)
            return v

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=STEPS,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
