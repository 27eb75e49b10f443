"""Sliced Wasserstein flow: the flow of half SW_2^2, with the entropy's noise as in the paper.

    x <- x + h E_theta theta (F^-1_{theta#p} F_{theta#q}(theta.x) - theta.x) + sqrt(2 lambda h) Z

(Liutkus et al. 2019.) Directions are drawn anew at each step, as in the paper; the authors' code keeps
them by default, takes 100 quantiles where this has all, and adds lambda Z / sqrt(d), without the root of h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.movers import Carrier, carry, require_positive
from gwfbench.velocity.sliced import directions, sliced


@dataclass(frozen=True)
class SlicedFlow:
    carrier: Carrier = "particles"
    "what the field moves: particles, or the law of a generator"
    step: float = 1.0
    "h"
    steps: int = 300
    "how many"
    points: int = 1024
    "particles; or generated points a step"
    batch: int = 1024
    "fresh target points a step"
    lines: int = 64
    "directions a step"
    entropy: float = 0.0
    "lambda, the weight of the negative entropy beside half SW_2^2, which blurs the limit; the paper's toy has 1e-4"

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
        require_positive(self, "step", "steps", "points", "batch", "lines")
        require(
            0 <= self.entropy < float("inf") and (self.entropy == 0 or self.carrier == "particles"),
            f"sliced_flow:carrier={self.carrier},entropy={self.entropy}",
            "a number from 0, and 0 for a generator, which averages noise away",
            "carrier=particles, or leave entropy out",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        spread = (2 * self.entropy / self.step) ** 0.5  # times h: sqrt(2 lambda h)

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            v = sliced(x, y, directions(noise.fork("directions"), self.lines, x.shape[2]))
            return v + spread * noise.fork("entropy").normal(*x.shape[1:]) if spread else v

        return carry(self, problem, rng, velocity)
