"""Squared bias of estimated moments, in units of the target's variance: the moments that samplers are run for.

    b^2(f) = (mean of f over the points - E f)^2 / Var f,      f = x_i and x_i^2, E and Var under the target

`b2_max` and `b2_mean` are the largest and the mean over the coordinates i and both f (Hoffman and Sountsov 2022). Below
0.01 the bias is less than that of 100 independent draws; the number of oracle calls that this takes is
`grads_to_accuracy` of a board (report/board/accuracy.py). n exact draws have 1 / n on average, for each f.

E x_i and E x_i^2 are exact where the truth knows its moments. Otherwise they come from up to 65,536 draws of the truth,
whose error counts; Var x_i^2 always does. The standard error is the delta method's, sqrt(Var sum_f g_f f(x) / n) with
g_f = 2 (mean - E f) / Var f. It says nothing at 0: there the value is chi-squared, and the error too small. So it is
never below sqrt(2) / n for one f, the spread of b^2 over exact draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric, Need

DRAWS = 2**16  # of the truth
NUMBERS = 2**24  # of the truth's draws, at most: fewer draws in many dimensions
CHUNK = 2**20  # numbers in float64 at once


@dataclass(frozen=True)
class _Truth:
    """Of f = x_1 ... x_d, then x_1^2 ... x_d^2: mean and variance, (S, 2 d), and the draws that the means come from.

    `draws` are none where the means are exact.
    """

    mean: Tensor
    variance: Tensor
    draws: Tensor | None


def _known(judged: Judged) -> _Truth:
    def make() -> _Truth:
        d = judged.points.shape[2:].numel()
        draws = judged.reference(max(2, min(DRAWS, NUMBERS // d)), judged.rng.fork("draws")).flatten(2)
        mean, variance = _moments(draws)
        if judged.truth.moments is None:
            return _Truth(mean, variance, draws)
        first, covariance = judged.truth.moments(judged.index)
        own = covariance.diagonal(dim1=-2, dim2=-1)
        square = variance[:, own.shape[1] :]
        return _Truth(torch.cat([first, own + first.square()], 1), torch.cat([own, square], 1), None)

    return judged.of_truth("moments of x and x^2", make)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x and x^2 over points (S, n, d): (S, 2 d) each, float64."""
    n, middle = x.shape[1], x[:, :1].double()
    for _ in range(2):  # about a first point, then about the mean: no digits are lost where it is far from 0
        middle = middle + sum((part.double() - middle).sum(1, keepdim=True) for part in _parts(x)) / n
    sums = torch.zeros(3, *x[:, 0].shape, dtype=torch.float64, device=x.device)
    for part in _parts(x):
        y = part.double() - middle
        sums += torch.stack([y.square().sum(1), y.pow(3).sum(1), y.pow(4).sum(1)])
    two, three, four = sums / n
    c = middle[:, 0]  # x^2 = c^2 + 2 c y + y^2
    spread = 4 * c.square() * two + 4 * c * three + four - two.square()
    return torch.cat([c, c.square() + two], 1), torch.cat([two, spread], 1)


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, CHUNK // x[:, 0].numel()), 1)


@dataclass(frozen=True)
class _Bias:
    """b^2 of each f, (S, 2 d), and what an average of b^2 with weights has as its error."""

    value: Tensor
    slope: Tensor  # 2 (mean - E f) / Var f
    points: Tensor
    draws: Tensor | None

    def error(self, weights: Tensor) -> Tensor:
        """Standard error of the weighted sum, (S,), weights (S, 2 d) at least 0; unknown where that is infinite."""
        total = weights.new_zeros(len(weights))
        for cloud in (self.points, self.draws):
            if cloud is not None:
                total = total + _spread(cloud, weights * self.slope) / cloud.shape[1]
        least = math.sqrt(2) / self.points.shape[1] * weights.square().sum(1).sqrt()
        known = (self.value.isfinite() | (weights == 0)).all(1)
        return torch.where(known, total.sqrt().maximum(least), math.nan)


def _spread(x: Tensor, slope: Tensor) -> Tensor:
    """Variance over points of sum_f slope_f f(x), (S,)."""
    d = x.shape[2]
    parts = [part.double() for part in _parts(x)]
    values = torch.cat([(part @ slope[:, :d, None] + part.square() @ slope[:, d:, None])[..., 0] for part in parts], 1)
    return values.var(1) if values.shape[1] > 1 else values.new_full((len(values),), math.nan)


def _bias(judged: Judged) -> _Bias:
    known, points = _known(judged), judged.points.flatten(2)
    gap = judged.of_law("means of x and x^2", lambda: _moments(points)[0]) - known.mean
    varies = known.variance > 0
    unit = known.variance.where(varies, 1.0)
    value, slope = (gap.square() / unit).where(varies, math.inf), (2 * gap / unit).where(varies, 0.0)
    return _Bias(value, slope, points, known.draws)


def _b2_max(judged: Judged) -> Estimate:
    bias = _bias(judged)
    value, worst = bias.value.max(1)
    which = (worst[:, None] == torch.arange(bias.value.shape[1], device=worst.device)).double()
    return Estimate(value, bias.error(which), bias.points.shape[1])


def _b2_mean(judged: Judged) -> Estimate:
    bias = _bias(judged)
    each = torch.full_like(bias.value, 1 / bias.value.shape[1])
    return Estimate(bias.value.mean(1), bias.error(each), bias.points.shape[1])


b2_max = Metric(
    "b2_max",
    _b2_max,
    points=None,
    needs=frozenset({Need.DRAW}),
    source="Largest squared bias over variance, (mean of f - E f)^2 / Var f, of f = x_i and x_i^2 over coordinates "
    "(Hoffman and Sountsov 2022). E x_i and E x_i^2 are exact where known, else from up to 65,536 draws of the truth. "
    "n exact draws have about 1 / n for each f. Standard error by the delta method, that of the worst f",
)
b2_mean = Metric(
    "b2_mean",
    _b2_mean,
    points=None,
    needs=frozenset({Need.DRAW}),
    source="As b2_max, the mean over coordinates and both f. Standard error by the delta method",
)
