"""Conjugate gradients for many symmetric positive definite systems at once, one per point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOOKS = 4  # steps from one question whether all have converged to the next


def conjugate_gradients(product: Callable[[Tensor], Tensor], v: Tensor, steps: int, tolerance: float = 1e-4) -> Tensor:
    """H^-1 v by at most `steps` steps from 0 (Hestenes and Stiefel 1952); d of them suffice except for rounding.

    A system that has converged is left as it is, so that no system's numbers depend on the others in its batch, nor on
    when the loop ends, which it asks the device at some steps only.

    Args:
        product: v -> H v, both (..., d), H of each system symmetric and positive definite.
        v: (..., d).
        tolerance: of |H u - v| / |v|.
    """
    u, residual, direction = torch.zeros_like(v), v, v
    size = v.square().sum(-1, keepdim=True)
    goal = tolerance**2 * size
    for i in range(steps):
        going = size > goal
        if i % LOOKS == LOOKS - 1 and not going.any():
            break
        image = product(direction)
        rate = (size / (direction * image).sum(-1, keepdim=True)).where(going, 0.0)
        u, residual = u + rate * direction, residual - rate * image
        before, size = size, residual.square().sum(-1, keepdim=True)
        direction = residual + (size / before).where(going, 0.0) * direction
    return u
