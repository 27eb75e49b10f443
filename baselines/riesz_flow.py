"""Riesz flow: the flow of half MMD^2 with kernel -|x - y|, the energy distance, by sorting on random lines.

    x <- x + h V,   V <- mu V + v,   v = c_d E_theta theta (E sign(theta.(y - x)) - E sign(theta.(x' - x)))

(Hertrich et al. 2024, Algorithm 1, with the momentum of Section 4.) The kernel has no bandwidth and a long range, and
v is of order 1 whatever the data's scale, so h is a length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.carriers import Carrier, carry
from gwfbench.errors import require
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.sliced import directions, riesz


@dataclass(frozen=True)
class RieszFlow:
    carrier: Carrier = "particles"
    "what the field moves: particles, or the law of a generator"
    step: float = 0.1
    "h"
    steps: int = 300
    "how many"
    points: int = 1024
    "particles; or generated points a step"
    batch: int = 1024
    "fresh target points a step"
    lines: int = 64
    "directions a step"
    momentum: float = 0.0
    "mu, for particles"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64, "lines": 4}
    reference: ClassVar[str] = """@inproceedings{hertrich2024generative,
  title={Generative Sliced {MMD} Flows with {R}iesz Kernels}, author={Hertrich, Johannes and Wald, Christian and
  Altekr{\\"u}ger, Fabian and Hagemann, Paul}, booktitle={ICLR}, year={2024}}"""

    def __post_init__(self) -> None:
        for field in ("step", "steps", "points", "batch", "lines"):
            value = getattr(self, field)
            require(
                0 < value < float("inf"),
                f"riesz_flow:{field}={value}",
                "a positive number",
                f"leave {field} out for its default",
            )
        require(
            0 <= self.momentum < 1 and (self.momentum == 0 or self.carrier == "particles"),
            f"riesz_flow:carrier={self.carrier},momentum={self.momentum}",
            "a number from 0 to below 1, and 0 for a generator, whose points have no past",
            "carrier=particles, or momentum=0",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        memory: Tensor | None = None

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            nonlocal memory
            v = riesz(x, y, directions(noise, self.lines, x.shape[2]))
            if self.momentum:
                memory = v = v if memory is None else v + self.momentum * memory
            return v

        return carry(
            self.carrier,
            problem,
            rng,
            velocity,
            step=self.step,
            steps=self.steps,
            points=self.points,
            batch=self.batch,
        )
