"""MMD flow: particles, or a generator, down half the squared maximum mean discrepancy to the target.

    x <- x + gamma v(x + beta_k u),   v = -grad f,   f = E_q k - E_p k,   u ~ N(0, I)

(Arbel et al. 2019, equations 9 and 18.) The noise moves only where the field is read: it lets particles leave points
at which the gradient vanishes though q is not p. Here gamma = step x bandwidth^2 and beta_k = noise x bandwidth x
2^-(k / halving), so that neither has a unit; the authors' code halves beta every 1000 epochs from 1.

The default kernel is riesz, -|x - y|: a gaussian narrow enough for the target's details
leaves particles that start far from it where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import KERNELS, Name, rms_distance
from gwfbench.velocity.movers import Carrier, carry, require_positive
from gwfbench.velocity.witness import mmd_witness


@dataclass(frozen=True)
class MMDFlow:
    carrier: Carrier = "particles"
    "what the field moves"
    step: float = 2.0
    "in squared bandwidths"
    steps: int = 400
    "of the particles; or Adam steps of the generator"
    points: int = 1024
    "particles; or generated points a step"
    batch: int = 1024
    "fresh target points a step"
    kernel: Name = "riesz"
    "k; riesz is -|x - y| / h, that of the energy distance"
    bandwidth: float | None = None
    "h of the kernel; none: `width` times the root mean square distance between the batch's target points"
    width: float = 0.2
    "in units of that distance; not used where `bandwidth` is a number"
    noise: float = 0.0
    "beta_0, in bandwidths"
    halving: float = 100.0
    "steps until the noise is halved"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64}
    reference: ClassVar[str] = """@inproceedings{arbel2019maximum,
  title={Maximum Mean Discrepancy Gradient Flow}, author={Arbel, Michael and Korba, Anna and Salim, Adil and Gretton,
  Arthur}, booktitle={NeurIPS}, year={2019}}"""

    def __post_init__(self) -> None:
        require_positive(self, "step", "bandwidth", "width", "halving", "steps", "points", "batch")
        require(
            0 <= self.noise < math.inf,
            f"mmd_flow:noise={self.noise}",
            "a number that is not negative",
            "write, for example, mmd_flow:noise=0.5",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        steps = count()

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            h = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
            beta, at = self.noise * 0.5 ** (next(steps) / self.halving), x
            if beta > 0:
                at = x + beta * h * noise.normal(*x.shape[1:])
            return -(h**2) * mmd_witness(KERNELS[self.kernel](h), x, y).gradient(at)

        return carry(self, problem, rng, velocity)
