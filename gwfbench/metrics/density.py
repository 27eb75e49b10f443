"""Divergences by densities: KL where log-densities are known, and SymKL of fitted Gaussians."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from gwfbench.metrics.moments import jackknife
from gwfbench.protocol import Estimate, Judged, Metric, Need


def gaussian_symkl(mean: Tensor, covariance: Tensor, mean0: Tensor, covariance0: Tensor) -> Tensor:
    """KL(p||q) + KL(q||p) of two Gaussians; inf where a covariance is singular.

    1/2 [tr(C0^-1 C) + tr(C^-1 C0) - 2 d + (m - m0)' (C^-1 + C0^-1) (m - m0)], shapes (..., d) and (..., d, d) -> (...).
    """
    inverse, bad = torch.linalg.inv_ex(covariance)
    inverse0, bad0 = torch.linalg.inv_ex(covariance0)
    delta = (mean - mean0)[..., None]
    traces = (inverse0 * covariance).sum((-2, -1)) + (inverse * covariance0).sum((-2, -1))
    value = 0.5 * (traces - 2 * mean.shape[-1] + (delta.mT @ (inverse + inverse0) @ delta)[..., 0, 0])
    return torch.where((bad + bad0) > 0, math.inf, value)


def _symkl(judged: Judged) -> Estimate:
    assert judged.truth.moments is not None
    mean0, covariance0 = judged.truth.moments(judged.index)

    def statistic(mean: Tensor, covariance: Tensor) -> Tensor:
        return gaussian_symkl(mean, covariance, mean0[:, None], covariance0[:, None])

    return Estimate(*jackknife(judged.points, statistic), n=judged.points.shape[1])


def _kl(judged: Judged) -> Estimate:
    assert judged.log_prob is not None
    assert judged.truth.log_prob is not None
    gap = judged.log_prob.double() - judged.truth.log_prob(judged.index, judged.points).double()  # (S, n)
    n = gap.shape[1]
    return Estimate(gap.mean(1), gap.std(1) / math.sqrt(n), n)


symkl = Metric(
    "symkl",
    _symkl,
    points=None,
    needs=frozenset({Need.MOMENTS}),
    source="Mokrov et al. 2021, section 5.2; Fan et al. 2022, F.1: Gaussian fitted to the points against the truth's; "
    "standard error by the block jackknife",
)
symkl_jko = dataclasses.replace(
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
    source="KL(law || truth) as the mean of log-density differences at the law's own points; se = s.d. / sqrt(n)",
)
