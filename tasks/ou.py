"""Ornstein-Uhlenbeck process: the flow of KL(. || N(b, A^-1)) from N(0, I), Gaussian at every time.

    dX = -A (X - b) dt + sqrt(2) dW,   X_0 ~ N(0, I)
    mean m_t = (I - e^{-A t}) b,   covariance C_t = A^-1 (I - e^{-2 A t}) + e^{-2 A t}

The exact JKO sequence is Gaussian too: in A's basis, per eigenvalue l and step a, mean and standard deviation solve
    m' = (m + a l b) / (1 + a l),   (1/a + l) s'^2 - s s'/a - 1 = 0.

The covariance's eigenvalues are uniform on [0.5, 1] in a random orthogonal basis, and b ~ N(0, I), all from the seed,
as in the code of Fan et al. 2022. (Mokrov et al. 2021 use scikit-learn's make_spd_matrix instead, so the curves of the
two papers are not for the same problem.) Fan et al. judge at k = 18 steps of a = 0.05 (section 5.2, Fig. 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.fields import Positive, between, check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

Sample = Callable[[int, int, Streams], Tensor]  # n, d -> standard normal (S, n, d)


@dataclass(frozen=True)
class OU:
    dim: Annotated[int, between(1, 1000)] = 2
    "dimension d"
    step: Positive = 0.05
    "distance between judged times, in flow time"
    horizon: Positive = 0.9
    "last judged time, a multiple of `step`"
    cloud: Literal["iid", "matched"] = "iid"
    "starting points, in training and judging alike; iid: independent draws; matched: moment-matched in blocks of 1024"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = ("symkl", "symkl_debiased", "symkl_jko", "kl", "bures_w2", "sliced_w2", "w2")
    points: ClassVar[int] = 500_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"horizon": 0.1}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        count = self.horizon / self.step
        refuse(
            self,
            *("horizon", "step"),
            when=count < 0.5 or abs(count - round(count)) >= 1e-6,
            expected="a horizon that is a positive multiple of the step",
            fix="write, for example, ou:horizon=0.9,step=0.05",
        )

    def build(self, rng: Streams) -> Instance:
        host = rng.fork("target").host()
        gaussian = host.fork("basis").normal(self.dim, self.dim)
        q, r = torch.linalg.qr(gaussian)
        basis = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # Haar
        l = 1 / (0.5 + 0.5 * host.fork("eigenvalues").uniform(self.dim))  # noqa: E741  eigenvalues of A, (S, d)
        b = host.fork("mean").normal(self.dim)
        basis, l, b = (part.to(rng.device) for part in (basis, l, b))  # noqa: E741
        c = (basis.mT @ b[..., None])[..., 0]  # b in A's basis
        times = tuple(self.step * (k + 1) for k in range(round(self.horizon / self.step)))

        def flow(index: int) -> tuple[Tensor, Tensor]:
            decay = torch.exp(-l * times[index])
            return (1 - decay) * c, ((1 - decay**2) / l + decay**2).sqrt()

        def jko(steps: tuple[float, ...]) -> Truth:
            path, m, s = [], torch.zeros_like(c), torch.ones_like(c)
            for a in steps:
                m = (m + a * l * c) / (1 + a * l)
                s = (s / a + ((s / a) ** 2 + 4 * (1 / a + l)).sqrt()) / (2 * (1 / a + l))
                path.append((m, s))
            return _truth(basis, lambda index: path[index], self._standard)

        a32, b32 = ((basis * l[:, None]) @ basis.mT).to(rng.dtype), b.to(rng.dtype)

        def score(x: Tensor) -> Tensor:
            return (b32[:, None] - x) @ a32

        def log_prob(x: Tensor) -> Tensor:
            return 0.5 * (score(x) * (x - b32[:, None])).sum(-1)

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * (x.square().sum(-1) + self.dim * math.log(2 * math.pi))

        start = Initial(lambda n, streams: self._standard(n, self.dim, streams), log_initial)
        problem = Problem((self.dim,), times, (start, LogDensity(log_prob, score)))

        def energy(index: int) -> Tensor:
            m, s = flow(index)  # KL(N(m, s^2) || N(c, 1/l)), summed over A's basis
            return 0.5 * (l * s.square() + l * (m - c).square() - 1 - (l * s.square()).log()).sum(-1)

        def integrand(x: Tensor, log_rho: Tensor) -> Tensor:
            constant = 0.5 * (l.log().sum(-1) - self.dim * math.log(2 * math.pi))
            return log_rho - log_prob(x) - constant[:, None].to(x.dtype)

        truth = _truth(basis, flow, self._standard)
        return Instance(problem, replace(truth, energy=energy, integrand=integrand, jko=jko))

    def _standard(self, n: int, d: int, rng: Streams) -> Tensor:
        return rng.whitened(n, d) if self.cloud == "matched" else rng.normal(n, d)


def _truth(basis: Tensor, path: Callable[[int], tuple[Tensor, Tensor]], standard: Sample) -> Truth:
    """Gaussians from their means and standard deviations in the basis: index -> (S, d), (S, d)."""

    def moments(index: int) -> tuple[Tensor, Tensor]:
        m, s = path(index)
        return (basis @ m[..., None])[..., 0], (basis * s.square()[:, None]) @ basis.mT

    def draw(index: int, n: int, rng: Streams) -> Tensor:
        m, s = path(index)
        mean, root = (basis @ m[..., None])[..., 0], (basis * s[:, None]).mT
        return torch.baddbmm(mean[:, None].to(rng.dtype), standard(n, basis.shape[-1], rng), root.to(rng.dtype))

    def log_prob(index: int, x: Tensor) -> Tensor:
        m, s = path(index)
        white = ((x.double() - (basis @ m[..., None]).mT) @ basis) / s[:, None]
        constant = s.log().sum(-1) + 0.5 * basis.shape[-1] * math.log(2 * math.pi)
        return (-0.5 * white.square().sum(-1) - constant[:, None]).to(x.dtype)

    def score(index: int, x: Tensor) -> Tensor:
        m, s = path(index)
        centered = (x.double() - (basis @ m[..., None]).mT) @ basis
        return (-(centered / s.square()[:, None]) @ basis.mT).to(x.dtype)

    return Truth(draw, exact=True, log_prob=log_prob, score=score, moments=moments)
