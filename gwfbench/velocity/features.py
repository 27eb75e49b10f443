"""Velocities among features of points: the loss of a generator that drifts in the space of an encoder.

For each stage j of an encoder, with k_j features (Deng et al. 2026, appendix A.6):

    s_j = E |phi_j(x) - phi_j(y)| / sqrt(k_j)          x of q, y of p: in these units, u_j = phi_j / s_j, two points are
                                                       sqrt(k_j) apart in the mean, whatever the stage
    V_j = sum over fields of v / sqrt(E |v|^2 / k_j)   v the field of the u_j: each temperature's counts alike, at each
                                                       stage, at the start as at the end (`normalised`)
    loss = sum_j  mean |u_j(x) - stop(u_j(x) + V_j)|^2                          over points and coordinates

Its gradient is that of -2 sum_j mean V_j . u_j(x), and goes through the encoder into x; s_j and V_j have none. In the
paper a stage also gives means and deviations over patches, each with a term of its own. Here it gives all its numbers,
as one vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gwfbench.rng import Streams
from gwfbench.velocity.pairs import typical_distance

Velocity = Callable[[Tensor, Tensor, Streams], Tensor]  # x (S, n, d) of q, y (S, m, d) of p, noise -> v at x (S, n, d)
Maps = Callable[[Tensor], list[Tensor]]  # points (S, n, ...) -> (S, n, k) of each stage


def loss(maps: Maps, velocity: Velocity, x: Tensor, y: Tensor, noise: Streams) -> Tensor:
    """The loss at x (S, n, ...) with targets y (S, m, ...), less what has no gradient, summed over seeds."""
    with torch.no_grad():
        targets = maps(y)
    total = x.new_zeros(())
    for j, (here, there) in enumerate(zip(maps(x), targets, strict=True)):
        with torch.no_grad():
            unit = (typical_distance(here, there) / math.sqrt(here.shape[2])).clamp_min(torch.finfo(x.dtype).tiny)
            move = velocity(here / unit, there / unit, noise.fork(str(j))) / unit
        total = total - 2 * (here * move).sum() / math.prod(here.shape[1:])
    return total


def normalised(fields: Sequence[Velocity]) -> Velocity:
    """The sum of the fields, each divided by the root mean square of its coordinates."""

    def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
        total = torch.zeros_like(x)
        for field in fields:
            v = field(x, y, noise)
            total += v / v.square().mean((1, 2), keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        return total

    return velocity
