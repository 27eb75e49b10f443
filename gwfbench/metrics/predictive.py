"""Predictive metrics: log-likelihood and accuracy of the predictive law of a logistic regression on test rows.

    p_i = mean over the points of sigmoid(w . z_i),   z_i = y_i f_i the signed test rows, y_i in {-1, 1}
    log-likelihood = mean of log p_i       accuracy = share of p_i > 1/2

(Liu and Wang 2016; Fan et al. 2022, F.4.) The standard error is over the points, by the block jackknife; the test rows
are held fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric

BLOCKS = 50  # of the jackknife
POINTS = 4096
_SOURCE = (
    "p_i the mean over the points of sigmoid(y_i w . f_i), i over the test rows (Liu and Wang 2016; Fan et al. 2022, "
    "F.4); standard error over the points by the block jackknife, the test rows held fixed"
)


def metrics(test: Tensor) -> tuple[Metric, Metric]:
    """log_likelihood and accuracy on signed test rows, (N, k): of the first k coordinates of points, the weights."""
    return (
        Metric("log_likelihood", partial(_judge, test, _log), POINTS, f"mean of log p_i: {_SOURCE}", better="higher"),
        Metric("accuracy", partial(_judge, test, _hit), POINTS, f"share of p_i > 1/2: {_SOURCE}", better="higher"),
    )


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _hit(p: Tensor) -> Tensor:
    return (p > 0.5).to(p.dtype)


def _judge(test: Tensor, reward: Callable[[Tensor], Tensor], judged: Judged) -> Estimate:
    """Mean over the test rows of `reward` of their predictive probability, and its jackknife error over the points."""
    n = judged.points.shape[1]
    if n < 2:
        raise ValueError(f"the jackknife needs at least 2 points, got {n}")
    values, errors = [], []
    for w in judged.points[..., : test.shape[1]].double():
        blocks = w.tensor_split(min(BLOCKS, n))
        sums = torch.stack([torch.sigmoid(block @ test.mT).sum(0) for block in blocks])  # (B, rows)
        left = torch.tensor([n - len(block) for block in blocks], dtype=torch.float64, device=w.device)
        f = reward((sums.sum(0) - sums) / left[:, None]).mean(1)
        values.append(reward(sums.sum(0) / n).mean())
        errors.append(((len(blocks) - 1) / len(blocks) * (f - f.mean()).square().sum()).sqrt())
    return Estimate(torch.stack(values), torch.stack(errors), n)
