"""Brownian motion observed with noise: the posterior of path and scales, with a gap in the observations; d = 32.

    log s_1 ~ N(0, 2^2),   log s_2 ~ N(0, 2^2)                    scales of the steps and of the observations, unknown
    w_1 ~ N(0, s_1^2),   w_t ~ N(w_{t-1}, s_1^2),  t = 2 ... 30    the path
    y_t ~ N(w_t, s_2^2),   t = 1 ... 10 and 21 ... 30              the middle third is missing

This is the Inference Gym's BrownianMotionUnknownScalesMissingMiddleObservations (Sountsov et al. 2020; package
inference-gym 0.0.5, Apache licence 2.0, targets/brownian_motion.py; OBSERVED are its 20 float32 observations, from
internal/datasets/brownian_motion_missing_middle_observations.py). The point is x = (u_1, u_2, w_1 ... w_30), the gym's
default bijector: s_k = softplus(u_k) = log(1 + e^{u_k}), Jacobian included:

    log gamma(x) = sum_k [log N(log s_k; 0, 2^2) - log s_k + log sigmoid(u_k)] + log p(w | s_1) + log p(y | w, s_2)

Another bijector is another target with the same log Z. The methods in Beyond ELBOs, and DDS, start at a normal law, and
so does P_0 here (`start`); it is not the model's prior.

Truth. Given the scales the rest is linear and Gaussian: y ~ N(0, s_1^2 T + s_2^2 I) with T_ij = min(t_i, t_j), and w
given y is Gaussian. With a = log s_1 and r = log(s_2 / s_1) the law of (a, r) is a density in the plane,

    p(a, r, y) = N(a; 0, 2^2) N(a + r; 0, 2^2) N(y; 0, e^{2a} (T + e^{2r} I))

whose integral, by the trapezoidal rule on a fine grid, is Z to twelve digits: log Z = 1.187749. (Published estimates:
DDS' tempered SMC 0.865 +- 0.583, DDS itself 1.03 +- 0.10.) Moments come from the same grid. Draws are independent:
(a, r) by rejection from the grid's cells, w by conditioning a path of the prior on y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

STEPS, PRIOR = 30, 2.0  # length of the path; standard deviation of log s_k
SEEN = (*range(10), *range(20, 30))  # places of the observations, from 0
# fmt: off
OBSERVED = (
    0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845, -0.1484156, -0.3250906, -0.22957903, -0.44110894,
    -0.09830782, -0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566, -0.70238715, -0.87771565, -0.51853573,
    -0.6948214, -0.6202789,
)
# fmt: on
WIDTH = 1 / 32  # of a cell of the grid
RANGES = ((-14.0, 10.0), (-16.0, 16.0))  # of a and r; the density on the border is below 1e-12 of its largest value
MARGIN = 0.05  # by which log p in a cell may exceed its largest value at the corners
PROPOSALS = 8192  # of one round of rejection
DOUBLE = torch.float64


@dataclass(frozen=True)
class Brownian:
    start: Positive = 1.0
    "standard deviation of P_0, a centred normal law in all 32 coordinates"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "w2", "sliced_w2", "mmd", "ksd_imq", "kl", "symkl", "symkl_debiased"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "sliced_energy", "sinkhorn", "b2_max", "b2_mean"),
        *("moments_mean", "moments_covariance", "objective"),
    )
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@software{inferencegym2020, title={Inference Gym}, author={Sountsov, Pavel and Radul,
  Alexey and contributors}, version={0.0.5}, year={2020}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        d, seeds = STEPS + 2, len(rng.seeds)
        log_z, mean, covariance = (part.to(rng.device) for part in posterior())
        constant = d * math.log(self.start * math.sqrt(2 * math.pi))

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1) / self.start**2 - constant

        def log_prob(index: int, x: Tensor) -> Tensor:
            return (_log_density(x.double()) - log_z).to(x.dtype)

        problem = Problem(
            (d,),
            (math.inf,),
            (
                Initial(lambda n, streams: self.start * streams.normal(n, d), log_initial),
                LogDensity(_log_density, _score),
            ),
        )
        truth = Truth(
            draw=lambda index, n, streams: _draw(n, streams),
            exact=True,
            log_prob=log_prob,
            score=lambda index, x: _score(x.double()).to(x.dtype),
            moments=lambda index: (mean.expand(seeds, d), covariance.expand(seeds, d, d)),
            energy=lambda index: torch.zeros(seeds, dtype=DOUBLE, device=rng.device),
            integrand=lambda x, log_rho: log_rho - log_prob(0, x),
            log_z=(log_z.expand(seeds), torch.zeros(seeds, dtype=DOUBLE, device=rng.device)),
        )
        return Instance(problem, truth)


# ------------------------------------------------------------------------------------------------ the target


def _log_density(x: Tensor) -> Tensor:
    """log gamma, (S, n, 32) -> (S, n), in x's dtype."""
    u, w = x[..., :2], x[..., 2:]
    log_s = _log_softplus(u)
    steps = torch.cat([w[..., :1], w.diff(dim=-1)], -1).square().sum(-1)
    misses = (_observed(x) - w[..., SEEN]).square().sum(-1)
    prior = -0.5 * (log_s / PRIOR).square() - log_s + logsigmoid(u)
    squares = torch.stack([steps, misses], -1)
    counts = x.new_tensor([STEPS, len(SEEN)])
    constant = 2 * math.log(PRIOR) + 0.5 * (2 + STEPS + len(SEEN)) * math.log(2 * math.pi)
    return (prior - counts * log_s - 0.5 * squares * torch.exp(-2 * log_s)).sum(-1) - constant


