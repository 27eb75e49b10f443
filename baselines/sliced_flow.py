"""Sliced Wasserstein flow: particles, or a generator, descend half SW_2^2, with or without the paper's entropy noise.

    x <- x + h E_theta theta (F^-1_{theta#p} F_{theta#q}(theta.x) - theta.x) + sqrt(2 lambda h) Z

(Liutkus et al. 2019.) New directions are drawn at each step, as in the paper. The authors' code differs: it keeps the
directions by default, takes 100 quantiles where this method takes all, and adds lambda Z / sqrt(d), without the root of
h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, NonNegative, Positive, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.movers import Carrier, Network, carry
from gwfbench.velocity.sliced import directions, sliced


@dataclass(frozen=True)
class SlicedFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 1.0
    "step size h"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    lines: Count = 64
    "number of random directions per step"
    entropy: NonNegative = 0.0
    """weight lambda of the negative entropy added to half SW_2^2, which blurs the limit; the paper's toy
    example has 1e-4"""
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
    reference: ClassVar[str] = """@inproceedings{liutkus2019sliced,
  title={Sliced-{W}asserstein Flows: Nonparametric Generative Modeling via Optimal Transport and Diffusions},
  author={Liutkus, Antoine and {\\c{S}}im{\\c{s}}ekli, Umut and Majewski, Szymon and Durmus, Alain and St{\\"o}ter,
  Fabian-Robert}, booktitle={ICML}, year={2019}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("entropy", "carrier"),
            when=self.carrier == "generator" and self.entropy > 0,
            expected="no entropy for a generator, which averages the noise away",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        spread = (2 * self.entropy / self.step) ** 0.5  # times h: sqrt(2 lambda h)

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            v = sliced(x, y, directions(noise.fork("directions"), self.lines, x.shape[2]))
            return v + spread * noise.fork("entropy").normal(*x.shape[1:]) if spread else v

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=300,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
