"""Laws fitted to a cloud that critics compare with: a Gaussian, a Student law, uniform laws on a set around it.

Each gives coordinates in which the cloud has size one, so that a network's start does not depend on the task's units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from gwfbench.info import TargetSamples
from gwfbench.rng import Streams

CHUNK = 65536  # points taken to float64 at once
DEGREES = 3  # of freedom of a Student law, a whole number: finite variance, no finite fourth moment
FITTED = 16384  # points that a Student law is fitted to
ROUNDS = 30  # of its fit


@dataclass(frozen=True)
class Gaussian:
    """mu, the Gaussian with the mean and covariance of a cloud."""

    mean: Tensor  # (S, 1, d)
    root: Tensor  # (S, d, d), Cholesky factor of the covariance
    precision: Tensor

    @classmethod
    def fitted(cls, cloud: Tensor) -> Self:
        """Moments in float64, of the cloud (S, n, d)."""
        center = cloud.mean(1, keepdim=True, dtype=torch.float64)
        centered = (part.double() - center for part in cloud.split(CHUNK, 1))
        root = _root(sum((x.mT @ x for x in centered), torch.zeros(())) / cloud.shape[1])
        return cls(*(part.to(cloud.dtype) for part in (center, root, torch.cholesky_inverse(root))))

    def draw(self, n: int, rng: Streams) -> Tensor:
        """n independent points (S, n, d)."""
        return self.placed(rng.normal(n, self.mean.shape[-1]))

    def placed(self, white: Tensor) -> Tensor:
        """Points of this law from standard normal ones."""
        return torch.baddbmm(self.mean, white, self.root.mT)

    def log_prob(self, x: Tensor) -> Tensor:
        """Up to a constant, (S, n)."""
        centered = x - self.mean
        return -0.5 * ((centered @ self.precision) * centered).sum(-1)

    def counts(self, x: Tensor) -> Tensor:
        """How often a point counts in the next mean and scatter, (S, n, 1): see `Student`."""
        return torch.ones_like(x[..., :1])

    def log_mass(self) -> Tensor:
        """The constant that `log_prob` leaves out, (S, 1)."""
        d = self.mean.shape[-1]
        half = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        return -half - 0.5 * d * math.log(2 * math.pi)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of `log_prob`, (S, n, d)."""
        return (self.mean - x) @ self.precision

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which mu is N(0, I)."""
        return (x - self.mean) @ self.axes

    @property
    def axes(self) -> Tensor:
        """The matrix of `white`, here and below: white(x) is x minus the centre, times it; root^-T, (S, d, d)."""
        return self.precision @ self.root


class Matched(Gaussian):
    """The same law, its draws moment-matched: their mean and covariance are exactly its own."""

    def draw(self, n: int, rng: Streams) -> Tensor:
        return self.placed(rng.whitened(n, self.mean.shape[-1], n))


@dataclass(frozen=True)
class Student:
    """mu, the multivariate Student law of `DEGREES` degrees of freedom with the highest likelihood for a cloud.

    For clouds with long tails: their covariance says little of their bulk, and where the density of a Gaussian falls as
    exp(-|u|^2 / 2) the ratio P/mu that a critic must learn has no bound.
    """

    mean: Tensor  # (S, 1, d)
    root: Tensor  # (S, d, d), Cholesky factor of the scatter matrix
    precision: Tensor

    @classmethod
    def fitted(cls, cloud: Tensor) -> Self:
        """To the first `FITTED` points of the cloud (S, n, d), by expectation-maximisation in float64.

        A point counts (nu + d) / (nu + its squared distance) times in the next mean and scatter (Lange, Little and
        Taylor 1989). It starts from the medians of coordinates and of their distances to them.
        """
        x = cloud[:, :FITTED].double()
        mean = x.median(1, keepdim=True)[0]
        spread = (x - mean).abs().median(1)[0] / 0.6745  # a normal's quartile
        root = _root(torch.diag_embed(spread.square()))
        for _ in range(ROUNDS):
            away = torch.linalg.solve_triangular(root, (x - mean).mT, upper=False).square().sum(1)[..., None]
            weight = (DEGREES + x.shape[-1]) / (DEGREES + away)
            mean = (weight * x).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            root = _root((weight * (x - mean)).mT @ (x - mean) / x.shape[1])
        return cls(*(part.to(cloud.dtype) for part in (mean, root, torch.cholesky_inverse(root))))

    def draw(self, n: int, rng: Streams) -> Tensor:
        """n points (S, n, d): normal ones over the root of a chi-square divided by its degrees."""
        wide = rng.normal(n, DEGREES).square().mean(-1, keepdim=True).rsqrt()
        return torch.baddbmm(self.mean, rng.normal(n, self.mean.shape[-1]) * wide, self.root.mT)

    def log_prob(self, x: Tensor) -> Tensor:
        """Up to a constant, (S, n)."""
        centered = x - self.mean
        away = ((centered @ self.precision) * centered).sum(-1)
        return -0.5 * (DEGREES + x.shape[-1]) * torch.log1p(away / DEGREES)

    def counts(self, x: Tensor) -> Tensor:
        """How often a point counts in the next mean and scatter, (S, n, 1): less, the farther out it is."""
        away = self.white(x).square().sum(-1, keepdim=True)
        return (DEGREES + x.shape[-1]) / (DEGREES + away)

    def log_mass(self) -> Tensor:
        """The constant that `log_prob` leaves out, (S, 1)."""
        d = self.mean.shape[-1]
        half = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        gammas = math.lgamma((DEGREES + d) / 2) - math.lgamma(DEGREES / 2)
        return gammas - 0.5 * d * math.log(DEGREES * math.pi) - half

    def score(self, x: Tensor) -> Tensor:
        """Gradient of `log_prob`, (S, n, d)."""
        centered = x - self.mean
        pull = centered @ self.precision
        away = (pull * centered).sum(-1, keepdim=True)
        return pull * (-(DEGREES + x.shape[-1]) / (DEGREES + away))

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which the scatter matrix is I."""
        return (x - self.mean) @ self.axes

    @property
    def axes(self) -> Tensor:
        return self.precision @ self.root