def _score(x: Tensor) -> Tensor:
    u, w = x[..., :2], x[..., 2:]
    log_s = _log_softplus(u)
    precision = torch.exp(-2 * log_s)  # of a step, of an observation
    step = torch.cat([w[..., :1], w.diff(dim=-1)], -1)
    miss = torch.zeros_like(w)
    miss[..., SEEN] = _observed(x) - w[..., SEEN]
    squares = torch.stack([step.square().sum(-1), miss.square().sum(-1)], -1)
    counts = x.new_tensor([STEPS, len(SEEN)])
    by_log_s = -log_s / PRIOR**2 - 1 - counts + squares * precision
    by_u = by_log_s * torch.exp(logsigmoid(u) - log_s) + torch.sigmoid(-u)  # d log s / du = sigmoid(u) / s
    later = torch.cat([step[..., 1:], torch.zeros_like(step[..., :1])], -1)
    return torch.cat([by_u, precision[..., :1] * (later - step) + precision[..., 1:] * miss], -1)


def _log_softplus(u: Tensor) -> Tensor:
    """log log(1 + e^u); below -15 it is u - e^u / 2 to all digits, where softplus itself would be 0 in the end."""
    low = u < -15
    return torch.where(low, u - 0.5 * torch.exp(u.clamp(max=-15)), torch.log(softplus(u.clamp(min=-15))))


def _observed(like: Tensor) -> Tensor:
    return torch.tensor(OBSERVED, dtype=torch.float32).to(like.device, like.dtype)


# ------------------------------------------------------------------------------------------------ the truth


@dataclass(frozen=True)
class _Gaussian:
    """What the linear part needs: T = Q diag(values) Q' over the observed times, and `all_seen` = min(t, t_i)."""

    values: Tensor
    vectors: Tensor
    all_seen: Tensor  # (30, 20)
    turned: Tensor  # Q' y

    def log_p(self, a: Tensor, r: Tensor) -> Tensor:
        """log p(a, r, y); a and r broadcast."""
        spread = self.values + torch.exp(2 * r)[..., None]  # eigenvalues of T + e^{2r} I
        quadratic = (self.turned.square() / spread).sum(-1)
        n = len(self.values)
        log_y = -0.5 * spread.log().sum(-1) - n * a - 0.5 * torch.exp(-2 * a) * quadratic
        log_prior = -0.5 * (a.square() + (a + r).square()) / PRIOR**2 - 2 * math.log(PRIOR)
        return log_y + log_prior - (1 + 0.5 * n) * math.log(2 * math.pi)

    def gain(self, r: Tensor, miss: Tensor) -> Tensor:
        """min(t, t_i) (T + e^{2r} I)^-1 of what was observed, miss (n, 20), or (20,) for all r; r (n,) -> (n, 30)."""
        spread = self.values + torch.exp(2 * r)[:, None]
        return (miss @ self.vectors / spread) @ (self.all_seen @ self.vectors).mT


@cache
def _gaussian() -> _Gaussian:
    times = torch.arange(1, STEPS + 1, dtype=DOUBLE)
    every = torch.minimum(times[:, None], times[None])
    seen = torch.tensor(SEEN)
    values, vectors = torch.linalg.eigh(every[seen][:, seen])
    return _Gaussian(values, vectors, every[:, seen], _observed(values) @ vectors)


