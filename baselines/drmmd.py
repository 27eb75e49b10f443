"""DrMMD flow: particles, or a generator, down the chi^2 divergence regularised by a kernel.

    DrMMD(q || p) = (1 + lambda) |(Sigma_p + lambda)^{-1/2} (E_q k - E_p k)|^2,   v = -grad w
    w = 2 (1 + lambda) (Sigma_p + lambda)^{-1} (E_q k - E_p k)

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.carriers import Carrier, carry
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.kernels import KERNELS, rms_distance
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernel import drmmd, drmmd_witness


@dataclass(frozen=True)
class DrMMD:
    carrier: Carrier = "particles"
    "what the field moves"
    step: float = 1.0
    "in units of bandwidth^2 lambda / (1 + lambda)"
    steps: int = 300
    "of the particles; or Adam steps of the generator"
    points: int = 1024
    "particles; or generated points a step"
    batch: int = 1024
    "fresh target points a step"
    regularisation: float = 1e-3
    "lambda"
    adaptive: bool = False
    "lambda falls with the divergence D: lambda sqrt(D / D_0), D of the step before"
    kernel: Literal["gaussian", "imq", "laplace", "matern32", "matern52"] = "gaussian"
    "k"
    bandwidth: float | None = None
    "h"
    width: float = 0.2
    "share of that distance"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 32}
    reference: ClassVar[str] = """@article{chen2024regularized,
  title={(De)-regularized Maximum Mean Discrepancy Gradient Flow}, author={Chen, Zonghao and Mustafi, Aratrika and
  Glaser, Pierre and Korba, Anna and Gretton, Arthur and Sriperumbudur, Bharath K.}, journal={arXiv:2409.14980},
  year={2024}}"""

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        lam, first = self.regularisation, None

        def velocity(x: Tensor, y: Tensor, _: Streams) -> Tensor:
            nonlocal lam, first
            h = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
            witness = drmmd_witness(KERNELS[self.kernel](h), x, y, lam)
            v = -(h**2) * witness.gradient(x)
            v = v * (lam / (1 + lam) if isinstance(lam, float) else (lam / (1 + lam))[..., None])
            if self.adaptive:
                now = drmmd(witness, x, y)[:, None]
                first = now if first is None else first
                lam = self.regularisation * (now / first).clamp_min(1e-6).sqrt()
            return v

        return carry(
            self.carrier, problem, rng, velocity, step=self.step, steps=self.steps, points=self.points, batch=self.batch
        )
