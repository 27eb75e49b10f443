"""Resampling of weighted particles, and the variance of an estimate of Z that went through it, by families.

A particle's family is its ancestor among the first particles. Two particles of one family are correlated, those of two
are not, so that with W the last weights (Lee and Whiteley 2018, equations 5 and 6)

    var(Z) / Z^2 = 1 - n / (n - 1) prod_t c_t sum over pairs with two families of W_i W_j

c_t undoes the effect of resampling t on pairs: it is the share of pairs of two particles, weighted, before it, divided
by the expected share of pairs with two parents after it. For multinomial resampling it is n / (n - 1), and the estimate
is unbiased. For systematic resampling of shuffled particles, all pairs are taken to have equal chances, which is nearly
true.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gwfbench.rng import Streams


def systematic(weights: Tensor, noise: Streams) -> tuple[Tensor, Tensor]:
    """Indices (S, n) of the chosen, each n W times on average and at most one off, and log c_t, (S, 1)."""
    n = weights.shape[1]
    order = noise.uniform(n).argsort(1)  # or relatives, which stand together, would not be chosen independently
    points = (noise.uniform(1).double() + torch.arange(n, device=weights.device)) / n
    rest = (n * weights).frac()
    return order.gather(1, _at(weights.gather(1, order), points)), _log_c(weights, rest * (1 - rest))


def multinomial(weights: Tensor, noise: Streams) -> tuple[Tensor, Tensor]:
    """Indices (S, n) of independent choices, and log c_t, (S, 1)."""
    n = weights.shape[1]
    return _at(weights, noise.uniform(n).double()), _log_c(weights, n * weights * (1 - weights))


RESAMPLING = {"systematic": systematic, "multinomial": multinomial}


def _at(weights: Tensor, points: Tensor) -> Tensor:
    """The index at which the sum of the weights passes each point of [0, 1), (S, n)."""
    sums = weights.cumsum(1)
    return torch.searchsorted(sums / sums[:, -1:], points, right=True).clamp_max(weights.shape[1] - 1)


def _log_c(weights: Tensor, variance: Tensor) -> Tensor:
    """log of c_t.

    Args:
        variance: of the number of times that each particle is chosen, (S, n).
    """
    alone = weights.square().sum(1, keepdim=True)
    parents = 1 - alone - variance.sum(1, keepdim=True) / weights.shape[1] ** 2
    return torch.where(parents > 0, (1 - alone) / parents, 1.0).log()


def relative_variance(weights: Tensor, family: Tensor, pairs: Tensor) -> Tensor:
    """var(Z) / Z^2 of the module's docstring, (S, 1); unbiased for multinomial resampling, and may be negative."""
    n = weights.shape[1]
    shares = torch.zeros_like(weights).scatter_add_(1, family, weights)
    return 1 - n / (n - 1) * pairs.exp() * (1 - shares.square().sum(1, keepdim=True))