def _axes() -> tuple[Tensor, Tensor]:
    """Corners of the cells along a and along r."""
    a, r = (torch.arange(round((high - low) / WIDTH) + 1, dtype=DOUBLE) * WIDTH + low for low, high in RANGES)
    return a, r


@cache
def posterior() -> tuple[Tensor, Tensor, Tensor]:
    """log Z, mean (32,) and covariance (32, 32) of x, float64: sums over the grid."""
    a, r = _axes()
    law = _gaussian()
    log_p = law.log_p(a[:, None], r)
    log_z = log_p.logsumexp((0, 1)) + 2 * math.log(WIDTH)
    p = torch.exp(log_p - log_z) * WIDTH**2  # (a, r)
    by_r = p.sum(0)
    u = torch.stack([_softplus_inverse(a)[:, None].expand_as(p), _softplus_inverse(a[:, None] + r)])
    u_sums = (p * u).sum(1)  # (2, r): integral over a of u
    u_square = torch.einsum("ar,iar,jar->ij", p, u, u)
    s_square = torch.exp(2 * a) @ p  # (r,)
    means = law.gain(r, _observed(a))  # of w given r, (r, 30)
    times = torch.arange(1, STEPS + 1, dtype=DOUBLE)
    turned = law.all_seen @ law.vectors
    shrunk = (s_square[:, None] / (law.values + torch.exp(2 * r)[:, None])).sum(0)
    within = s_square.sum() * torch.minimum(times[:, None], times[None]) - turned * shrunk @ turned.mT
    mean = torch.cat([u_sums.sum(1), by_r @ means])
    cross = u_sums @ means
    corner = within + (means * by_r[:, None]).mT @ means
    second = torch.cat([torch.cat([u_square, cross], 1), torch.cat([cross.mT, corner], 1)])
    covariance = second - mean[:, None] * mean
    return log_z, mean, 0.5 * (covariance + covariance.mT)


@cache
def _cells() -> tuple[Tensor, Tensor]:
    """Cumulative mass of the cells, row by row, and the logarithm of each cell's bound of p."""
    a, r = _axes()
    log_p = _gaussian().log_p(a[:, None], r)
    corners = torch.stack([log_p[:-1, :-1], log_p[:-1, 1:], log_p[1:, :-1], log_p[1:, 1:]])
    bound = (corners.amax(0) + MARGIN).flatten()
    return torch.exp(bound - bound.max()).cumsum(0), bound


def _draw(n: int, rng: Streams) -> Tensor:
    """(S, n, 32) independent draws; a seed's depend on its own stream alone."""
    keys = rng.integers(2**62, 1)[:, 0].tolist()
    found = [_draw_one(n, Streams((key,), dtype=DOUBLE)) for key in keys]
    return torch.stack(found).to(rng.device, rng.dtype)


def _draw_one(n: int, rng: Streams) -> Tensor:
    law, kept, count = _gaussian(), list[Tensor](), 0
    mass, bound = _cells()
    low = torch.tensor([start for start, _ in RANGES], dtype=DOUBLE)
    columns = len(_axes()[1]) - 1
    while count < n:
        pick, where, height = rng.uniform(PROPOSALS, 4)[0].split([1, 2, 1], 1)
        cell = torch.searchsorted(mass, pick[:, 0] * mass[-1], right=True).clamp(max=len(mass) - 1)
        point = low + WIDTH * (torch.stack([cell // columns, cell % columns], 1) + where)
        kept.append(point[height[:, 0].log() < law.log_p(point[:, 0], point[:, 1]) - bound[cell]])
        count += len(kept[-1])
    a, r = torch.cat(kept)[:n].unbind(1)
    path = rng.normal(n, STEPS)[0].cumsum(1)  # over s_1, as all that follows
    noise = torch.exp(r)[:, None] * rng.normal(n, len(SEEN))[0]
    target = torch.exp(-a)[:, None] * _observed(a)
    path = path + law.gain(r, target - path[:, SEEN] - noise)
    u = torch.stack([_softplus_inverse(a), _softplus_inverse(a + r)], 1)
    return torch.cat([u, torch.exp(a)[:, None] * path], 1)


def _softplus_inverse(log_s: Tensor) -> Tensor:
    """u with softplus(u) = s, log(e^s - 1)."""
    s = torch.exp(log_s)
    return s + torch.log(-torch.expm1(-s))
