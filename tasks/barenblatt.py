"""Porous medium: the flow of F(p) = 1/(m - 1) int p^m, whose law is a Barenblatt profile at every time.

    p_t = Laplacian(p^m),   p(t, x)^{m-1} = beta / t (R_t^2 - |x|^2)_+,   R_t = R_1 t^k
    k = 1 / (n (m - 1) + 2),   beta = (m - 1) k / (2 m)

(Barenblatt 1952; Fan et al. 2022, section 5.4 and F.5, with alpha = n k and C = beta R_1^2). With q = 1 / (m - 1) and
V = pi^{n/2} Gamma(q + 1) / Gamma(n/2 + q + 1) the mass is (beta / t)^q R_t^{n + 2q} V. Here it is 1, which fixes R_1.
A law is then determined by its age t alone: the flow starts at age t0, and at flow time s it has age t0 + s.

The exact JKO sequence stays in the family. Optimality of the map R/R' x, (x' - x)/a = -grad(m/(m - 1) p'^{m-1}), is
linear in x and requires R' = R + a k R' / t'. This is implicit Euler for dR/dt = k R / t, so JKO lags behind the flow.

Draws need no rejection, at any n and m: |x|^2 / R^2 is Beta(n/2, q + 1), and the direction is uniform. For even n,
1 - |x|^2 / R^2 is the product of U_j^{1/(q + j)}, j = 1 ... n/2, with U_j uniform (Beta(b, i) is one of Beta(b + j, 1)
= U^{1/(b + j)}). An odd n is the projection from n + 1 dimensions, where q is less by 1/2.

The authors' C comes from a radius R at age t0, not from mass 1. Their u has mass M (0.858 for n = 3, R = 0.4; 0.678 for
n = 6, R = 0.6), so their truth u / M obeys p_t = M^{m-1} Laplacian(p^m) and is not the flow of F. `convention=authors`
starts from the same law u / M with the right clock: in the flow of F it has age M^{m-1} t0. At flow time s the truth is
then their u / M at t0 + s / M^{m-1}, whereas the authors compare with t0 + s.

SymKL by densities (their Fig. 5) is not among the metrics. It is infinite as soon as one law has mass outside the
other's support, which happens even for the exact JKO sequence; with densities clamped at 1e-45 each such point counts
103 nats. `jsd` and `outside` replace it: they are finite and correct whatever the supports. `kl` is null where it is
infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.fields import Count, Positive, between, check_fields, refuse
from gwfbench.info import Info, Initial, InternalEnergy
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Need, Problem, Truth
from gwfbench.rng import Streams

RADII = {3: 0.4, 6: 0.6}  # the authors' own, by dimension


@dataclass(frozen=True)
class Barenblatt:
    dim: Annotated[int, between(1, 1000)] = 3
    "dimension n"
    m: Annotated[float, between(1.001, 100)] = 2.0
    "exponent of the porous medium"
    t0: Positive = 1e-3
    "age of the profile at flow time 0"
    step: Positive = 5e-4
    "distance between judged times, in flow time"
    steps: Count = 50
    "number of judged times"
    convention: Literal["unit", "authors"] = "unit"
    "profile at age t0; unit: the one of mass 1; authors: the one of the given radius, divided by its mass"
    radius: Positive | None = None
    "radius of the profile at age t0, for convention=authors; default: 0.4 in dimension 3, 0.6 in dimension 6"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, InternalEnergy})
    metrics: ClassVar[tuple[str, ...]] = (
        *("bures_w2", "symkl", "symkl_debiased", "symkl_jko", "sliced_w2", "w2", "kl"),
        *("moments_covariance", "objective", "jsd", "outside"),  # the last two are this task's own
    )
    points: ClassVar[int] = 500_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 2}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        authors = self.convention == "authors"
        refuse(
            self,
            *("convention", "radius"),
            when=self.radius is not None and not authors,
            expected="no radius, because mass 1 fixes it",
            fix=f"leave radius out, or write barenblatt:convention=authors,radius={self.radius}",
        )
        refuse(
            self,
            *("dim", "convention"),
            when=authors and self.radius is None and self.dim not in RADII,
            expected="a radius, because the authors have one for dimensions 3 and 6 only",
            fix=f"write, for example, barenblatt:dim={self.dim},convention=authors,radius=0.5",
        )
        refuse(
            self,
            *("dim", "m", "convention", "radius"),
            when=authors and abs(self._log_age()) >= 500,  # the age goes as radius^(n (m - 1) + 2)
            expected="a radius whose age is a float64",
            fix="take one nearer to the radius at mass 1, or write convention=unit",
        )

    def build(self, rng: Streams) -> Instance:
        start = self.t0 if self.convention == "unit" else math.exp(self._log_age())
        times = tuple(self.step * (k + 1) for k in range(self.steps))
        k = 1 / (self.dim * (self.m - 1) + 2)

        def jko(steps: tuple[float, ...]) -> Truth:
            ages = [start]
            for a in steps:
                ages.append(_jko_age(ages[-1], a, k))
            return _truth(self.dim, self.m, tuple(ages[1:]), rng)

        first = _truth(self.dim, self.m, (start,), rng)
        draw, log_prob = first.draw, first.log_prob
        assert draw is not None
        assert log_prob is not None
        initial = Initial(lambda n, streams: draw(0, n, streams), lambda x: log_prob(0, x))
        problem = Problem((self.dim,), times, (initial, InternalEnergy(self.m)))
        truth = _truth(self.dim, self.m, tuple(start + t for t in times), rng)
        return Instance(problem, replace(truth, jko=jko, metrics=(jsd, outside)))

    def _log_age(self) -> float:
        """Log of M^{m-1} t0, the age at which the profile of mass 1 has the front of the authors' profile of mass M."""
        q, beta, log_volume = _constants(self.dim, self.m)
        radius = self.radius or RADII[self.dim]
        log_mass = q * math.log(beta / self.t0) + (self.dim + 2 * q) * math.log(radius) + log_volume
        return (self.m - 1) * log_mass + math.log(self.t0)


