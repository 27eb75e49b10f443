"""Riesz flow: particles, or a generator, descend half MMD^2 with kernel -|x - y|, by sorting on random lines.

    x <- x + h V,   V <- mu V + v,   v = c_d E_theta theta (E sign(theta.(y - x)) - E sign(theta.(x' - x)))

This MMD^2 is the energy distance (Hertrich et al. 2024, whose image flows also have momentum). The kernel has no
bandwidth and a long range. As v is of order 1 whatever the scale of the data, h is a length: `step` times the root mean
square distance of two target points of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, Share, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry
from gwfbench.velocity.sliced import directions, riesz


@dataclass(frozen=True)
class RieszFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 0.1
    "step size h in units of the root mean square distance of two target points"
    steps: Count | None = None
    "number of steps; default: 600 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    lines: Count = 32
    "number of random directions per step"
    momentum: Share | None = None
    "momentum mu; default: 0.8 for particles, 0 for a generator, whose points have no past"
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
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64, "lines": 4}
    reference: ClassVar[str] = """@inproceedings{hertrich2024generative,
  title={Generative Sliced {MMD} Flows with {R}iesz Kernels}, author={Hertrich, Johannes and Wald, Christian and
  Altekr{\\"u}ger, Fabian and Hagemann, Paul}, booktitle={ICLR}, year={2024}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("momentum", "carrier"),
            when=self.carrier == "generator" and bool(self.momentum),
            expected="no momentum for a generator, whose points have no past",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        mu = (0.8 if self.carrier == "particles" else 0.0) if self.momentum is None else self.momentum
        memory: Tensor | None = None

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            nonlocal memory
            v = rms_distance(y) * riesz(x, y, directions(noise, self.lines, x.shape[2]))
            memory = v if memory is None or not mu else v + mu * memory
            return memory

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=600,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
