"""Divergences by densities: KL where log-densities are known, and SymKL of fitted Gaussians."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from gwfbench.metrics.moments import ROUNDING, jackknife, regular_root, sums_of
from gwfbench.protocol import Estimate, Judged, Metric, Need


def gaussian_symkl(
    mean: Tensor, covariance: Tensor, mean0: Tensor, covariance0: Tensor, rounding: float = 0.0
) -> Tensor:
    """KL(p||q) + KL(q||p) of two Gaussians; inf where a covariance is singular, or so nearly that rounding decides.

    1/2 [tr(C0^-1 C) + tr(C^-1 C0) - 2 d + (m - m0)' (C^-1 + C0^-1) (m - m0)], shapes (..., d) and (..., d, d) -> (...).
    With C = L L' and A = L0^-1 L the first three terms are |A - A'^-1|_F^2: a sum of squares, which is never negative
    and doesn't cancel near 0.

    Args:
        rounding: relative, of the points behind `covariance`: variance that it alone can make is none.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    noise = rounding**2 * (1 + mean.square() / variance)
    root, regular = regular_root(covariance, noise.clamp_min(ROUNDING))
    root0, regular0 = regular_root(covariance0)
    delta = (mean - mean0)[..., None]
    a = torch.linalg.solve_triangular(root0, root, upper=False)
    back = torch.linalg.solve_triangular(root, root0.expand(root.shape), upper=False)
    gap = (a - back.mT).square().sum((-2, -1))
    for factor in (root, root0):
        gap = gap + torch.linalg.solve_triangular(factor, delta, upper=False).square().sum((-2, -1))
    return torch.where(regular & regular0, 0.5 * gap, math.inf)


def _symkl(judged: Judged) -> Estimate:
    assert judged.truth.moments is not None
    mean0, covariance0 = judged.truth.moments(judged.index)
    rounding = torch.finfo(judged.points.dtype).eps

    def statistic(mean: Tensor, covariance: Tensor) -> Tensor:
        return gaussian_symkl(mean, covariance, mean0[:, None], covariance0[:, None], rounding)

    return Estimate(*jackknife(sums_of(judged), statistic), n=judged.points.shape[1])


def _symkl_debiased(judged: Judged) -> Estimate:
    found, d = _symkl(judged), judged.points.shape[2]
    return replace(found, value=found.value - d * (d + 3) / (2 * found.n))


def _kl(judged: Judged) -> Estimate:
    """Infinite where the truth has no density at a point, or the law all of it; not a number where the law has none."""
    assert judged.log_prob is not None
    assert judged.truth.log_prob is not None
    gap = judged.log_prob.double() - judged.truth.log_prob(judged.index, judged.points).double()  # (S, n)
    n, value = gap.shape[1], gap.mean(1)
    return Estimate(torch.where(value > -math.inf, value, math.nan), gap.std(1) / math.sqrt(n), n)


symkl = Metric(
    "symkl",
    _symkl,
    points=None,
    needs=frozenset({Need.MOMENTS}),
    version=2,
    source="KL(p || q) + KL(q || p) of the Gaussian fitted to the points and the truth's mean and covariance (Mokrov "
    "et al. 2021, section 5.2; Fan et al. 2022, F.1). Infinite where the points lie in a plane of lower dimension. "
    "Standard error by the block jackknife",
)
symkl_debiased = replace(
    symkl,
    name="symkl_debiased",
    evaluate=_symkl_debiased,
    version=1,
    source="symkl less d (d + 3) / (2 n), what n independent draws of a normal law give on average, to first order in "
    "1 / n, when the law is the truth. So it may be negative. For other laws what is left of the bias is of the same "
    "order times their distance. Standard error as symkl's",
)
symkl_jko = replace(
    symkl,
    name="symkl_jko",
    law="jko",
    source="as symkl, but against the exact JKO sequence for the method's own step sizes",
)
kl = Metric(
    "kl",
    _kl,
    points=65536,
    needs=frozenset({Need.DENSITY, Need.LOG_PROB}),
    source="KL(law || truth), the mean over the law's own points of the law's log-density less the truth's. Infinite "
    "where a point lies outside the truth's support. Standard error: s.d. / sqrt(n)",
)
