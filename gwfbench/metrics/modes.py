"""Mode metrics: whether a law spreads its mass over the modes of a mixture as the target does.

A point x belongs to mode k by r_k(x), a number in [0, 1]; sum_k r_k = 1. The statistic is the total variation distance

    1/2 sum_k |p_k - w_k|,   p_k = mean of r_k over the points,   w_k = E[r_k] under the target:

the share of mass that would have to change its mode, whatever its place within a mode. It is 0 at the target (up to its
floor). It is w_k where mode k alone is empty and its mass is shared out in proportion among distant modes.

With a scale s, r_k(x) is the posterior probability of component k, w_k N(x; mu_k, s^2) / sum_j w_j N(x; mu_j, s^2). Its
mean under the mixture sum_k w_k N(mu_k, s^2) is w_k *exactly*, in any dimension and however much the modes overlap,
which no other assignment offers. With scale 0, the limit, r_k is 1 at the nearest mean, and the caller must know the
shares w_k. A mode may be any set with a centre: nothing here asks whether points lie well inside one.

The standard error is the delta method's: with c_k = sign(p_k - w_k) / 2, sqrt(c' Cov(r) c / n). At the target itself
the absolute value has no derivative. There the value's mean is the floor sum_k sqrt(Var(r_k) / (2 pi n)), and the
standard error is too large (1.6 times the spread of repeated values, for 8, 10 or 25 equal modes far apart). It is
never below 1 / n, the share of one point: n points in one mode do not show that no point is ever elsewhere.

`mode_weights` and `emc` count points. A task gives each point a label, the number of its mode, such that the labels of
independent draws are independent and are k with probability w_k. Then counts are multinomial exactly, and the mean of
such a metric over exact draws can be computed. Where modes overlap, `posterior` draws the label from r_k(x).

    mode_weights   1/2 sum_k |p_k - w_k|,        p_k the share of labels k
    emc            H = -sum_k p_k log_K p_k      entropic mode coverage (Blessing et al. 2024): 1 is a uniform share
    emc_error      |H - E H|,                    E H = -sum_k sum_j Binomial(j; n, w_k) j/n log_K j/n for exact draws

E H is below H(w) and depends on n, which is why H alone says little; where shares are not equal H may even be too high.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric
from gwfbench.rng import Streams
from gwfbench.velocity.distances import apart, direct

CHUNK = 16384  # points assigned at once
EMC_POINTS = 2000  # as published
WIDE = 12.0  # standard deviations of a binomial law beyond which nothing of it is left: e^-72

Labels = Callable[[Tensor, Streams], Tensor]  # (S, n, ...) -> (S, n), whole numbers from 0 to K - 1


def mode_coverage(means: Tensor, shares: Tensor, scale: float = 0.0) -> Metric:
    """The metric `mode_coverage` for one target; a task puts it into its truth's `metrics`.

    Args:
        means: (S, K, d), a centre for each mode.
        shares: (S, K) or (K,), the target's share w_k of each mode, all positive, sum 1.
        scale: of the spherical Gaussian components, if the target is such a mixture; 0: the nearest mean takes all.

    Raises:
        ValueError: shapes do not fit, or shares are not a distribution.
    """
    means, shares = means.double(), _distribution(shares).expand(means.shape[:2])
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


def _distribution(shares: Tensor) -> Tensor:
    shares = shares.double()
    if not (shares > 0).all() or not torch.allclose(shares.sum(-1), torch.ones_like(shares.sum(-1))):
        raise ValueError(f"shares of modes must be positive and sum to 1, got {shares.tolist()}")
    return shares


def posterior(means: Tensor, shares: Tensor, scale: float) -> Labels:
    """Labels for a mixture sum_k w_k N(mu_k, scale^2 I): drawn from r_k(x), so that they are k with probability w_k.

    Args:
        means: (S, K, d).    shares: (S, K) or (K,), w_k.    scale: positive.
    """
    means, shares = means.double(), _distribution(shares).expand(means.shape[:2])

    def labels(x: Tensor, rng: Streams) -> Tensor:
        found, u = [], rng.uniform(x.shape[1]).double()
        for part, level in zip(x.flatten(2).split(CHUNK, 1), u.split(CHUNK, 1), strict=True):
            ends = _memberships(part.double(), means, shares, scale).cumsum(-1)
            found.append((ends < level[..., None] * ends[..., -1:]).sum(-1))
        return torch.cat(found, 1)

    return labels


def expected_emc(shares: Tensor, n: int) -> Tensor:
    """E of -sum_k p_k log_K p_k over n independent draws of modes with these shares, (S, K) -> (S,), float64.

    By sums over binomial laws, each share that occurs once, from 12 standard deviations below its mean to 12 above (or
    72 further, where the law is nearly Poisson's).
    """
    from scipy.stats import binom

    values, which = _distribution(shares).unique(return_inverse=True)
    parts = []
    for w in values.tolist():
        reach = WIDE * math.sqrt(n * w * (1 - w)) + WIDE**2 / 2
        j = torch.arange(max(1, math.floor(n * w - reach)), min(n, math.ceil(n * w + reach)) + 1, dtype=torch.float64)
        chance = torch.from_numpy(binom.pmf(j.numpy(), n, w)) if w < 1 else (j == n).double()
        parts.append(float(-(chance * torch.xlogy(j / n, j / n)).sum()))
    entropy = torch.tensor(parts, dtype=torch.float64, device=shares.device)[which].sum(-1)
    return entropy / math.log(shares.shape[-1])


def mode_weights(labels: Labels, shares: Tensor) -> Metric:
    """The metric `mode_weights` for one target; a task puts it into its truth's `metrics`.

    Args:
        labels: the number of each point's mode.
        shares: (S, K), the probability of each label under the target, all positive, sum 1.

    Raises:
        ValueError: shares are not a distribution.
    """
    shares = _distribution(shares)

    def evaluate(judged: Judged) -> Estimate:
        p, n = _shares(labels, judged, shares)
        c = 0.5 * (p - shares).sign()
        variance = ((c.square() * p).sum(-1) - (c * p).sum(-1).square()) / max(n - 1, 1)
        return Estimate(0.5 * (p - shares).abs().sum(-1), variance.clamp_min(n**-2).sqrt(), n)

    return Metric(
        "mode_weights",
        evaluate,
        points=None,
        source="Total variation between the shares of modes, counted, and those of the target. It is not 0 for exact "
        "draws but about sum_k sqrt(w_k (1 - w_k) / (2 pi n)). Standard error by the delta method",
    )


def emc(labels: Labels, shares: Tensor) -> tuple[Metric, Metric]:
    """The metrics `emc` and `emc_error` for one target; a task puts both into its truth's `metrics`.

    Args:
        labels, shares: as for `mode_weights`; two modes at least.

    Raises:
        ValueError: shares are not a distribution over two modes or more.
    """
    shares = _distribution(shares)
    if shares.shape[-1] < 2:
        raise ValueError("the entropy of modes needs two of them or more, got one")

    def evaluate(judged: Judged) -> Estimate:
        p, n = _shares(labels, judged, shares)
        value = -torch.xlogy(p, p).sum(-1)
        square = (torch.xlogy(p, p) * p.clamp_min(1 / n).log()).sum(-1)  # E log^2 p
        error = ((square - value.square()).clamp_min(0.0) / n).sqrt().clamp_min(1 / n)
        return Estimate(value / math.log(shares.shape[-1]), error / math.log(shares.shape[-1]), n)

    def gap(judged: Judged) -> Estimate:
        found = evaluate(judged)
        expected = judged.of_truth("expected entropy of modes", lambda: expected_emc(shares, found.n))
        return Estimate((found.value - expected).abs(), found.se, found.n)

    error = "Standard error by the delta method, and at least that of one point"
    return Metric(
        "emc",
        evaluate,
        points=EMC_POINTS,
        better="higher",
        source="Entropic mode coverage -sum_k p_k log_K p_k, p_k the share of points in mode k (Blessing et al. 2024). "
        f"For exact draws it is below 1, see emc_error. {error}",
    ), Metric(
        "emc_error",
        gap,
        points=EMC_POINTS,
        source="|emc - its expectation for as many independent draws of the target|, the latter exact, by sums over "
        f"binomial laws. {error}",
    )


def _shares(labels: Labels, judged: Judged, shares: Tensor) -> tuple[Tensor, int]:
    """The share of each label, (S, K), and the number of points."""
    which = labels(judged.points, judged.rng.fork("labels"))
    n, modes = which.shape[1], shares.shape[-1]
    rows = torch.arange(len(which), device=which.device)[:, None] * modes
    counts = torch.bincount((which + rows).flatten(), minlength=len(which) * modes)
    return counts.view(len(which), modes).double() / n, n


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