def _constants(dim: int, m: float) -> tuple[float, float, float]:
    """q, beta and log V of the module's docstring."""
    q, k = 1 / (m - 1), 1 / (dim * (m - 1) + 2)
    log_volume = dim / 2 * math.log(math.pi) + math.lgamma(q + 1) - math.lgamma(dim / 2 + q + 1)
    return q, (m - 1) * k / (2 * m), log_volume


def _jko_age(age: float, a: float, k: float) -> float:
    """The age t' after one JKO step a: t' (1 - (t / t')^k) = a k, convex and increasing in t'."""
    new = age + a  # the flow is ahead of JKO, so that Newton's method comes down to the root
    for _ in range(50):
        gap = math.expm1(k * (math.log(age) - math.log(new)))
        new += (new * gap + a * k) / (k - (1 - k) * gap)
    return new


def _truth(dim: int, m: float, ages: tuple[float, ...], rng: Streams) -> Truth:
    """Profiles of mass 1 of these ages, for the seeds and the device of the streams."""
    q, beta, log_volume = _constants(dim, m)
    fronts = [math.exp((q * math.log(t / beta) - log_volume) / (dim + 2 * q)) for t in ages]
    seeds, device = len(rng.seeds), rng.device

    def draw(index: int, n: int, streams: Streams) -> Tensor:
        pairs = (dim + 1) // 2
        x = streams.normal(n, 2 * pairs)
        powers = 1 / (q + dim / 2 - torch.arange(pairs, device=x.device, dtype=x.dtype))
        log_gap = (1 - streams.uniform(n, pairs)).log_() @ powers  # of 1 - |x|^2 / R^2, (S, n)
        edge = 1 - 8 * torch.finfo(x.dtype).eps  # rounding must not put a point outside the support
        radius = fronts[index] * (-torch.expm1(log_gap)).clamp_max(edge).sqrt()
        return x.mul_((radius / torch.linalg.vector_norm(x, dim=-1))[..., None])[..., :dim].contiguous()

    def gap(index: int, x: Tensor) -> Tensor:
        return fronts[index] ** 2 - x.double().square().sum(-1)

    def log_prob(index: int, x: Tensor) -> Tensor:
        inside, front = gap(index, x), fronts[index]
        shape = q * inside.where(inside > 0, 1.0).log() - (dim + 2 * q) * math.log(front) - log_volume
        return shape.where(inside > 0, -math.inf).to(x.dtype)

    def score(index: int, x: Tensor) -> Tensor:
        inside = gap(index, x)[..., None]  # outside there is no score: nan
        return (-2 * q * x.double() / inside).where(inside > 0, math.nan).to(x.dtype)

    def moments(index: int) -> tuple[Tensor, Tensor]:
        eye = torch.eye(dim, dtype=torch.float64, device=device).expand(seeds, dim, dim)
        return eye.new_zeros(seeds, dim), fronts[index] ** 2 / (dim + 2 * q + 2) * eye

    def energy(index: int) -> Tensor:
        peak = beta / ages[index] * fronts[index] ** 2  # p(0)^{m-1}; the mean of a Beta gives the rest
        value = q * peak * 2 * (q + 1) / (dim + 2 * q + 2)
        return torch.full((seeds,), value, dtype=torch.float64, device=device)

    def integrand(x: Tensor, log_rho: Tensor) -> Tensor:
        return ((m - 1) * log_rho.double()).exp() / (m - 1)

    return Truth(draw, exact=True, log_prob=log_prob, score=score, moments=moments, energy=energy, integrand=integrand)


def _jsd(judged: Judged) -> Estimate:
    """log 2 + 1/2 E_q[w log(w / (1 + w)) - log(1 + w)], w = p / q."""
    assert judged.log_prob is not None
    assert judged.truth.log_prob is not None
    log_w = judged.truth.log_prob(judged.index, judged.points).double() - judged.log_prob.double()
    shared = log_w > -math.inf
    log_w = log_w.where(shared, 0.0).clamp_max(700.0)  # e^700 is still a float64
    both = log_w.exp() * torch.nn.functional.logsigmoid(log_w) + torch.nn.functional.logsigmoid(-log_w)
    values = math.log(2) + 0.5 * both.where(shared, 0.0)
    n = values.shape[1]
    return Estimate(values.mean(1), values.std(1) / math.sqrt(n), n)


def _outside(judged: Judged) -> Estimate:
    assert judged.truth.log_prob is not None
    out = (judged.truth.log_prob(judged.index, judged.points) == -math.inf).double()
    n = out.shape[1]
    share = out.mean(1)
    return Estimate(share, (share * (1 - share) / n).sqrt(), n)


jsd = Metric(
    "jsd",
    _jsd,
    points=65536,
    needs=frozenset({Need.DENSITY, Need.LOG_PROB}),
    source="Jensen-Shannon divergence of law q and truth p, 0 to log 2 (Lin 1991), by w = p / q at the law's own "
    "points; p's mass where q has none is in it, as 1 - E_q[w]; se = s.d. / sqrt(n)",
)
outside = Metric(
    "outside",
    _outside,
    points=None,
    needs=frozenset({Need.DENSITY}),
    source="share of the law's points outside the truth's support: above 0, KL(law || truth) is infinite; binomial se",
)
