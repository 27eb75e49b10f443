"""Two-dimensional shapes: the common toy targets, each with exact draws, density, score and moments.

All except the last are Y + s Z with Y on points, curves or squares and Z ~ N(0, I), so that each has a density
p(x) = E exp(-|x - Y|^2 / 2 s^2) / (2 pi s^2) and, by Tweedie's formula, the score (E[Y | x] - x) / s^2:

    eight_gaussians  (cos, sin)(k pi/4), s = 0.1 (Caucheteux et al. 2026, authors' code)
    25_gaussians     {-6, -3, 0, 3, 6}^2, s^2 = 0.005 (Choi et al. 2024, authors' code)
    circles          radii 4 and 8 about 0, s = 0.2 (both)
    three_rings      radius 0.3 about (0, -0.75 k), k = 0, 1, 2 (Glaser et al. 2021, authors' code); it has no noise
                     there, and so no density; s = 0.02 is ours, and moves the law by W2 <= 0.03
    moons            (cos t, sin t) and (1 - cos t, 1/2 - sin t), t ~ U[0, pi], plus noise 0.2, times 3 minus 1, so
                     that s = 3 noise (Caucheteux et al. 2026)
    checkerboard     the 8 squares (i + j even) of 4 x 4 on [-1, 1]^2, s = 0.05 (Deng et al. 2026, authors' notebook)
    swiss_roll       t (cos t, sin t) / 4.5 pi, t ~ U[pi/2, 9 pi/2], s = 0.03 (same; it divides by the batch's largest
                     coordinate, whose limit is 4.5 pi)
    spiral           2.5 u (cos, sin)(4 pi u), u ~ U[0, 1], s = 0.05 (He et al. 2026, authors' code)
    two_moons        log p = log(e^{-((x1 - 2) / 0.6)^2 / 2} + e^{-((x1 + 2) / 0.6)^2 / 2}) - ((|x| - 2) / 0.4)^2 / 2,
                     first energy of Rezende and Mohamed 2015, Table 1. Fan et al. 2022, F.2, sample "two moons" but
                     give no formula, nor has their code one; this is the usual target of that name.

The densities of circles are Bessel functions: exp(-(|x| - r)^2 / 2 s^2) I0e(r |x| / s^2) / (2 pi s^2). Those of squares
are normal distribution functions, and those of half-circles and spirals are Gauss-Legendre sums, whose error in log p
is below 1e-9 for |x| < 8. The flow's start is ours, N(0, start^2 I).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gwfbench.fields import Positive, between, check_fields, refuse
from gwfbench.info import Draw, Field, Info, Initial, LogDensity, TargetSamples
from gwfbench.metrics.modes import mode_coverage
from gwfbench.protocol import Instance, Metric, Problem, Truth
from gwfbench.rng import Streams

TERMS = 2**18  # of sums over nodes at once: 2 MB in float64; 16 times as many where gradients are kept


@dataclass(frozen=True)
class Toy2D:
    shape: Literal[
        "eight_gaussians",
        "25_gaussians",
        "circles",
        "three_rings",
        "moons",
        "checkerboard",
        "swiss_roll",
        "spiral",
        "two_moons",
    ] = "eight_gaussians"
    "target law"
    noise: Annotated[float, between(0.005, 10)] | None = None
    """standard deviation of the Gaussian noise (moons: before scaling by 3); default: the shape's own;
    two_moons has none"""
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = (
        *("sliced_w2", "mmd", "energy_distance", "ksd", "w2", "c2st", "kl"),
        *("moments_mean", "moments_covariance", "objective"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "b2_max", "b2_mean", "sliced_energy", "sinkhorn"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{caucheteux2026unifying,
  title={A Unifying View of Variational Generative {W}asserstein Flows}, author={Caucheteux, Paul and Bonet, Clement
  and Korba, Anna}, booktitle={ICML}, year={2026}}
@inproceedings{choi2024scalable, title={Scalable {W}asserstein Gradient Flow for Generative Modeling through Unbalanced
  Optimal Transport}, author={Choi, Jaemoo and Choi, Jaewoong and Kang, Myungjoo}, booktitle={ICML}, year={2024}}
@inproceedings{rezende2015variational, title={Variational Inference with Normalizing Flows},
  author={Rezende, Danilo Jimenez and Mohamed, Shakir}, booktitle={ICML}, year={2015}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("noise", "shape"),
            when=self.noise is not None and self.shape == "two_moons",
            expected="no noise: the density of two_moons is given",
        )

    def build(self, rng: Streams) -> Instance:
        law = self._law(rng.device)
        seeds = len(rng.seeds)

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * (x / self.start).square().sum(-1) - math.log(2 * math.pi * self.start**2)

        def log_prob(index: int, x: Tensor) -> Tensor:
            return law.log_prob(x.double()).to(x.dtype)

        initial = Initial(lambda n, streams: self.start * streams.normal(n, 2), log_initial)
        zero = torch.zeros(seeds, dtype=torch.float64, device=rng.device)
        infos = (initial, LogDensity(law.log_prob, law.score), TargetSamples(law.draw))
        truth = Truth(
            lambda index, n, streams: law.draw(n, streams),
            exact=True,
            log_prob=log_prob,
            score=lambda index, x: law.score(x.double()).to(x.dtype),
            moments=lambda index: (law.mean.expand(seeds, 2), law.covariance.expand(seeds, 2, 2)),
            energy=lambda index: zero,
            integrand=lambda x, log_rho: log_rho - log_prob(0, x),
            log_z=(zero, zero),
            metrics=_own(law, seeds),
        )
        return Instance(Problem((2,), (math.inf,), infos), truth)

    def _law(self, device: torch.device) -> _Law:
        def s(own: float) -> float:
            return own if self.noise is None else self.noise

        pi = math.pi
        eighths = torch.arange(8, device=device, dtype=torch.float64) * pi / 4
        third = torch.arange(3, device=device, dtype=torch.float64)
        grid = 3 * torch.arange(-2, 3, device=device, dtype=torch.float64)
        match self.shape:
            case "eight_gaussians":
                return _gaussians(_polar(torch.ones_like(eighths), eighths), s(0.1))
            case "25_gaussians":
                return _gaussians(torch.cartesian_prod(grid, grid), s(math.sqrt(0.005)))
            case "circles":
                return _rings(third.new_zeros(2, 2), third.new_tensor([4, 8]), s(0.2))
            case "three_rings":
                return _rings(torch.stack([0 * third, -0.75 * third], -1), 0 * third + 0.3, s(0.02))
            case "moons":
                half = lambda u: 3 * _polar(torch.ones_like(u), pi * u)  # noqa: E731
                return _curves((lambda u: half(u) - 1, lambda u: u.new_tensor([2, 0.5]) - half(u)), 3 * s(0.2), device)
            case "checkerboard":
                return _board(s(0.05), device)
            case "swiss_roll":
                return _curves((lambda u: _polar((8 * u + 1) / 9, (4 * u + 0.5) * pi),), s(0.03), device)
            case "spiral":
                return _curves((lambda u: _polar(2.5 * u, 4 * pi * u),), s(0.05), device)
            case "two_moons":
                return _two_moons(device)


@dataclass(frozen=True)
class _Law:
    """A law in the plane: log_prob and score in x's precision, (..., 2) -> (...) and (..., 2); moments in float64."""

    draw: Draw
    log_prob: Field
    score: Field
    mean: Tensor
    covariance: Tensor
    modes: tuple[Tensor, float] | None = None  # means (K, 2) and scale, where it is a mixture of equal Gaussians


