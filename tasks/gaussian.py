"""Gaussian target: the flow of KL(. || N(b, C)) from N(0, I), judged at its limit; C can be badly conditioned.

    C = Q diag(l) Q',   l_i = condition^(-i / (d - 1)), i = 0 ... d - 1 (log-spaced, the largest 1),   b ~ N(0, I)

Q is a random orthogonal basis (Haar). Q and b come from the seed; in one dimension C = 1. The flow is that of an
Ornstein-Uhlenbeck process with A = C^-1, and task `ou` judges such flows on their way. This task is for calibration, so
it judges the limit alone, where everything is known in closed form: draws, density, score, moments and the energy, 0.

A method needs time of order 1 to converge along the widest axis and, if it is explicit, steps of order 1 / condition to
be stable along the narrowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gwfbench.fields import between, check_fields
from gwfbench.info import Info, Initial, LogDensity, TargetSamples
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

CHUNK = 16384  # points that the truth takes to float64 at once


@dataclass(frozen=True)
class Gaussian:
    dim: Annotated[int, between(1, 1000)] = 2
    "dimension d"
    condition: Annotated[float, between(1, 1e6)] = 10.0
    "ratio of the largest to the smallest eigenvalue of C; beyond 1e6, float32 can't resolve the narrowest axis"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = (
        *("symkl", "symkl_debiased", "bures_w2", "ksd", "sliced_w2", "mmd", "energy_distance", "w2", "c2st", "kl"),
        *("moments_mean", "moments_covariance", "objective"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "b2_max", "b2_mean", "sliced_energy", "sinkhorn"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{wibisono2018sampling,
  title={Sampling as optimization in the space of measures: The {L}angevin dynamics as a composite optimization
  problem}, author={Wibisono, Andre}, booktitle={COLT}, year={2018}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        host, d = rng.fork("target").host(), self.dim
        q, r = torch.linalg.qr(host.fork("basis").normal(d, d))
        basis = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # Haar
        deviations = self.condition ** (-0.5 * torch.arange(d, dtype=q.dtype) / max(d - 1, 1))  # of C along them
        b = host.fork("mean").normal(d).to(rng.device)
        # C = root root', C^-1 = white white'
        root, white = (basis * deviations).to(rng.device), (basis / deviations).to(rng.device)
        constant = 0.5 * d * math.log(2 * math.pi) + float(deviations.log().sum())

        def draw(n: int, streams: Streams) -> Tensor:
            mean, factor = b.to(streams.dtype), root.mT.to(streams.dtype)
            return torch.baddbmm(mean[:, None], streams.normal(n, d), factor)

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1) - 0.5 * d * math.log(2 * math.pi)

        def log_density(x: Tensor) -> Tensor:
            return -0.5 * ((x - b[:, None].to(x.dtype)) @ white.to(x.dtype)).square().sum(-1)

        def score(x: Tensor) -> Tensor:
            return (b[:, None].to(x.dtype) - x) @ white.to(x.dtype) @ white.mT.to(x.dtype)

        problem = Problem(
            (d,),
            (math.inf,),
            (
                Initial(lambda n, streams: streams.normal(n, d), log_initial),
                LogDensity(log_density, score),
                TargetSamples(draw),
            ),
        )

        def log_prob(index: int, x: Tensor) -> Tensor:
            return _in_double(lambda part: log_density(part) - constant, x)

        truth = Truth(
            draw=lambda index, n, streams: draw(n, streams),
            exact=True,
            log_prob=log_prob,
            score=lambda index, x: _in_double(score, x),
            moments=lambda index: (b, root @ root.mT),
            energy=lambda index: torch.zeros_like(b[:, 0]),
            integrand=lambda x, log_rho: log_rho - log_prob(0, x),
            log_z=(torch.full_like(b[:, 0], constant), torch.zeros_like(b[:, 0])),
        )
        return Instance(problem, truth)


def _in_double(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The field computed in float64, by parts, so that half a million points need no second copy."""
    return torch.cat([field(part.double()).to(x.dtype) for part in x.split(CHUNK, 1)], 1)
