"""Blob method: the gradient flow of an entropy or internal energy whose density is smoothed by a Gaussian kernel.

With rho(x) = 1/n sum_j k(x - x_j), k the normal density of standard deviation h (Carrillo, Craig and Patacchini 2019,
equations 1.6 and 4.1, for one mollifier zeta * zeta = k),

    m = 1   F = 1/n sum_i log rho(x_i)                   m > 1   F = 1/n sum_i rho(x_i)^(m - 1) / (m - 1)
    v(x_i) = -n grad_{x_i} F = -1/n sum_j (rho(x_i)^(m-2) + rho(x_j)^(m-2)) grad k(x_i - x_j)

The first term is minus the gradient of F's integrand at x_i, for m = 1 the score of the kernel density estimate; the
second is how x_i changes the density at the others. With both the flow is one of particles that repel each other, so
that it keeps the centre of mass and lets F fall; with the first alone it is the usual plug-in, and does neither.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gwfbench.velocity.blocks import as_number
from gwfbench.velocity.distances import apart, direct
from gwfbench.velocity.kernels import Bandwidth, gaussian, gradient_sum
from gwfbench.velocity.pairs import mean_shift, squares

SAMPLE = 256  # points whose nearest neighbours are looked for


def log_density(x: Tensor, h: Bandwidth) -> tuple[Tensor, Tensor]:
    """log rho at the particles x (S, n, d), (S, n), and its gradient's part from moving there, (S, n, d).

    Args:
        h: standard deviation of k, one number or (S, 1, 1).
    """
    shift, log_mass = mean_shift(x, x, h, "gaussian")
    width = as_number(h, x)
    log_rho = log_mass - x.shape[2] * (width.log() + 0.5 * math.log(2 * math.pi))
    return log_rho[..., 0], shift / width.square()


def repulsion(x: Tensor, h: Bandwidth, m: float = 1.0, both: bool = True) -> tuple[Tensor, Tensor]:
    """v at the particles x (S, n, d), and rho^(m - 1) there, (S, n), F's integrand up to the factor 1 / (m - 1).

    Args:
        h: standard deviation of k, one number or (S, 1, 1).
        m: 1 for the entropy, above for the internal energy.
        both: or the first term alone.
    """
    log_rho, own = log_density(x, h)
    power = ((m - 1) * log_rho).exp()  # rho^(m-1)
    v = -power[..., None] * own
    if both:
        width = as_number(h, x)
        log_peak = -x.shape[2] * (width.log() + 0.5 * math.log(2 * math.pi))  # k(0)
        weights = ((m - 2) * log_rho + log_peak.reshape(-1, 1)).exp() / x.shape[1]
        v = v - gradient_sum(gaussian(h), x, x, weights)
    return v, power


def spacing(x: Tensor) -> Tensor:
    """Median distance of the first 256 of x (S, n, d) to their nearest neighbours among all, (S, 1, 1), n > 1.

    Where half of them and more have a neighbour at the same place, or nearer than a matrix product can tell: of those
    that have one elsewhere, to the nearest elsewhere; 1 if all points are one, which then push each other nowhere.
    """
    part = x[:, :SAMPLE]
    nearest = torch.cat([values.topk(2, -1, largest=False).values[..., 1] for _, values in squares(part, x)], 1)
    median = nearest.clamp_min(0).sqrt().median(1).values[:, None, None]
    x2 = (x - x.mean(1, keepdim=True)).square().sum(-1, keepdim=True)
    far = apart(x2, x2, 0.01 / median.square())  # a tenth of the square, at worst, is no matter for a bandwidth
    if far is not None:
        distance = direct(part[far], x[far])
        distance = distance.masked_fill_(distance == 0, torch.inf).amin(-1)
        away = distance.masked_fill_(distance == torch.inf, torch.nan).nanmedian(1).values.nan_to_num_(1.0).sqrt()
        median[far] = away[:, None, None]
    return median