def _own(law: _Law, seeds: int) -> tuple[Metric, ...]:
    """`mode_coverage`, for the mixtures."""
    if law.modes is None:
        return ()
    means, s = law.modes
    return (mode_coverage(means.expand(seeds, -1, -1), torch.full_like(means[:, 0], 1 / len(means)), s),)


Curve = Callable[[Tensor], Tensor]  # u in [0, 1], (...) -> (..., 2)


def _polar(r: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([r * angle.cos(), r * angle.sin()], -1)


def _radius(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + 1e-24).sqrt()  # its gradient at 0 is 0, not NaN


def _chunked(f: Field, x: Tensor, terms: int) -> Tensor:
    """f of (n, 2) points by chunks of bounded memory, also in the backward pass."""
    flat = x.reshape(-1, 2)
    kept = torch.is_grad_enabled() and x.requires_grad
    parts = flat.split(max(1, (16 if kept else 1) * TERMS // terms))
    if kept and len(parts) > 1:
        again = [checkpoint(f, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        out = torch.cat(again)  # type: ignore[arg-type]
    else:
        out = torch.cat([f(part) for part in parts])
    return out.view(x.shape[:-1] + out.shape[1:])


def _smoothed(draw: Draw, nodes: Tensor, weights: Tensor, s: float) -> _Law:
    """Y + s Z, where E f(Y) is the weighted sum of f over the nodes, (m, 2) and (m,)."""
    unit = s * math.sqrt(2)
    logs = weights.log() - math.log(2 * math.pi * s * s)

    def terms(x: Tensor) -> tuple[Tensor, Tensor]:
        """Terms of the sum (n, m) over the largest one, and its logarithm (n, 1)."""
        z, y = x / unit, (nodes / unit).to(x)
        a, b = z[:, :1] - y[:, 0], z[:, 1:] - y[:, 1]
        e = torch.addcmul(torch.addcmul(logs.to(x), a, a, value=-1), b, b, value=-1)
        largest = e.detach().amax(1, keepdim=True)
        # Below e^-60 nothing adds up to a digit, and denormal numbers take ten times as long.
        return (e - largest).clamp_min(-60).exp(), largest

    def log_prob(x: Tensor) -> Tensor:
        ratios, largest = terms(x)
        return ratios.sum(1).log() + largest[:, 0]

    def score(x: Tensor) -> Tensor:
        ratios, _ = terms(x)
        return (ratios @ nodes.to(x) / ratios.sum(1, keepdim=True) - x) / (s * s)

    mean = weights @ nodes
    covariance = (nodes - mean).T @ (weights[:, None] * (nodes - mean))
    return _Law(
        lambda n, rng: draw(n, rng) + s * rng.normal(n, 2),
        lambda x: _chunked(log_prob, x, len(nodes)),
        lambda x: _chunked(score, x, len(nodes)),
        mean,
        covariance + s * s * torch.eye(2).to(mean),
    )


def _gaussians(means: Tensor, s: float) -> _Law:
    def draw(n: int, rng: Streams) -> Tensor:
        return means.to(rng.dtype)[rng.integers(len(means), n)]

    law = _smoothed(draw, means, torch.full_like(means[:, 0], 1 / len(means)), s)
    return replace(law, modes=(means, s))


def _curves(curves: tuple[Curve, ...], s: float, device: torch.device) -> _Law:
    """Equal parts on curves, uniform in the parameter, by 16-point Gauss-Legendre panels.

    Nodes every s / 5: a point at distance D from a bend of radius R sees a stretch of s sqrt(R / (R + D)) of it. Finer
    ones at the ends: there the integrand may fall as e^{-D l / s^2} in the length l.
    """
    x, w = (torch.from_numpy(part).to(device) for part in np.polynomial.legendre.leggauss(16))
    u = torch.linspace(0, 1, 4097, device=device, dtype=torch.float64)
    nodes, weights = [], []
    for curve in curves:
        length = torch.nn.functional.pad(curve(u).diff(dim=0).norm(dim=1).cumsum(0), (1, 0)).cpu().numpy()
        ends = np.append(0, 2 * s * s * 4.0 ** np.arange(12))
        ends = ends[ends < min(3.2 * s, length[-1] / 2)]
        middle = np.linspace(ends[-1], length[-1] - ends[-1], math.ceil(length[-1] / (3.2 * s)) + 2)[1:-1]
        edges = np.interp(np.concatenate([ends, middle, length[-1] - ends[::-1]]), length, u.cpu().numpy())
        edges = torch.from_numpy(edges).to(device)
        half = edges.diff()[:, None] / 2
        nodes.append(curve((edges[:-1, None] + half * (1 + x)).flatten()))
        weights.append((half * w).flatten() / len(curves))

    def draw(n: int, rng: Streams) -> Tensor:
        part = rng.uniform(n)
        if len(curves) == 1:
            return curves[0](part)
        which = rng.integers(len(curves), n)[..., None, None]
        return torch.stack([curve(part) for curve in curves], -1).gather(-1, which.expand(*part.shape, 2, 1))[..., 0]

    return _smoothed(draw, torch.cat(nodes), torch.cat(weights), s)


def _rings(centres: Tensor, radii: Tensor, s: float) -> _Law:
    """Equal parts on circles about (m, 2) of radii (m,)."""
    log_scale = math.log(len(radii) * 2 * math.pi * s * s)

    def exponents(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = x[..., None, :] - centres.to(x)  # (..., m, 2)
        rho, r = _radius(offset), radii.to(x)
        scaled = torch.special.i0e(rho * r / (s * s))
        return scaled.log() - 0.5 * ((rho - r) / s).square(), offset, rho

    def score(x: Tensor) -> Tensor:
        logs, offset, rho = exponents(x)
        k = rho * radii.to(x) / (s * s)
        pull = radii.to(x) * torch.special.i1e(k) / torch.special.i0e(k) / rho - 1  # E[Y - x | x] along the offset
        return (logs.softmax(-1)[..., None] * pull[..., None] * offset).sum(-2) / (s * s)

    def draw(n: int, rng: Streams) -> Tensor:
        which, angle = rng.integers(len(radii), n), 2 * math.pi * rng.uniform(n)
        return centres.to(rng.dtype)[which] + _polar(radii.to(rng.dtype)[which], angle) + s * rng.normal(n, 2)

    mean = centres.mean(0)
    covariance = torch.cov(centres.T, correction=0) + (radii.square().mean() / 2 + s * s) * torch.eye(2).to(mean)
    return _Law(draw, lambda x: exponents(x)[0].logsumexp(-1) - log_scale, score, mean, covariance)


def _board(s: float, device: torch.device) -> _Law:
    """Squares b + {0, 2} by b + {0, 2}, b = 0 or 1, of side 1/2; per coordinate, differences of normal cdfs."""
    middles = torch.tensor([[-0.75, 0.25], [-0.25, 0.75]], device=device, dtype=torch.float64)  # b, then the square
    h = 0.25 / s

    def strips(x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of Y + s Z, Y uniform on the two strips of each b, (..., 2, b), and its derivative."""
        offset = (x[..., None, None] - middles.to(x)) / s
        u = offset.abs()
        upper, lower = _log_cdf(h - u), _log_cdf(-h - u)
        tail = lower - upper
        logs = upper + (-tail.expm1()).log()
        hazard = math.sqrt(2 / math.pi) / torch.special.erfcx((u - h) / math.sqrt(2))  # phi / Phi at h - u
        slope = -offset.sign() / s * hazard * (2 * h * u).neg().expm1() / tail.expm1()
        return logs.logsumexp(-1), (logs.softmax(-1) * slope).sum(-1)

    def score(x: Tensor) -> Tensor:
        logs, slopes = strips(x)
        return (logs.sum(-2, keepdim=True).softmax(-1) * slopes).sum(-1)

    def draw(n: int, rng: Streams) -> Tensor:
        b, cell = rng.integers(2, n), rng.integers(4, n)
        corner = torch.stack([b + 2 * (cell // 2), b + 2 * (cell % 2)], -1)
        return (corner + rng.uniform(n, 2)) / 2 - 1 + s * rng.normal(n, 2)

    mean = torch.zeros(2, device=device, dtype=torch.float64)
    covariance = mean.new_tensor([[1 / 3, 1 / 16], [1 / 16, 1 / 3]]) + s * s * torch.eye(2).to(mean)
    return _Law(draw, lambda x: strips(x)[0].sum(-2).logsumexp(-1) - math.log(2), score, mean, covariance)


def _log_cdf(z: Tensor) -> Tensor:
    """Of the normal law. PyTorch's log_ndtr is right, but its gradient in float32 is 4 % off at z = -1000."""
    low = z.clamp_max(-1)
    tail = (torch.special.erfcx(-low / math.sqrt(2)) / 2).log() - low.square() / 2
    return torch.where(z < -1, tail, torch.special.log_ndtr(z.clamp_min(-1)))


def _two_moons(device: torch.device) -> _Law:
    bound = 1 + math.exp(-0.5 * (4 / 0.6) ** 2)  # of the two moons' sum, at (2, 0) and (-2, 0)

    def moons(x: Tensor) -> Tensor:
        return torch.logaddexp(-0.5 * ((x[..., 0] - 2) / 0.6).square(), -0.5 * ((x[..., 0] + 2) / 0.6).square())

    def log_density(x: Tensor) -> Tensor:
        return moons(x) - 0.5 * ((_radius(x) - 2) / 0.4).square()

    nodes, weights = (torch.from_numpy(part).to(device) for part in np.polynomial.legendre.leggauss(128))
    r = 3 * (1 + nodes)  # to 6, ten deviations above 2
    angle = torch.arange(512, device=device, dtype=torch.float64) * (2 * math.pi / 512)
    plane = _polar(*torch.broadcast_tensors(r[:, None], angle))
    mass = log_density(plane).exp() * (3 * weights * r)[:, None] * (2 * math.pi / 512)
    z = mass.sum()
    square = torch.einsum("ij,ijk->k", mass / z, plane.square())

    def score(x: Tensor) -> Tensor:
        rho = _radius(x)[..., None]
        pull = (2 * (2 * x[..., :1] / 0.36).tanh() - x[..., :1]) / 0.36
        return (2 - rho) / 0.16 * x / rho + torch.cat([pull, torch.zeros_like(pull)], -1)

    # Proposals: uniform angles, r ~ N(2.08, 0.4^2), as r e^{-(r - 2)^2 / 0.32} <= 2 e^{0.02} e^{-(r - 2.08)^2 / 0.32}.
    rate = float(z) / (2 * math.exp(0.02) * 2 * math.pi * 0.4 * math.sqrt(2 * math.pi) * bound)

    def draw(n: int, rng: Streams) -> Tensor:
        # As many for all seeds, so that a seed's next draw does not depend on the other seeds; too few: below 1e-30.
        tries = math.ceil((n + 12 * math.sqrt(n) + 150) / rate)
        r = 2.08 + 0.4 * rng.normal(tries)
        x = _polar(r, 2 * math.pi * rng.uniform(tries))
        accepted = rng.uniform(tries) * bound < r / 2 * (1 - r / 2).exp() * moons(x).exp()
        if int(accepted.sum(1).min()) < n:
            raise ArithmeticError(f"{tries} proposals gave fewer than {n} points")
        first = (~accepted).to(torch.uint8).argsort(dim=1, stable=True)[:, :n]
        return x.gather(1, first[..., None].expand(-1, -1, 2))

    log_z, mean = math.log(float(z)), torch.zeros_like(square)
    return _Law(draw, lambda x: log_density(x) - log_z, score, mean, square.diag())
