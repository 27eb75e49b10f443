"""Pairs of two clouds by blocks of rows: distances, log-kernels, mean shifts; never an n x m x d tensor.

Distances are a matrix product where that is right, differences elsewhere (distances.py).

    laplace    k(x, y) = exp(-|x - y| / h)
    gaussian   k(x, y) = exp(-|x - y|^2 / (2 h^2))

A length h may be a number, or one per seed, (S, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gwfbench.velocity.blocks import as_number, at_once
from gwfbench.velocity.distances import apart, direct, of_seeds, pull

Kernel = Literal["laplace", "gaussian"]
SAMPLE = 512  # points of each cloud that measure a typical distance
LEAST = -75.0  # exponents below the largest: e^-75 adds nothing, and numbers that underflow take ten times as long


class Rows(NamedTuple):
    """A block of rows of the matrix of pairs: which, and its values (S, rows, m), that may be overwritten."""

    at: slice
    values: Tensor


def squares(x: Tensor, y: Tensor, factor: Tensor | float = 1.0, block: int | None = None) -> Iterator[Rows]:
    """|x_i - y_j|^2 times a factor, (S, n, d) and (S, m, d), one matrix product a block; rounding may change the sign.

    Coordinates are taken from y's mean, so that a far cloud keeps its digits. Seeds with points too far for a product,
    by the factor as unit, get sums of squared differences.

    Args:
        block: pairs at once; None: as many as suit the device.
    """
    return _Pair.of(x, y, factor).blocks(block)


def log_kernel(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel, block: int | None = None) -> Iterator[Rows]:
    """log k(x_i, y_j), by blocks of rows."""
    return _logs(_Pair.by(x, y, h, kernel), kernel, block)


def distant(x: Tensor, y: Tensor, h: Tensor | float) -> Tensor | None:
    """Seeds with points too far, by h, for sums and differences of matrix products, (S,); None: no seed's are."""
    centre = y.mean(1, keepdim=True)
    x2, y2 = ((cloud - centre).square().sum(-1, keepdim=True) for cloud in (x, y))
    return apart(x2, y2, h**-2)


class _Pair(NamedTuple):
    """Two clouds with all that their squared distances, times a factor, need.

    left, right: whose product they are, (S, n, d + 2) and (S, d + 2, m).    far: seeds that the product would not do.
    """

    x: Tensor
    y: Tensor
    factor: Tensor | float
    left: Tensor
    right: Tensor
    far: Tensor | None

    @staticmethod
    def of(x: Tensor, y: Tensor, factor: Tensor | float) -> _Pair:
        centre = y.mean(1, keepdim=True)
        here, there = x - centre, y - centre
        x2, y2 = here.square().sum(-1, keepdim=True), there.square().sum(-1, keepdim=True)
        left = torch.cat([-2 * here, x2, torch.ones_like(x2)], -1) * factor
        right = torch.cat([there, torch.ones_like(y2), y2], -1).mT
        return _Pair(x, y, factor, left, right, apart(x2, y2, abs(factor)))

    @staticmethod
    def by(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel) -> _Pair:
        """With the factor of a kernel's exponent."""
        square = as_number(h, x).square()
        return _Pair.of(x, y, -0.5 / square if kernel == "gaussian" else 1 / square)

    def blocks(self, block: int | None = None) -> Iterator[Rows]:
        rows = max(1, (block or at_once(self.x)) // (self.y.shape[1] * self.y.shape[0]))
        for first in range(0, self.x.shape[1], rows):
            here = slice(first, min(first + rows, self.x.shape[1]))
            values = self.left[:, here] @ self.right
            if self.far is not None:
                values[self.far] = direct(self.x[self.far, here], self.y[self.far], of_seeds(self.factor, self.far))
            yield Rows(here, values)


def _logs(pair: _Pair, kernel: Kernel, block: int | None = None) -> Iterator[Rows]:
    for at, values in pair.blocks(block):
        yield Rows(at, values.clamp_max_(0) if kernel == "gaussian" else values.clamp_min_(0).sqrt_().neg_())


def typical_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean |x_i - y_j| over the first 512 points of each, (S, 1, 1)."""
    x, y = x[:, :SAMPLE], y[:, :SAMPLE]
    # in units of the clouds' own size: whether a product will do does not depend on the unit of length
    size = torch.cat([x, y], 1).sub(y.mean(1, keepdim=True)).square().sum(-1).mean(1)[:, None, None]
    size = size.clamp_min(torch.finfo(x.dtype).tiny).nan_to_num(1.0, 1.0)
    total = sum(values.clamp_min_(0).sqrt_().sum((1, 2), keepdim=True) for _, values in squares(x, y, 1 / size))
    return torch.as_tensor(total) * size.sqrt() / (x.shape[1] * y.shape[1])


def mean_shift(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """E[k(x, y) (y - x)] / E[k(x, y)] over the points y, and log E[k(x, y)]: (S, n, d) and (S, n, 1).

    Deng et al. 2026, equation 2. The largest exponent of each row is taken out, so that nothing underflows.
    """
    ones = torch.cat([torch.ones_like(y[..., :1]), y], -1)
    pair = _Pair.by(x, y, h, kernel)
    far = pair.far
    sums, logs, pulls = [], [], []
    for at, values in _logs(pair, kernel):
        largest = values.amax(-1, keepdim=True)
        weights = values.sub_(largest).clamp_min_(LEAST).exp_()
        sums.append(weights @ ones)
        logs.append(largest)
        if far is not None:
            pulls.append(pull(weights[far], x[far, at], y[far]))
    total = torch.cat(sums, 1)
    mass = total[..., :1]
    shift = total[..., 1:] / mass - x
    if far is not None:
        shift[far] = torch.cat(pulls, 1) / mass[far]
    return shift, torch.cat(logs, 1) + (mass / y.shape[1]).log()


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """log sum exp along one dimension, which stays."""
    largest = values.amax(dim, keepdim=True)
    return (values - largest).clamp_min_(LEAST).exp_().sum(dim, keepdim=True).log_().add_(largest)
