"""Mixture of von Mises-Fisher laws on the unit sphere S^{d-1}, given by samples; P_0 is uniform on the sphere.

    p(x) = sum_k w_k C exp(kappa mu_k . x),   log C = (d/2 - 1) log kappa - d/2 log 2 pi - log I_{d/2 - 1}(kappa)

with respect to surface area. The weights w_k are proportional to 1, 2, ..., K, and the mu_k are uniform. The mean of a
component is A_d(kappa) mu_k with A_d = I_{d/2} / I_{d/2 - 1} (Mardia and Jupp 2000, sections 9.3 and 10.3).

A draw is t mu + sqrt(1 - t^2) times a uniform tangent direction, where t has density proportional to
(1 - t^2)^{(d - 3)/2} e^{kappa t}. For d = 3 its distribution function is inverted:
t = 1 + log(u + (1 - u) e^{-2 kappa}) / kappa. Otherwise Wood's rejection sampler (1994, after Ulrich 1984) is used,
with the same number of proposals for all seeds.

The law lives in R^d but has no density there, so no LogDensity is offered. On the sphere kappa mu.x is
-kappa |x - mu|^2 / 2 up to a constant, so `mode_coverage` with scale kappa^{-1/2} has the exact posterior of the
components. `off_sphere` is the mean of ||x| - 1|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from scipy.special import ive
from torch import Tensor
from torch.nn.functional import normalize

from gwfbench.fields import between, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.metrics.modes import mode_coverage
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Problem, Truth
from gwfbench.rng import Streams

ROUNDING = 1e-6  # ||x| - 1| in float32; less counts as 0
NODES = 2000  # of the quadrature for the rate of acceptance


@dataclass(frozen=True)
class Sphere:
    dim: Annotated[int, between(2, 100)] = 3
    "dimension d of the space around the sphere, which itself has d - 1"
    components: Annotated[int, between(1, 1000)] = 6
    "number K of components; the k-th has weight proportional to k"
    concentration: Annotated[float, between(0.01, 1e4)] = 50.0
    "concentration kappa of each component"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = (
        *("sliced_w2", "mmd", "energy_distance", "w2", "c2st", "mode_coverage", "off_sphere"),
        *("moments_mean", "moments_covariance"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@article{wood1994simulation,
  title={Simulation of the von {M}ises {F}isher distribution}, author={Wood, Andrew T. A.},
  journal={Communications in Statistics - Simulation and Computation}, volume={23}, number={1}, pages={157--164},
  year={1994}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        host = rng.fork("target").host()
        means = normalize(host.normal(self.components, self.dim), dim=-1).to(rng.device)  # (S, K, d)
        ranks = torch.arange(1, self.components + 1, dtype=torch.float64, device=rng.device)
        weights, kappa, d = ranks / ranks.sum(), self.concentration, self.dim
        edges = weights.cumsum(0)[:-1]
        log_c = log_constant(d, kappa)

        def draw(n: int, streams: Streams) -> Tensor:
            which = torch.bucketize(streams.uniform(n).double(), edges, right=True)
            mu = means.to(streams.dtype).gather(1, which[..., None].expand(-1, -1, d))
            t = _heights(n, d, kappa, streams)
            side = streams.normal(n, d)
            side = normalize(side - (side * mu).sum(-1, keepdim=True) * mu, dim=-1)
            return normalize(t * mu + (1 - t * t).clamp_min(0).sqrt() * side, dim=-1)

        def log_prob(index: int, x: Tensor) -> Tensor:
            logits = kappa * (x.double() @ means.mT) + weights.log()
            return (logits.logsumexp(-1) + log_c).to(x.dtype)

        def moments(index: int) -> tuple[Tensor, Tensor]:
            a = mean_length(d, kappa)
            mean = a * (weights @ means)  # (S, d)
            along = 1 - (d - 1) * a / kappa  # E t^2
            outer = (means * weights[:, None]).mT @ means
            across = (1 - along) / (d - 1)
            second = (along - across) * outer + across * torch.eye(d).to(means)
            return mean, second - mean[:, :, None] * mean[:, None]

        problem = Problem(
            (d,),
            (math.inf,),
            (Initial(lambda n, streams: normalize(streams.normal(n, d), dim=-1)), TargetSamples(draw)),
        )
        truth = Truth(
            lambda index, n, streams: draw(n, streams),
            exact=True,
            log_prob=log_prob,
            moments=moments,
            metrics=(mode_coverage(means, weights, kappa**-0.5), off_sphere),
        )
        return Instance(problem, truth)


def log_constant(d: int, kappa: float) -> float:
    """log C, so that C exp(kappa mu.x) integrates to 1 over the sphere."""
    bessel = math.log(float(ive(d / 2 - 1, kappa))) + kappa
    return (d / 2 - 1) * math.log(kappa) - d / 2 * math.log(2 * math.pi) - bessel


def mean_length(d: int, kappa: float) -> float:
    """A_d(kappa), the length of a component's mean."""
    return float(ive(d / 2, kappa) / ive(d / 2 - 1, kappa))


def _off_sphere(judged: Judged) -> Estimate:
    gap = ((judged.points.double().norm(dim=-1) - 1).abs() - ROUNDING).clamp_min(0)  # (S, n)
    n = gap.shape[1]
    return Estimate(gap.mean(1), gap.std(1) / n**0.5, n)


off_sphere = Metric(
    "off_sphere",
    _off_sphere,
    points=None,
    source="mean distance of the points from the unit sphere beyond 1e-6, the rounding of float32; se of a mean",
)


def _heights(n: int, d: int, kappa: float, rng: Streams) -> Tensor:
    """mu . x of n draws, (S, n, 1)."""
    if d == 3:
        u = rng.uniform(n, 1)
        return (1 + (u + (1 - u) * math.exp(-2 * kappa)).log() / kappa).clamp(-1, 1)
    b = (d - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (d - 1) ** 2))
    x0 = (1 - b) / (1 + b)
    c = kappa * x0 + (d - 1) * math.log(1 - x0**2)

    def heights(s: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals, and the logarithms of their rates of acceptance, from one coordinate s of uniform points."""
        z = (1 + s) / 2  # Beta((d - 1)/2, (d - 1)/2)
        t = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        return t, kappa * t + (d - 1) * (1 - x0 * t).log() - c

    angle = (torch.arange(NODES, dtype=torch.float64) + 0.5) * (math.pi / NODES)
    mass = angle.sin() ** (d - 2)
    rate = float((mass * heights(angle.cos())[1].exp()).sum() / mass.sum())
    tries = math.ceil((n + 12 * math.sqrt(n) + 150) / rate)  # as many for all seeds; too few: below 1e-30
    t, log_rate = heights(normalize(rng.fork("sphere").normal(tries, d), dim=-1)[..., 0])
    accepted = rng.fork("accept").uniform(tries).log() < log_rate
    if int(accepted.sum(1).min()) < n:
        raise ArithmeticError(f"{tries} proposals gave fewer than {n} points")
    first = (~accepted).to(torch.uint8).argsort(dim=1, stable=True)[:, :n]
    return t.gather(1, first)[..., None].clamp(-1, 1)
