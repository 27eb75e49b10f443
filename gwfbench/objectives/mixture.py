"""Target laws that several tasks share: mixtures of spherical Gaussians, and the Gaussian that flows start from.

    pi(x) = sum_k w_k N(x; mu_k, s^2 I)
    grad log pi(x) = (sum_k r_k(x) mu_k - x) / s^2,   r_k(x) = softmax_k(log w_k + (x . mu_k - |mu_k|^2 / 2) / s^2)
    mean m = sum_k w_k mu_k,   covariance = s^2 I + sum_k w_k (mu_k - m)(mu_k - m)'

The density is normalised, so that log Z is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.info import Field, Initial, LogDensity
from gwfbench.protocol import Metric, Truth
from gwfbench.rng import Streams

CHUNK = 16384  # points that a truth takes to float64 at once
FINE = 2**53  # different numbers that `fine_uniform` gives


@dataclass(frozen=True)
class Mixture:
    """A mixture of K spherical Gaussians.

    Args:
        means: mu, (S, K, d), float64.
        weights: w, (K,), float64, positive, of sum 1.
        scale: s.
    """

    means: Tensor
    weights: Tensor
    scale: float

    def draw(self, n: int, rng: Streams) -> Tensor:
        edges = self.weights.cumsum(0)[:-1]  # the last component takes what is above
        component = torch.bucketize(fine_uniform(rng, n), edges, right=True)
        return rng.normal(n, self.means.shape[-1]).mul_(self.scale).add_(_pick(self.means.to(rng.dtype), component))

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, (S, n), in x's dtype.

        The nearest mean's term comes from the difference x - mu_k itself: |x|^2 - 2 x . mu_k + |mu_k|^2 would lose its
        digits in float32 where means are far from 0.
        """
        means, s, d = self.means.to(x.dtype), self.scale, x.shape[-1]
        logits = self._logits(x, means)
        largest, best = logits.max(1)
        others = (logits - largest[:, None]).logsumexp(1) + self.weights.to(x.dtype).log()[best]
        return others - 0.5 * (x - _pick(means, best)).square().sum(-1) / s**2 - 0.5 * d * math.log(2 * math.pi * s**2)

    def score(self, x: Tensor) -> Tensor:
        means, s = self.means.to(x.dtype), self.scale
        return torch.baddbmm(x, self._logits(x, means).softmax(1).mT, means, beta=-1 / s**2, alpha=1 / s**2)

    def _logits(self, x: Tensor, means: Tensor) -> Tensor:
        """The log of each component's share at x, up to what no k changes, (S, K, n).

        K before n: a softmax over few numbers that lie side by side would take most of a score's time.
        """
        constant = self.weights.to(x.dtype).log()[:, None] - 0.5 * means.square().sum(-1, keepdim=True) / self.scale**2
        return torch.baddbmm(constant, means / self.scale**2, x.mT)

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        centered = self.means - mean[:, None]
        within = self.scale**2 * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        return mean, within + centered.mT @ (self.weights[:, None] * centered)

    def density(self) -> LogDensity:
        return LogDensity(self.log_prob, self.score)

    def truth(self, *metrics: Metric) -> Truth:
        """All of it is a closed form.

        Args:
            metrics: those that only the task has.
        """
        moments, zero = self.moments(), torch.zeros_like(self.means[:, 0, 0])
        return Truth(
            draw=lambda index, n, rng: self.draw(n, rng),
            exact=True,
            log_prob=lambda index, x: in_double(self.log_prob, x),
            score=lambda index, x: in_double(self.score, x),
            moments=lambda index: moments,
            metrics=metrics,
            log_z=(zero, zero),
        )


def normal_start(dim: int, scale: float) -> Initial:
    """P_0 = N(0, scale^2 I)."""

    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * (x / scale).square().sum(-1) - 0.5 * dim * math.log(2 * math.pi * scale**2)

    return Initial(lambda n, rng: scale * rng.normal(n, dim), log_prob)


def fine_uniform(rng: Streams, *shape: int) -> Tensor:
    """Uniform draws on [0, 1), (S, *shape), in float64 whatever the streams' dtype: float32 has 2^24 of them."""
    return rng.integers(FINE, *shape).double() / FINE


def in_double(field: Field, x: Tensor) -> Tensor:
    """The field computed in float64, by parts, so that half a million points in 128 dimensions need no second copy."""
    return torch.cat([field(part.double()).to(x.dtype) for part in x.split(CHUNK, 1)], 1)


def _pick(means: Tensor, component: Tensor) -> Tensor:
    """The mean of each point's component, (S, K, d) and (S, n) -> (S, n, d)."""
    return means.gather(1, component[..., None].expand(-1, -1, means.shape[-1]))
