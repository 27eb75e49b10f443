"""Whether a law spreads its mass over the modes of a mixture as the target does.

A point x belongs to mode k by r_k(x), a number in [0, 1]; sum_k r_k = 1. The statistic is the total variation distance

    1/2 sum_k |p_k - w_k|,   p_k = mean of r_k over the points,   w_k = E[r_k] under the target:

the share of mass that would have to change its mode, whatever its place within one. It is 0 at the target (up to its
floor) and w_k where mode k alone is empty, its mass shared out in proportion among modes far apart.

With a scale s, r_k(x) is the posterior probability of component k, w_k N(x; mu_k, s^2) / sum_j w_j N(x; mu_j, s^2): its
mean under the mixture sum_k w_k N(mu_k, s^2) is w_k *exactly*, in any dimension and however much the modes overlap,
which no other assignment offers. With scale 0, the limit, r_k is 1 at the nearest mean; the shares w_k are then the
caller's to know. A mode may be any set with a centre: nothing here asks whether points lie well inside one.

The standard error is the delta method's: with c_k = sign(p_k - w_k) / 2, sqrt(c' Cov(r) c / n). At the target itself
the absolute value has no derivative: there the value's mean is the floor sum_k sqrt(Var(r_k) / (2 pi n)), and the
standard error is too large (1.6 times the spread of repeated values, for 8, 10 or 25 equal modes far apart). It is
never below 1 / n, the share of one point: that all were in one mode is not to know that none is ever elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric
from gwfbench.velocity.distances import apart, direct

CHUNK = 16384  # points assigned at once


def mode_coverage(means: Tensor, shares: Tensor, scale: float = 0.0) -> Metric:
    """The metric `mode_coverage` for one target; a task puts it into its truth's `metrics`.

    Args:
        means: (S, K, d), a centre for each mode.
        shares: (S, K) or (K,), the target's share w_k of each mode, all positive, sum 1.
        scale: of the spherical Gaussian components, if the target is such a mixture; 0: the nearest mean takes all.

    Raises:
        ValueError: shapes do not fit, or shares are not a distribution.
    """
    means, shares = means.double(), shares.double().expand(means.shape[:2])
    if not (shares > 0).all() or not torch.allclose(shares.sum(-1), torch.ones_like(shares[:, 0])):
        raise ValueError(f"shares of modes must be positive and sum to 1, got {shares.tolist()}")
    if not 0 <= scale < float("inf"):
        raise ValueError(f"the scale of modes must be 0 or positive, got {scale}")

    def evaluate(judged: Judged) -> Estimate:
        points = judged.points.flatten(2)  # (S, n, d)
        n = points.shape[1]
        if n < 2 or points.shape[::2] != means.shape[::2]:
            raise ValueError(f"modes {tuple(means.shape)} need points (S, n >= 2, d), got {tuple(points.shape)}")
        first, second = torch.zeros_like(shares), torch.zeros_like(shares)[..., None] @ shares[:, None]
        for part in points.split(CHUNK, 1):
            r = _memberships(part.double(), means, shares, scale)
            first = first + r.sum(1)
            second = second + r.mT @ r
        p = first / n
        c = 0.5 * (p - shares).sign()
        covariance = second / n - p[:, :, None] * p[:, None]
        variance = (c[:, None] @ covariance @ c[..., None])[:, 0, 0]
        return Estimate(0.5 * (p - shares).abs().sum(-1), (variance / (n - 1)).clamp_min(n**-2).sqrt(), n)

    return Metric(
        "mode_coverage",
        evaluate,
        points=None,
        source="Share of the mass that would have to change its mode for all modes to have what the target gives them "
        "(total variation). A point belongs to its nearest mode, or to each by the posterior probability of a "
        "Gaussian component. Standard error by the delta method",
    )


def _memberships(x: Tensor, means: Tensor, shares: Tensor, scale: float) -> Tensor:
    """r_k at each point, (S, n, K)."""
    if _spread_out(means, scale):
        logits = -0.5 * direct(x, means)
    else:
        logits = torch.baddbmm(-0.5 * means.square().sum(-1)[:, None], x, means.mT)  # |x - mu_k|^2 = |x|^2 - 2 logits
    if scale == 0:
        return (logits.argmax(-1, keepdim=True) == torch.arange(means.shape[1], device=logits.device)).double()
    return (logits / scale**2 + shares.log()[:, None]).softmax(-1)


def _spread_out(means: Tensor, scale: float) -> bool:
    """Whether modes are so far from 0 that a matrix product mixes up near ones."""
    apart_by = direct(means, means).masked_fill(torch.eye(means.shape[1], dtype=torch.bool).to(means.device), math.inf)
    square = means.square().sum(-1, keepdim=True)
    return apart(square, square, 1 / (scale**2 or float(apart_by.min()))) is not None
