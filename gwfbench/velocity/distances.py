"""Squared distances that keep their digits, however far points are from one another.

|x|^2 - 2 x.y + |y|^2 is one matrix product for all pairs, but it is off by about eps (|x|^2 + |y|^2), whatever the
distance is. One point that has run away, or two clusters far apart, then spoil the distances of all others. `apart`
says for which seeds that is too much; for those `direct` adds up squared differences, which are right to a few units of
rounding, and `pull` does the same for weighted sums of differences. Both take one pass for each coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-3  # error of |x - y|^2 that is let pass, in units of the squared length that the caller measures by


def apart(x2: Tensor, y2: Tensor, unit: Tensor | float = 1.0) -> Tensor | None:
    """Seeds whose points are too far from the centre for a matrix product, (S,); None: no seed's are.

    Args:
        x2, y2: (S, n, 1) and (S, m, 1), squared norms about the same centre.
        unit: what makes squared lengths numbers, such as 1 / h^2; one number or (S, 1, 1).
    """
    x2, y2, eps = x2.detach(), y2.detach(), torch.finfo(x2.dtype).eps
    largest = [x2.max(), y2.max(), *([unit.max()] if isinstance(unit, Tensor) else [])]
    # elsewhere than on a CPU the host waits once
    of_x, of_y, *rest = map(float, largest) if x2.device.type == "cpu" else torch.stack(largest).tolist()
    if (of_x + of_y) * (rest[0] if rest else float(unit)) * eps <= SLACK:
        return None
    bound = (x2.amax((1, 2), True) + y2.amax((1, 2), True)) * unit * eps
    seeds = ~(bound <= SLACK)[:, 0, 0]  # what is not finite is too far
    return seeds if bool(seeds.any()) else None


def direct(x: Tensor, y: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """factor |x_i - y_j|^2, (..., n, d) and (..., m, d) -> (..., n, m), by differences; at most the largest number."""
    end = torch.finfo(x.dtype).max
    found = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square_()
    return found.mul_(factor).clamp_(-end, end).to(x.dtype)


def pull(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """sum_j w_ij (y_j - x_i), (S, n, m), (S, n, d) and (S, m, d) -> (S, n, d), by differences."""
    columns = [
        (weights * (there[:, None] - here[..., None])).sum(-1)
        for here, there in zip(x.unbind(-1), y.unbind(-1), strict=True)
    ]
    return torch.stack(columns, -1)


def of_seeds(value: Tensor | float, which: Tensor) -> Tensor | float:
    """Of a number, or one per seed, (S, 1, 1): those of some seeds."""
    return value[which] if isinstance(value, Tensor) and value.ndim == 3 and len(value) > 1 else value
