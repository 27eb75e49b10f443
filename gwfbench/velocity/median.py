"""The bandwidth of a kernel from the median distance of its points (Liu and Wang 2016, section 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gwfbench.velocity.distances import apart, direct

SAMPLE = 256  # points whose median distance stands for all, 30 000 pairs


def median_bandwidth(x: Tensor) -> Tensor:
    """h = sqrt(med(|x_i - x_j|^2) / (2 log(n + 1))), i != j among the first 256 of x (S, n, d); (S, 1, 1)."""
    n = x.shape[1]
    if n == 1:
        return torch.ones_like(x[:, :, :1])  # one particle has no distances, and needs none
    part = x[:, :SAMPLE]
    m = part.shape[1]
    middle = m + (m * (m - 1) + 1) // 2  # of all m^2, the m distances 0 of a point to itself come first
    median = torch.cdist(part, part).flatten(1).kthvalue(middle).values
    x2 = part.square().sum(-1, keepdim=True)
    if (far := apart(x2, x2, 0.01 / median.square()[:, None, None])) is not None:  # a tenth of the square is no matter
        median[far] = direct(part[far], part[far]).sqrt().flatten(1).kthvalue(middle).values
    h = median / math.sqrt(2 * math.log(n + 1))
    return h.clamp_min(torch.finfo(x.dtype).tiny ** 0.25)[:, None, None]  # coinciding particles are not an error
