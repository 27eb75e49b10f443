"""Velocities by sorting on random lines: the sliced Wasserstein flow and the sliced Riesz (energy distance) flow.

With uniform directions theta, x among n points of q, y among m of p:

    half SW_2^2        v(x) = E_theta theta (F^-1_{theta#p} F_{theta#q} (theta.x) - theta.x)
                       (Bonnotte 2013; Liutkus et al. 2019)
    half MMD^2, -|.|   v(x) = c_d E_theta theta (E sign(theta.(y - x)) - E sign(theta.(x' - x)))
                       (Hertrich et al. 2024); half MMD^2 = E|x - y| - E|x - x'|/2 - E|y - y'|/2

Both are -n times the gradient in the points of q. The cost is O((n + m) log(n + m)) per direction, with no n x m
matrix.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gwfbench.rng import Streams

BLOCK = 1 << 20  # projected points at a time


def directions(rng: Streams, lines: int, d: int) -> Tensor:
    """Uniform unit vectors, (S, lines, d)."""
    return torch.nn.functional.normalize(rng.normal(lines, d), dim=-1)


def sliced(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """Velocity (S, n, d) of half the squared sliced W2 at x (S, n, d), from y (S, m, d), on theta (S, lines, d).

    On a line the i-th smallest of n points goes to the mean of the target's quantile function over
    [(i - 1)/n, i/n], which is the i-th smallest target if m = n. Equal points are told apart by their place.
    """
    v = torch.zeros_like(x)
    for part in _blocks(x, y, theta):
        a, order = _sort(part @ x.mT)  # (S, L, n)
        gap = _quantile_means(_ascending(part @ y.mT), x.shape[1]) - a
        v.baddbmm_(torch.empty_like(a).scatter_(-1, order, gap).mT, part)
    return v / theta.shape[1]


def riesz(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """Velocity (S, n, d) of half the squared MMD with kernel -|x - y| at x (S, n, d), from y (S, m, d).

    Args:
        theta: (S, lines, d); the mean over directions has the unsliced velocity as its expectation.
    """
    n, m = x.shape[1], y.shape[1]
    v = torch.zeros_like(x)
    for part in _blocks(x, y, theta):
        a, order = _sort(part @ x.mT)  # (S, L, n)
        signs = _below(a, a).div_(n).sub_(_below(_ascending(part @ y.mT), a).div_(m))
        v.baddbmm_(torch.empty_like(a).scatter_(-1, order, signs).mT, part)
    return v * (slicing_constant(x.shape[2]) / theta.shape[1])


def slicing_constant(d: int) -> float:
    """c_d with |x| = c_d E|theta.x| in d dimensions (Hertrich et al. 2024, at r = 1)."""
    return math.sqrt(math.pi) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


def _blocks(x: Tensor, y: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
    return theta.split(max(1, BLOCK // max(x.shape[1], y.shape[1])), 1)


def _ascending(x: Tensor) -> Tensor:
    """Rows sorted. On the CPU by NumPy, whose vectorised sort takes a fraction of PyTorch's time."""
    return x.sort(-1).values if x.device.type != "cpu" else torch.from_numpy(np.sort(x.numpy(), axis=-1))


def _sort(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows sorted, and the order."""
    if x.device.type != "cpu":
        return x.sort(-1)
    order = torch.from_numpy(np.argsort(x.numpy(), axis=-1))
    return x.gather(-1, order), order


def _quantile_means(y: Tensor, n: int) -> Tensor:
    """Means of the quantile function of sorted points (..., m) over n equal parts of [0, 1], (..., n)."""
    m = y.shape[-1]
    if m % n == 0:
        return y if m == n else y.unflatten(-1, (n, m // n)).mean(-1)
    ends = torch.arange(1, n, device=y.device) * m  # in units of 1 / (n m)
    whole, rest = ends // n, (ends % n).double() / n
    wide = y.double()  # differences of long sums
    sums = torch.nn.functional.pad(wide.cumsum(-1), (1, 0))
    inner = sums[..., whole] + rest * wide[..., whole]
    return (torch.cat([inner, sums[..., -1:]], -1).diff(dim=-1, prepend=sums[..., :1]) * (n / m)).to(y)


def _below(points: Tensor, x: Tensor) -> Tensor:
    """Number of sorted points (..., m) below sorted x (..., n), less the number above; equal ones count as neither."""
    m = points.shape[-1]
    if x.device.type != "cpu":
        return (torch.searchsorted(points, x) + torch.searchsorted(points, x, right=True) - m).to(x)
    out = torch.empty_like(x)
    for row, p, a in zip(out.numpy().reshape(-1, x.shape[-1]), *_rows(points, x), strict=True):
        if points is x and (a[1:] > a[:-1]).all():
            row[:] = np.arange(1 - m, m, 2)
            continue
        first = p.searchsorted(a)  # NumPy's takes half the time of PyTorch's
        row[:] = 2 * first - m
        equal = p.take(first, mode="clip") == a
        row[equal] += p.searchsorted(a[equal], side="right") - first[equal]
    return out


def _rows(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy().reshape(-1, tensor.shape[-1]) for tensor in tensors]
