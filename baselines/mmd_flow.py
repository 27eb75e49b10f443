"""MMD flow: particles, or a generator, descend half the squared maximum mean discrepancy to the target.

    x <- x + gamma v(x + beta_k u),   v = -grad f,   f = E_q k - E_p k,   u ~ N(0, I)

(Arbel et al. 2019, equations 9 and 18.) The noise only moves the place where the field is evaluated: it lets particles
leave points at which the gradient vanishes although q is not p. Here gamma = step x bandwidth^2 and beta_k = noise x
bandwidth x 2^-(k / halving), so that neither `step` nor `noise` has a unit. The authors' code halves beta every 1000
epochs from 1.

The default kernel is riesz, -|x - y|: a Gaussian kernel narrow enough for the target's details does not move particles
that start far from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, NonNegative, Positive, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import KERNELS, Name, rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry
from gwfbench.velocity.witness import mmd_witness


@dataclass(frozen=True)
class MMDFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 2.0
    "step size in squared bandwidths"
    steps: Count | None = None
    "number of steps; default: 400 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    kernel: Name = "riesz"
    "kernel k; riesz is -|x - y| / h, the kernel of the energy distance"
    bandwidth: Positive | None = None
    "kernel bandwidth h; default: `width` times the root mean square distance between the batch's target points"
    width: Positive = 0.2
    "kernel bandwidth in units of that distance; ignored if `bandwidth` is given"
    noise: NonNegative = 0.0
    "noise beta_0, in bandwidths; 0: no noise"
    halving: Positive = 100.0
    "number of steps in which the noise is halved"
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
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64}
    reference: ClassVar[str] = """@inproceedings{arbel2019maximum,
  title={Maximum Mean Discrepancy Gradient Flow}, author={Arbel, Michael and Korba, Anna and Salim, Adil and Gretton,
  Arthur}, booktitle={NeurIPS}, year={2019}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        steps = count()

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            h = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
            beta, at = self.noise * 0.5 ** (next(steps) / self.halving), x
            if beta > 0:
                at = x + beta * h * noise.normal(*x.shape[1:])
            return -(h**2) * mmd_witness(KERNELS[self.kernel](h), x, y).gradient(at)

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=400,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
