"""Estimates from clouds of chains: how wide the law is, and whether chains have forgotten where they were."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Standard deviation of each coordinate of points (S, n, d), (S, 1, d); 1 where they are all the same.

    Args:
        weights: (S, n), of sum 1; None: equal ones.
    """
    w = x.new_full(x.shape[:2], 1 / x.shape[1]) if weights is None else weights.to(x.dtype)
    mean = torch.einsum("sn,snd->sd", w, x)[:, None]
    deviation = torch.einsum("sn,snd->sd", w, (x - mean).square())[:, None].sqrt()
    return deviation.where(deviation > 1e-6 * x.abs().amax(1, keepdim=True), 1.0)  # rounding is no spread


def largest_correlation(x: Tensor, y: Tensor) -> float:
    """The largest correlation of a coordinate of x with that of y over the points, (S, n, d); nan if one is still."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return float(((x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()).max())
