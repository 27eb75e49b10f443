"""Gaussian mixture with equal weights and means uniform in a box: the flow of KL(. || pi), judged at its limit.

    pi(x) = 1/K sum_k N(x; mu_k, s^2 I),   mu_k ~ Uniform([-spread, spread]^d),   P_0 = N(0, 16 I)
    grad log pi(x) = (sum_k r_k(x) mu_k - x) / s^2,   r_k(x) = softmax_k((x . mu_k - |mu_k|^2 / 2) / s^2)
    mean = average of mu_k,   covariance = s^2 I + covariance of the mu_k (divided by K)

Fan et al. 2022, sections 5.1 and F.2: K = 10, s = 1, and a side l by dimension from Table 4. Their text draws the means
from [-l/2, l/2]^d, their code from [-l, l]^d, twice as wide, and the published curves are the code's.

`spread` is the half-width of the box. Its default is Table 4's l, which gives the code's box; for the text's box write
half of it: `gmm:dim=2,spread=2.5`. A dimension that Table 4 lacks takes the l of the nearest smaller dimension in the
table (dimension 1: that of 2). The draws of the means are ours, because the paper does not contain the authors'.

The energy at the limit is 0. `mode_coverage` compares the shares of the components (gwfbench/metrics/modes.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gwfbench.fields import NonNegative, Positive, between, check_fields
from gwfbench.info import Info, Initial, LogDensity, TargetSamples
from gwfbench.metrics.modes import mode_coverage
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

LENGTHS = {2: 5.0, 4: 5.0, 8: 5.0, 15: 3.0, 17: 3.0, 24: 3.0, 32: 3.0, 64: 2.0, 128: 1.5}  # Table 4's l by dimension
CHUNK = 16384  # points that the truth takes to float64 at once


@dataclass(frozen=True)
class GMM:
    dim: Annotated[int, between(1, 1000)] = 2
    "dimension d"
    components: Annotated[int, between(1, 1000)] = 10
    "number K of components, all of equal weight"
    spread: NonNegative | None = None
    """half-width of the box of the means; default: Table 4's l, as in the authors' code (the box of their text
    is half as wide)"""
    scale: Positive = 1.0
    "standard deviation s of each component"
    start: Positive = 4.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = (
        *("ksd", "sliced_w2", "mmd", "energy_distance", "w2", "c2st", "kl", "mode_coverage"),
        *("moments_mean", "moments_covariance", "objective"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "b2_max", "b2_mean", "sliced_energy", "sinkhorn"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    __post_init__ = check_fields

    @property
    def half_width(self) -> float:
        """Half the side of the box of the means: `spread`, or Table 4's l."""
        if self.spread is not None:
            return self.spread
        return LENGTHS[max((n for n in LENGTHS if n <= self.dim), default=2)]

    def build(self, rng: Streams) -> Instance:
        host = rng.fork("target").host()
        means = self.half_width * (2 * host.fork("means").uniform(self.components, self.dim) - 1)  # (S, K, d)
        means, d, s = means.to(rng.device), self.dim, self.scale
        constant = 0.5 * d * math.log(2 * math.pi * s**2) + math.log(self.components)

        def draw(n: int, streams: Streams) -> Tensor:
            component = streams.integers(self.components, n)
            return streams.normal(n, d).mul_(s).add_(_pick(means.to(streams.dtype), component))

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1) / self.start**2 - 0.5 * d * math.log(2 * math.pi * self.start**2)

        problem = Problem(
            (d,),
            (math.inf,),
            (
                Initial(lambda n, streams: self.start * streams.normal(n, d), log_initial),
                LogDensity(lambda x: _log_density(x, means, s), lambda x: _score(x, means, s)),
                TargetSamples(draw),
            ),
        )

        def log_prob(index: int, x: Tensor) -> Tensor:
            return _in_double(lambda part: _log_density(part, means, s) - constant, x)

        def moments(index: int) -> tuple[Tensor, Tensor]:
            mean = means.mean(1)
            centered = means - mean[:, None]
            within = s**2 * torch.eye(d, dtype=means.dtype, device=means.device)
            return mean, within + centered.mT @ centered / self.components

        truth = Truth(
            draw=lambda index, n, streams: draw(n, streams),
            exact=True,
            log_prob=log_prob,
            score=lambda index, x: _in_double(lambda part: _score(part, means, s), x),
            moments=moments,
            energy=lambda index: torch.zeros_like(means[:, 0, 0]),
            integrand=lambda x, log_rho: log_rho - log_prob(0, x),
            log_z=(torch.full_like(means[:, 0, 0], constant), torch.zeros_like(means[:, 0, 0])),
            metrics=(mode_coverage(means, torch.full_like(means[..., 0], 1 / self.components), s),),
        )
        return Instance(problem, truth)


def _logits(x: Tensor, means: Tensor, s: float) -> Tensor:
    """(x . mu_k - |mu_k|^2 / 2) / s^2, (S, K, n): log N(x; mu_k, s^2) up to what no k changes.

    K before n: a softmax over few adjacent numbers would take most of a score's time (in 2-D 8/9 of it).
    """
    return torch.baddbmm(-0.5 * means.square().sum(-1, keepdim=True) / s**2, means / s**2, x.mT)


def _log_density(x: Tensor, means: Tensor, s: float) -> Tensor:
    """log sum_k exp(-|x - mu_k|^2 / 2 s^2), (S, n), in x's dtype.

    The nearest mean's term comes from the difference x - mu_k itself: |x|^2 - 2 x . mu_k + |mu_k|^2 would lose its
    digits in float32 where means are far from 0.
    """
    means = means.to(x.dtype)
    logits = _logits(x, means, s)
    largest, nearest = logits.max(1)
    others = (logits - largest[:, None]).logsumexp(1)
    return others - 0.5 * (x - _pick(means, nearest)).square().sum(-1) / s**2


def _score(x: Tensor, means: Tensor, s: float) -> Tensor:
    means = means.to(x.dtype)
    return torch.baddbmm(x, _logits(x, means, s).softmax(1).mT, means, beta=-1 / s**2, alpha=1 / s**2)


def _pick(means: Tensor, component: Tensor) -> Tensor:
    """The mean of each point's component, (S, K, d) and (S, n) -> (S, n, d)."""
    return means.gather(1, component[..., None].expand(-1, -1, means.shape[-1]))


def _in_double(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The field computed in float64, by parts, so that half a million points in 128 dimensions need no second copy."""
    return torch.cat([field(part.double()).to(x.dtype) for part in x.split(CHUNK, 1)], 1)
