"""Ornstein-Uhlenbeck processes of Mokrov et al. 2021: the flow of KL(. || N(b, C)) from N(0, I), with their targets.

    dX = -A (X - b) dt + sqrt(2) dW,   X_0 ~ N(0, I),   A = C^-1
    mean m_t = (I - e^{-A t}) b,   covariance C_t = C (I - e^{-2 A t}) + e^{-2 A t}

C is a draw of scikit-learn's make_spd_matrix, and b ~ N(0, I) is drawn after it (PetrMokrov/
Large-Scale-Wasserstein-Gradient-Flows @af6001c, src/experiments/_ou.py):

    C = V (1 1' + diag(u)) V',   M, u uniform on [0, 1),   V the singular vectors of M' M

So one eigenvalue of C is near d, and the others are below 1: a harder problem than `ou`, whose covariance lies between
0.5 and 1. Their experiment number k in dimension d draws from NumPy's old generator with the seed
crc32("abacaba@d@knumpy"). Seed k here has the target of their experiment k, so that their stored results, of
experiments 0 to 14, can be compared seed by seed. (V's signs are LAPACK's, and so is C through 1 1'.)

They take JKO steps of 0.05 and judge at every 0.1 up to t = 1, by densities: KL(P || truth) and KL(truth || P), each by
8192 draws. Here `kl` is the first, by densities, and `symkl` the sum of both for the normal laws with the same means
and covariances.

The exact JKO sequence is Gaussian too: in A's basis, per eigenvalue l and step a, mean and standard deviation solve
    m' = (m + a l b) / (1 + a l),   (1/a + l) s'^2 - s s'/a - 1 = 0.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from gwfbench.fields import Positive, between, check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

KEY = "abacaba"  # of their configuration, configs/ornstein_uhlenbeck_vary_dim.yml


@dataclass(frozen=True)
class OUMokrov:
    dim: Annotated[int, between(1, 1000)] = 2
    "dimension d; theirs: 1 to 12"
    step: Positive = 0.1
    "distance between judged times, in flow time"
    horizon: Positive = 1.0
    "last judged time, a multiple of `step`"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = ("symkl", "symkl_debiased", "symkl_jko", "kl", "bures_w2", "sliced_w2", "w2")
    points: ClassVar[int] = 500_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"horizon": 0.2}
    reference: ClassVar[str] = """@inproceedings{mokrov2021large,
  title={Large-Scale {W}asserstein Gradient Flows}, author={Mokrov, Petr and Korotin, Alexander and Li, Lingxiao and
  Genevay, Aude and Solomon, Justin and Burnaev, Evgeny}, booktitle={NeurIPS}, year={2021}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        count = self.horizon / self.step
        refuse(
            self,
            *("horizon", "step"),
            when=count < 0.5 or abs(count - round(count)) >= 1e-6,
            expected="a horizon that is a positive multiple of the step",
            fix="write, for example, ou_mokrov:horizon=1.0,step=0.1",
        )

    def build(self, rng: Streams) -> Instance:
        targets = [_target(self.dim, seed) for seed in rng.seeds]
        covariance, b = (torch.from_numpy(np.stack(part)).to(rng.device) for part in zip(*targets, strict=True))
        variances, basis = torch.linalg.eigh(covariance)  # (S, d), (S, d, d)
        l = 1 / variances  # noqa: E741  eigenvalues of A
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
            return _truth(basis, lambda index: path[index])

        a32, b32 = ((basis * l[:, None]) @ basis.mT).to(rng.dtype), b.to(rng.dtype)

        def score(x: Tensor) -> Tensor:
            return (b32[:, None] - x) @ a32

        def log_prob(x: Tensor) -> Tensor:
            return 0.5 * (score(x) * (x - b32[:, None])).sum(-1)

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * (x.square().sum(-1) + self.dim * math.log(2 * math.pi))

        start = Initial(lambda n, streams: streams.normal(n, self.dim), log_initial)
        problem = Problem((self.dim,), times, (start, LogDensity(log_prob, score)))

        def energy(index: int) -> Tensor:
            m, s = flow(index)  # KL(N(m, s^2) || N(c, 1/l)), summed over A's basis
            return 0.5 * (l * s.square() + l * (m - c).square() - 1 - (l * s.square()).log()).sum(-1)

        def integrand(x: Tensor, log_rho: Tensor) -> Tensor:
            constant = 0.5 * (l.log().sum(-1) - self.dim * math.log(2 * math.pi))
            return log_rho - log_prob(x) - constant[:, None].to(x.dtype)

        return Instance(problem, replace(_truth(basis, flow), energy=energy, integrand=integrand, jko=jko))


def _target(dim: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariance and mean of their experiment of this number."""
    state = np.random.RandomState(zlib.crc32(f"{KEY}@{dim}@{number}numpy".encode()))
    m = state.uniform(size=(dim, dim))
    left, _, right = np.linalg.svd(m.T @ m)
    drawn = left @ (1.0 + np.diag(state.uniform(size=dim))) @ right
    return (drawn + drawn.T) / 2, state.standard_normal(dim)


def _truth(basis: Tensor, path: Callable[[int], tuple[Tensor, Tensor]]) -> Truth:
    """Gaussians from their means and standard deviations in the basis: index -> (S, d), (S, d)."""

    def moments(index: int) -> tuple[Tensor, Tensor]:
        m, s = path(index)
        return (basis @ m[..., None])[..., 0], (basis * s.square()[:, None]) @ basis.mT

    def draw(index: int, n: int, rng: Streams) -> Tensor:
        m, s = path(index)
        mean, root = (basis @ m[..., None])[..., 0], (basis * s[:, None]).mT
        return torch.baddbmm(mean[:, None].to(rng.dtype), rng.normal(n, basis.shape[-1]), root.to(rng.dtype))

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
