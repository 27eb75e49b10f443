"""Aggregation: flows of the interaction energy 1/2 int int W(x - y) rho(x) rho(y), judged at their limit.

    rho_t = div(rho grad(W * rho))

"ring" (Fan et al. 2022, C.2, example 1): W = |x|^4 / 4 - |x|^2 / 2 in the plane, from N(0, I / 4). For a centred
isotropic rho with s = E|x|^2 the velocity is -grad(W * rho) = (1 - 2 s - |x|^2) x, so every radius tends to the R that
solves R^2 = 1 - 2 R^2. The limit is the uniform ring of radius R = 1 / sqrt(3) = 0.577 with energy -1/12 (Balague et
al. 2013 have R for all powers). The paper says 0.5, but a ring of that radius would still grow. With s = tr C,

    F = 1/2 [E|x|^4 / 2 + s^2 / 2 + |C|_F^2 - s]   for every centred law,

so any law on that ring with mean 0 and covariance I / 6 has the least energy, even three points. F can't tell when a
ring falls to pieces, as the paper's does (Fig. 8d). Distances can, and are therefore the headline metrics here.

"semicircle" (example 2): W = x^2 / 2 - log|x| on the line, from N(0, 1). The limit is sqrt(2 - x^2)_+ / pi, where
W * rho is 3/4 + log(2) / 2, so F = 3/8 + log(2) / 4; it is the only minimum. |x| below 1e-12 counts as 1e-12, so that
pairs rounded onto each other, and a particle with itself, have a finite energy and no force.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from scipy.special import betaincinv
from torch import Tensor

from gwfbench.fields import check_fields
from gwfbench.info import Field, Info, Initial, InteractionEnergy
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Problem, Truth
from gwfbench.rng import Streams

RADIUS = 1 / math.sqrt(3)


@dataclass(frozen=True)
class Aggregation:
    case: Literal["ring", "semicircle"] = "ring"
    "interaction kernel W; ring: powers 4 and 2 in the plane; semicircle: logarithmic repulsion on the line"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, InteractionEnergy})
    metrics: ClassVar[tuple[str, ...]] = ("sliced_w2", "energy_gap", "radial_w2", "mmd", "energy_distance", "w2")
    points: ClassVar[int] = 20_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}
@article{balague2013dimensionality,
  title={Dimensionality of local minimizers of the interaction energy}, author={Balagu{\\'e}, D. and Carrillo, J. A. and
  Laurent, T. and Raoul, G.}, journal={Archive for Rational Mechanics and Analysis}, volume={209}, year={2013}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        ring = self.case == "ring"
        d, deviation = (2, 0.5) if ring else (1, 1.0)

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * (x / deviation).square().sum(-1) - 0.5 * d * math.log(2 * math.pi * deviation**2)

        start = Initial(lambda n, streams: deviation * streams.normal(n, d), log_initial)
        kernel = _ring_kernel if ring else _log_kernel
        problem = Problem((d,), (math.inf,), (start, InteractionEnergy(kernel)))

        seeds = len(rng.seeds)
        variance = RADIUS**2 / 2 if ring else 0.5
        energy = -1 / 12 if ring else 0.375 + math.log(2) / 4
        mean = torch.zeros(seeds, d, dtype=torch.float64, device=rng.device)
        covariance = variance * torch.eye(d, dtype=torch.float64, device=rng.device).expand(seeds, d, d)
        truth = Truth(
            _draw_ring if ring else _draw_semicircle,
            exact=True,
            log_prob=None if ring else _log_semicircle,
            moments=lambda index: (mean, covariance),
            energy=lambda index: torch.full((seeds,), energy, dtype=torch.float64, device=rng.device),
            metrics=(_energy_gap(kernel), _radial_w2(_ring_radius if ring else _semicircle_radius)),
        )
        return Instance(problem, truth)


def _ring_kernel(x: Tensor) -> Tensor:
    square = x.square().sum(-1)
    return 0.25 * square.square() - 0.5 * square


def _log_kernel(x: Tensor) -> Tensor:
    return (0.5 * x.square() - x.abs().clamp_min(1e-12).log())[..., 0]


def _draw_ring(index: int, n: int, rng: Streams) -> Tensor:
    angle = 2 * math.pi * rng.uniform(n)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], -1)


def _draw_semicircle(index: int, n: int, rng: Streams) -> Tensor:
    u = rng.uniform(n, 2)  # a coordinate of a uniform point of the disc of radius sqrt(2)
    return math.sqrt(2) * u[..., :1].sqrt() * (2 * math.pi * u[..., 1:]).cos()


def _log_semicircle(index: int, x: Tensor) -> Tensor:
    inside = (2 - x.double().square()).clamp_min(0.0)[..., 0]
    return (0.5 * inside.log() - math.log(math.pi)).to(x.dtype)


def _ring_radius(u: Tensor) -> Tensor:
    return torch.full_like(u, RADIUS)


def _semicircle_radius(u: Tensor) -> Tensor:
    return torch.from_numpy(betaincinv(0.5, 1.5, u.numpy())).mul(2).sqrt()  # x^2 / 2 is Beta(1/2, 3/2)


def _energy_gap(kernel: Field) -> Metric:
    def evaluate(judged: Judged) -> Estimate:
        assert judged.truth.energy is not None
        x = judged.points.double()
        n = x.shape[1]
        if n < 2:
            raise ValueError(f"pairs need at least 2 points, got {n}")
        own = kernel(torch.zeros_like(x[:, :1]))  # (S, 1), a point with itself
        rows = [kernel((part[:, :, None] - x[:, None]).flatten(1, 2)).unflatten(1, (-1, n)) for part in x.split(64, 1)]
        pairs = (torch.cat([row.sum(-1) for row in rows], 1) - own) / (n - 1)  # (S, n)
        value = 0.5 * pairs.mean(1) - judged.truth.energy(judged.index)
        return Estimate(value, pairs.std(1) / math.sqrt(n), n)

    return Metric(
        "energy_gap",
        evaluate,
        points=4096,
        source="U-statistic of 1/2 E W(X - X') less the limit's energy: negative values are sampling error; se from "
        "the Hoeffding projection (near the limit, where it degenerates, up to sqrt(2) too large)",
    )


def _radial_w2(quantile: Callable[[Tensor], Tensor]) -> Metric:
    def evaluate(judged: Judged) -> Estimate:
        n = judged.points.shape[1]
        radius = judged.points.double().cpu().norm(dim=-1).sort(1)[0]  # (S, n)
        gap = radius - quantile((torch.arange(n, dtype=torch.float64) + 0.5) / n)
        value = gap.square().mean(1).sqrt()
        potential = torch.nn.functional.pad((radius.diff(dim=1) * (gap[:, 1:] + gap[:, :-1])).cumsum(1), (1, 0))
        return Estimate(value, potential.std(1) / math.sqrt(n) / (2 * value.clamp_min(1e-12)), n)

    return Metric(
        "radial_w2",
        evaluate,
        points=None,
        source="W2 between the laws of |x| of points and limit, by quantiles; se from the 1-D Kantorovich potential "
        "(del Barrio and Loubes 2019) by the delta method",
    )
