"""KALE flow: particles, or a generator, descend the KL approximate lower bound estimator (KALE).

    KALE(q || p) = (1 + lambda) max_w { 1 + E_q w - E_p exp(w) - lambda/2 |w|^2 },   v = -(1 + lambda) grad w
    k(x, y) = exp(-|x - y|^2 / sigma)                                                    (no 1/2)

(Glaser et al. 2021.) It tends to KL as lambda -> 0 and to half the squared MMD as lambda -> infinity. The dual problem
is solved at each step by Newton's method, which starts from the previous step's witness at the new target points.
Particles move by

    x <- x + step sigma lambda / (1 + lambda) v(x + beta_k u), u ~ N(0, I), beta_k = noise sqrt(sigma) 2^(-k / halving)

so that `step` has no unit; for large lambda it is half that of `mmd_flow`, as sigma = 2 bandwidth^2. The authors' rate
is step sigma lambda / (1 + lambda). On their three rings (sigma 0.1) that is step = 1 at lambda = 1e-3 and 0.01 at 1e4,
but their particles start in a small blob on a ring.

Ours start wide, and a kernel of that width leaves distant particles behind. Hence sqrt(sigma) falls geometrically, from
`wider` times its last value, in the first part of the run: a kernel must first reach the particles of a wide P_0 and
then resolve the target's details. A constant sigma pushed away those particles that started outside of its range (on
toy2d's three rings, W2 was 1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, NonNegative, Positive, at_least, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import gaussian, rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry, number
from gwfbench.velocity.witness import kale_witness

STEPS = 300  # of particles


@dataclass(frozen=True)
class KALEFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 1.0
    "step size in units of sigma lambda / (1 + lambda)"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 512
    "number of fresh target points per step, and of dual variables"
    regularisation: Positive = 0.01
    "regularisation lambda"
    sigma: Positive | None = None
    """kernel parameter sigma, a squared length, after its fall; default: `width` times the mean square distance
    between the batch's target points"""
    width: Positive = 0.16
    "kernel parameter sigma in units of that mean square; ignored if `sigma` is given"
    wider: Annotated[float, at_least(1)] = 20.0
    "ratio of the first bandwidth, the square root of sigma, to the last; 1: a constant sigma"
    falling: Fraction = 0.6
    "share of the steps in which sigma falls, geometrically"
    noise: NonNegative = 0.0
    "noise beta_0, in units of the square root of sigma; 0: no noise"
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
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 32}
    reference: ClassVar[str] = """@inproceedings{glaser2021kale,
  title={{KALE} Flow: A Relaxed {KL} Gradient Flow for Probabilities with Disjoint Support}, author={Glaser, Pierre and
  Arbel, Michael and Gretton, Arthur}, booktitle={NeurIPS}, year={2021}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        lam, steps, witness = self.regularisation, count(), None
        fall = self.falling * number(self, STEPS)

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            nonlocal witness
            k = next(steps)
            last = self.width * rms_distance(y) ** 2 if self.sigma is None else self.sigma
            sigma = last * self.wider ** max(0.0, 2 - 2 * k / fall)
            witness = kale_witness(gaussian((sigma / 2) ** 0.5), x, y, lam, witness)
            beta, at = self.noise * 0.5 ** (k / self.halving), x
            if beta > 0:
                at = x + beta * sigma**0.5 * noise.normal(*x.shape[1:])
            return -sigma * lam * witness.gradient(at)

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=STEPS,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
