"""Laws fitted to a cloud that critics compare with: the Gaussian of its moments, the uniform law on a box around it.

Both give coordinates in which the cloud has size one, so that a network's start does not depend on the task's units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.rng import Streams

CHUNK = 65536  # points taken to float64 at once


@dataclass(frozen=True)
class Gaussian:
    """mu, the Gaussian with the mean and covariance of a cloud."""

    mean: Tensor  # (S, 1, d)
    root: Tensor  # (S, d, d), Cholesky factor of the covariance
    precision: Tensor

    @staticmethod
    def fitted(cloud: Tensor) -> Gaussian:
        """Moments in float64, of the cloud (S, n, d)."""
        center = cloud.mean(1, keepdim=True, dtype=torch.float64)
        scatter = sum((x.mT @ x for part in cloud.split(CHUNK, 1) for x in [part.double() - center]), torch.zeros(()))
        return Gaussian.of(center, scatter / cloud.shape[1], cloud.dtype)

    @staticmethod
    def of(mean: Tensor, covariance: Tensor, dtype: torch.dtype) -> Gaussian:
        """Mean (S, 1, d), covariance (S, d, d); a flat direction adds 1e-6 of the mean variance, a single point 1."""
        root, flat = torch.linalg.cholesky_ex(covariance)  # a diverged seed must not stop the others
        if flat.any():
            trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
            ridge = torch.where(trace > 0, 1e-6 * trace / covariance.shape[-1], 1.0) * (flat > 0)
            eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
            root, _ = torch.linalg.cholesky_ex(covariance + ridge[:, None, None] * eye)
        return Gaussian(*(part.to(dtype) for part in (mean, root, torch.cholesky_inverse(root))))

    def draw(self, n: int, rng: Streams, matched: bool = False) -> Tensor:
        """n points (S, n, d), independent or moment-matched."""
        d = self.mean.shape[-1]
        return torch.baddbmm(self.mean, rng.whitened(n, d, n) if matched else rng.normal(n, d), self.root.mT)

    def log_prob(self, x: Tensor) -> Tensor:
        """Up to a constant, (S, n)."""
        centered = x - self.mean
        return -0.5 * ((centered @ self.precision) * centered).sum(-1)

    def log_mass(self) -> Tensor:
        """The constant that `log_prob` leaves out, (S, 1)."""
        d = self.mean.shape[-1]
        half = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        return -half - 0.5 * d * math.log(2 * math.pi)

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which mu is N(0, I)."""
        return (x - self.mean) @ (self.precision @ self.root)  # root^-T


@dataclass(frozen=True)
class Box:
    """The uniform law on a cube around a cloud."""

    center: Tensor  # (S, 1, d)
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
    def volume(self) -> Tensor:
        """(S,)."""
        return (2 * self.half[:, 0, 0]) ** self.center.shape[-1]

    def draw(self, n: int, rng: Streams) -> Tensor:
        return self.center + self.half * (2 * rng.uniform(n, self.center.shape[-1]) - 1)

    def white(self, x: Tensor) -> Tensor:
        """Coordinates in which the box is [-1, 1]^d."""
        return (x - self.center) / self.half
