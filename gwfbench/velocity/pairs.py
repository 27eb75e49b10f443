"""Pairs of two clouds by blocks of rows: distances, log-kernels, mean shifts; never an n x m x d tensor.

    laplace    k(x, y) = exp(-|x - y| / h)
    gaussian   k(x, y) = exp(-|x - y|^2 / (2 h^2))

A length h may be a number, or one per seed, (S, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kernel = Literal["laplace", "gaussian"]
BLOCK = 2**18  # pairs at once: 1 MB in float32, which stays in a core's cache
SAMPLE = 512  # points of each cloud that measure a typical distance
LEAST = -75.0  # exponents below the largest: e^-75 adds nothing, and numbers that underflow take ten times as long


class Rows(NamedTuple):
    """A block of rows of the matrix of pairs: which, and its values (S, rows, m), that may be overwritten."""

    at: slice
    values: Tensor


def squares(x: Tensor, y: Tensor, factor: Tensor | float = 1.0, block: int = BLOCK) -> Iterator[Rows]:
    """|x_i - y_j|^2 times a factor, (S, n, d) and (S, m, d), one matrix product a block; rounding may change the sign.

    Coordinates are taken from y's mean, so that a far cloud keeps its digits.
    """
    centre = y.mean(1, keepdim=True)
    x, y = x - centre, y - centre
    left = torch.cat([-2 * x, x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])], -1) * factor
    right = torch.cat([y, torch.ones_like(y[..., :1]), y.square().sum(-1, keepdim=True)], -1).mT
    rows = max(1, block // (y.shape[1] * y.shape[0]))
    for first in range(0, x.shape[1], rows):
        here = slice(first, min(first + rows, x.shape[1]))
        yield Rows(here, left[:, here] @ right)


def log_kernel(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel, block: int = BLOCK) -> Iterator[Rows]:
    """log k(x_i, y_j), by blocks of rows."""
    if kernel == "gaussian":
        for at, values in squares(x, y, -0.5 / _column(h, x).square(), block):
            yield Rows(at, values.clamp_max_(0))
    else:
        for at, values in squares(x, y, 1 / _column(h, x).square(), block):
            yield Rows(at, values.clamp_min_(0).sqrt_().neg_())


def typical_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean |x_i - y_j| over the first 512 points of each, (S, 1, 1)."""
    x, y = x[:, :SAMPLE], y[:, :SAMPLE]
    total = sum(values.clamp_min_(0).sqrt_().sum((1, 2), keepdim=True) for _, values in squares(x, y))
    return torch.as_tensor(total) / (x.shape[1] * y.shape[1])


def mean_shift(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """E[k(x, y) (y - x)] / E[k(x, y)] over the points y, and log E[k(x, y)]: (S, n, d) and (S, n, 1).

    Deng et al. 2026, equation 2. The largest exponent of each row is taken out, so that nothing underflows.
    """
    ones = torch.cat([torch.ones_like(y[..., :1]), y], -1)
    sums, logs = [], []
    for _, values in log_kernel(x, y, h, kernel):
        largest = values.amax(-1, keepdim=True)
        sums.append(values.sub_(largest).clamp_min_(LEAST).exp_() @ ones)
        logs.append(largest)
    total = torch.cat(sums, 1)
    mass = total[..., :1]
    return total[..., 1:] / mass - x, torch.cat(logs, 1) + (mass / y.shape[1]).log()


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """log sum exp along one dimension, which stays."""
    largest = values.amax(dim, keepdim=True)
    return (values - largest).clamp_min_(LEAST).exp_().sum(dim, keepdim=True).log_().add_(largest)


def _column(h: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(h, dtype=x.dtype, device=x.device)
