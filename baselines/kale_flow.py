"""KALE flow: particles, or a generator, down the KL approximate lower bound estimator.

    KALE(q || p) = (1 + lambda) max_w { 1 + E_q w - E_p exp(w) - lambda/2 |w|^2 },   v = -(1 + lambda) grad w
    k(x, y) = exp(-|x - y|^2 / sigma)                                                    (no 1/2)

(Glaser et al. 2021.) It tends to KL as lambda -> 0 and to half the squared MMD as lambda -> infinity. The dual problem
is solved at each step by Newton's method, starting from the previous step's witness at the new target points. Particles
move by

    x <- x + step sigma lambda / (1 + lambda) v(x + beta_k u), u ~ N(0, I), beta_k = noise sqrt(sigma) 2^(-k / halving)

so that `step` has no unit; for large lambda it is half that of `mmd_flow`, as sigma = 2 bandwidth^2. The authors' rate
is step sigma lambda / (1 + lambda). On their three rings (sigma 0.1) that is step = 1 at lambda = 1e-3 and 0.01 at 1e4,
but their particles start in a small blob on a ring. Ours start wide, where a kernel of that width leaves distant
particles behind.
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
from gwfbench.velocity.kernels import gaussian, rms_distance
from gwfbench.velocity.movers import Carrier, carry
from gwfbench.velocity.witness import kale_witness


@dataclass(frozen=True)
class KALEFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 1.5
    "step size in units of sigma lambda / (1 + lambda)"
    steps: Count = 300
    "number of steps of the particles, or of Adam steps of the generator"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 512
    "number of fresh target points per step, and of dual variables"
    regularisation: Positive = 0.01
    "regularisation lambda"
    sigma: Positive | None = None
    """kernel parameter sigma, a squared length; default: `width` times the mean square distance between the
    batch's target points"""
    width: Positive = 2.0
    "kernel parameter sigma in units of that mean square; ignored if `sigma` is given"
    noise: NonNegative = 0.0
    "noise beta_0, in units of the square root of sigma; 0: no noise"
    halving: Positive = 100.0
    "number of steps in which the noise is halved"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 32}
    reference: ClassVar[str] = """@inproceedings{glaser2021kale,
  title={{KALE} Flow: A Relaxed {KL} Gradient Flow for Probabilities with Disjoint Support}, author={Glaser, Pierre and
  Arbel, Michael and Gretton, Arthur}, booktitle={NeurIPS}, year={2021}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        lam, steps, witness = self.regularisation, count(), None

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            nonlocal witness
            sigma = self.width * rms_distance(y) ** 2 if self.sigma is None else self.sigma
            witness = kale_witness(gaussian((sigma / 2) ** 0.5), x, y, lam, witness)
            beta, at = self.noise * 0.5 ** (next(steps) / self.halving), x
            if beta > 0:
                at = x + beta * sigma**0.5 * noise.normal(*x.shape[1:])
            return -sigma * lam * witness.gradient(at)

        return carry(self, problem, rng, velocity)