class Following:
    """mu that follows T#P_k through a JKO step: running means, over the images of batches, of what it is fitted by.

    A step of expectation-maximisation a batch. At its end mu has the highest likelihood for T#P_k, so the gradient of
    E_{T#P_k}[log mu] in mu is 0, and the map need not know that mu moves.

    Args:
        law: where it starts; kept as it is.
        share: of a batch in the running means.
    """

    def __init__(self, law: Gaussian | Student, share: float):
        self.law = copied(law)
        self._share = share
        self._scatter = self.law.root.double() @ self.law.root.double().mT

    def take(self, image: Tensor) -> None:
        """Follow the image of a batch (S, n, d): the tensors of `law` change in place."""
        law, x = self.law, image.detach().double()
        count = law.counts(image.detach()).double()
        mean = law.mean.double().lerp((count * x).sum(1, keepdim=True) / count.sum(1, keepdim=True), self._share)
        scatter = (count * (x - mean)).mT @ (x - mean) / x.shape[1]
        self._scatter = self._scatter.lerp(scatter, self._share)
        root = _root(self._scatter)
        for mine, new in ((law.mean, mean), (law.root, root), (law.precision, torch.cholesky_inverse(root))):
            mine.copy_(new)


def tensors(law: Proposal) -> list[Tensor]:
    """What a law is made of, in the order of its fields."""
    return [getattr(law, field.name) for field in fields(law)]


def copied(law: Proposal) -> Gaussian | Student:
    """A Gaussian or a Student law of its own tensors."""
    assert isinstance(law, Gaussian | Student)
    return type(law)(*(part.clone() for part in tensors(law)))


def _root(covariance: Tensor) -> Tensor:
    """Cholesky factor (S, d, d); a flat direction adds 1e-6 of the mean variance, a single point 1."""
    root, flat = torch.linalg.cholesky_ex(covariance)  # a diverged seed must not stop the others
    if flat.any():
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        ridge = torch.where(trace > 0, 1e-6 * trace / covariance.shape[-1], 1.0) * (flat > 0)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        root, _ = torch.linalg.cholesky_ex(covariance + ridge[:, None, None] * eye)
    return root


