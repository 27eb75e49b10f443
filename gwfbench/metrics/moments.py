"""Mean and covariance of a cloud in float64, by blocks, the block jackknife over them, and the errors of both."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric, Need

BLOCKS = 50  # the standard error of a standard error is then about 10 %


def jackknife(points: Tensor, statistic: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A function of mean and covariance, and its block-jackknife standard error.

    Args:
        points: (S, n, d), n >= 2 d + 2.
        statistic: mean (..., d) and covariance (..., d, d), float64 -> (...).

    Returns:
        value (S,) of the whole cloud and se (S,) from leaving out each of 50 blocks (fewer when n < 100) in turn:
        sqrt((B - 1) / B sum_b (f_b - f.)^2), Efron and Stein 1981.
    """
    n, d = points.shape[1:]
    if n < 2 * d + 2:
        raise ValueError(f"a covariance in dimension {d} needs at least {2 * d + 2} points, got {n}")
    center = points.mean(1, dtype=torch.float64)  # (S, d); sums about it keep all digits
    blocks = torch.tensor_split(points, min(BLOCKS, n // 2), dim=1)
    first, second = [], []
    for block in blocks:
        x = block.double() - center[:, None]  # (S, n/B, d)
        first.append(x.sum(1))
        second.append(x.mT @ x)
    s1, s2 = torch.stack(first, 1), torch.stack(second, 1)  # (S, B, d), (S, B, d, d)
    size = torch.tensor([block.shape[1] for block in blocks], dtype=torch.float64, device=points.device)

    def evaluate(s1: Tensor, s2: Tensor, count: Tensor) -> Tensor:
        shift = s1 / count[..., None]
        covariance = s2 / count[..., None, None] - shift[..., :, None] * shift[..., None, :]
        return statistic(center[:, None] + shift, covariance)

    whole = evaluate(s1.sum(1, keepdim=True), s2.sum(1, keepdim=True), size.sum()[None, None])[:, 0]
    left = evaluate(s1.sum(1, keepdim=True) - s1, s2.sum(1, keepdim=True) - s2, (size.sum() - size)[None])
    b = len(blocks)
    return whole, ((b - 1) / b * (left - left.mean(1, keepdim=True)).square().sum(1)).sqrt()


def mahalanobis(mean: Tensor, mean0: Tensor, covariance0: Tensor) -> Tensor:
    """sqrt((m - m0)' C0^-1 (m - m0)), shapes (..., d) and (..., d, d) -> (...); inf where C0 is singular."""
    root, bad = torch.linalg.cholesky_ex(covariance0)
    white = torch.linalg.solve_triangular(root, (mean - mean0)[..., None], upper=False)
    return torch.where(bad > 0, math.inf, white.square().sum((-2, -1)).sqrt())


def _moments_mean(judged: Judged) -> Estimate:
    assert judged.truth.moments is not None
    mean0, covariance0 = judged.truth.moments(judged.index)

    def statistic(mean: Tensor, _: Tensor) -> Tensor:
        return mahalanobis(mean, mean0[:, None], covariance0[:, None])

    return Estimate(*jackknife(judged.points, statistic), n=judged.points.shape[1])


def _moments_covariance(judged: Judged) -> Estimate:
    assert judged.truth.moments is not None
    _, covariance0 = judged.truth.moments(judged.index)

    def statistic(_: Tensor, covariance: Tensor) -> Tensor:
        gap = torch.linalg.matrix_norm(covariance - covariance0[:, None])
        return gap / torch.linalg.matrix_norm(covariance0)[:, None]

    return Estimate(*jackknife(judged.points, statistic), n=judged.points.shape[1])


moments_mean = Metric(
    "moments_mean",
    _moments_mean,
    points=None,
    needs=frozenset({Need.MOMENTS}),
    source="|C0^-1/2 (m - m0)|: error of the mean in the truth's standard deviations, the same in all coordinates "
    "(Mahalanobis 1936); its floor is about sqrt(d / n); se by the block jackknife",
)
moments_covariance = Metric(
    "moments_covariance",
    _moments_covariance,
    points=None,
    needs=frozenset({Need.MOMENTS}),
    source="|C - C0|_F / |C0|_F: relative error of the covariance; se by the block jackknife",
)
