"""Lengths of a target, from a batch: what blurs and steps are measured by, so that units don't matter."""

from __future__ import annotations

from torch import Tensor


def spread(y: Tensor) -> Tensor:
    """Root mean square distance of two independent points of y (S, n, d), (S,)."""
    return (2 * y.var(1, correction=0).sum(-1)).sqrt()


def deviation(y: Tensor) -> Tensor:
    """Root of the mean variance of a coordinate of y (S, n, d), (S,)."""
    return y.var(1, correction=0).mean(-1).sqrt()