@dataclass(frozen=True)
class Ellipsoid:
    """The uniform law on an ellipsoid around a cloud, of the shape that the cloud's covariance has."""

    mean: Tensor  # (S, 1, d)
    root: Tensor  # (S, d, d), Cholesky factor of the covariance
    precision: Tensor
    reach: Tensor  # (S, 1, 1): points of the ellipsoid have |root^-1 (x - mean)| <= reach

    @staticmethod
    def around(cloud: Tensor, volume: float) -> Ellipsoid:
        """Its volume is that many times the one of the smallest such ellipsoid that holds the cloud (S, n, d).

        By volume, and not by length, as in d dimensions a length of 1.2 is a volume of 1.2^d: 1.7 in 3, 18 in 16.
        """
        mu = Gaussian.fitted(cloud)
        reach = torch.zeros_like(mu.mean[..., :1])
        for part in cloud.split(CHUNK, 1):
            reach = torch.maximum(reach, mu.white(part).norm(dim=-1).amax(1)[:, None, None])
        return Ellipsoid(mu.mean, mu.root, mu.precision, volume ** (1 / cloud.shape[-1]) * reach)

    @property
    def log_volume(self) -> Tensor:
        """(S,), in float64: the volume of the unit ball alone is below 1e-45 from dimension 88 on."""
        d = self.mean.shape[-1]
        ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
        axes = self.root.double().diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return ball + axes + d * self.reach.double()[:, 0, 0].log()

    def draw(self, n: int, rng: Streams) -> Tensor:
        """n points (S, n, d): uniform directions, and radii whose d-th power is uniform."""
        d = self.mean.shape[-1]
        normal = rng.normal(n, d)
        radius = self.reach * rng.uniform(n, 1) ** (1 / d)
        return torch.baddbmm(self.mean, normal * (radius / normal.norm(dim=-1, keepdim=True)), self.root.mT)

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which the ellipsoid is the ball of radius d^(1/2): the mean square of u is at most 1."""
        return (x - self.mean) @ (self.precision @ self.root) * (x.shape[-1] ** 0.5 / self.reach)

    @property
    def axes(self) -> Tensor:
        return self.precision @ self.root * (self.root.shape[-1] ** 0.5 / self.reach)


@dataclass(frozen=True)
class Box:
    """The uniform law on a cube around a cloud."""

    mean: Tensor  # (S, 1, d)
    half: Tensor  # (S, 1, 1), half of a side

    @staticmethod
    def around(cloud: Tensor, margin: float) -> Box:
        """Half a side is `margin` times the largest coordinate of the cloud (S, n, d), seen from its mean (F.5)."""
        center = cloud.mean(1, keepdim=True)
        reach = torch.zeros_like(center[..., :1])
        for part in cloud.split(CHUNK, 1):
            reach = torch.maximum(reach, (part - center).abs().amax((1, 2), keepdim=True))
        return Box(center, margin * reach)

    @property
    def log_volume(self) -> Tensor:
        """(S,), in float64."""
        return self.mean.shape[-1] * (2 * self.half.double()[:, 0, 0]).log()

    def draw(self, n: int, rng: Streams) -> Tensor:
        return self.mean + self.half * (2 * rng.uniform(n, self.mean.shape[-1]) - 1)

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which the box is [-1, 1]^d."""
        return (x - self.mean) / self.half

    @property
    def axes(self) -> Tensor:
        d = self.mean.shape[-1]
        return torch.eye(d, device=self.half.device, dtype=self.half.dtype) / self.half


def draws(law: Proposal | TargetSamples, count: int, n: int, rng: Streams) -> Tensor:
    """The points of `count` draws of n, (S, count, n, d), from fewer launches where numbers allow it."""
    if type(law) is Gaussian:
        return law.placed(rng.normals(count, n, law.mean.shape[-1]).flatten(1, 2)).unflatten(1, (count, n))
    return torch.stack([law.draw(n, rng) for _ in range(count)], 1)


PROPOSALS = {"iid": Gaussian, "matched": Matched, "student": Student}
Proposal = Gaussian | Student | Ellipsoid | Box
