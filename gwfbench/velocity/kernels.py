"""Kernels k(x, y) of the distance |x - y|, and their sums over points at the cost of one product per block.

With s = c |x - y|^2 / h^2, h the bandwidth, each is a function of s alone:

    kernel      c   k(s)                            -dk/ds
    gaussian    1/2 exp(-s)                         exp(-s)                         exp(-|x - y|^2 / 2 h^2)
    imq         1   (1 + s)^-1/2                    (1 + s)^-3/2 / 2
    laplace     1   exp(-t), t = sqrt(s)            exp(-t) / 2 t                   exp(-|x - y| / h)
    matern32    3   (1 + t) exp(-t)                 exp(-t) / 2
    matern52    5   (1 + t + t^2/3) exp(-t)         (1 + t) exp(-t) / 6
    riesz       1   -s^(r/2), 0 < r < 2             r s^(r/2 - 1) / 2               -(|x - y| / h)^r; r = 1: energy

(Rasmussen and Williams 2006, equations 4.16 and 4.17, for matern.) Since grad_x k = 2 (c / h^2) (-dk/ds) (y - x), a sum
of gradients is one product with [a y, a] as well. No n x m x d tensor is made; of n x m, one block at a time.

Squared distances are |x|^2 + |y|^2 - 2 x.y about the mean of x, and so wrong by rounding: they are raised by a bound on
that, a few units of rounding of |x|^2 + |y|^2. Thus no s is 0, where a laplace or riesz kernel has its kink, or below;
there the gradient comes out as 0 up to rounding, since y - x is 0. Seeds for which rounding is too much get their s
and their sums of gradients by differences (distances.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gwfbench.velocity.blocks import at_once
from gwfbench.velocity.distances import apart, direct, of_seeds, pull

Shape = Callable[[Tensor, Tensor], Tensor]  # of s; it may overwrite s, and the spare tensor of its shape
Bandwidth = float | Tensor  # of all seeds, or (S, 1, 1)
LOWEST = 60.0  # exp(-60) adds nothing to a sum; smaller ones end in denormal numbers, which take ten times as long


@dataclass(frozen=True)
class Kernel:
    """k(x, y) = profile(s), s = scale |x - y|^2 / bandwidth^2; slope is -d profile / ds, 0 beyond `reach`."""

    bandwidth: Bandwidth
    scale: float
    profile: Shape
    slope: Shape
    reach: float = math.inf

    @property
    def unit(self) -> Bandwidth:
        """What points are multiplied by, so that their squared distance is s."""
        return math.sqrt(self.scale) / self.bandwidth


Name = Literal["gaussian", "imq", "laplace", "matern32", "matern52", "riesz"]


def gaussian(bandwidth: Bandwidth) -> Kernel:
    return Kernel(bandwidth, 0.5, _decay, _decay, LOWEST)


def imq(bandwidth: Bandwidth) -> Kernel:
    def slope(s: Tensor, spare: Tensor) -> Tensor:
        return torch.rsqrt(s.add_(1), out=spare).div_(s).mul_(0.5)

    return Kernel(bandwidth, 1.0, lambda s, _: s.add_(1).rsqrt_(), slope)


def laplace(bandwidth: Bandwidth) -> Kernel:
    def profile(s: Tensor, spare: Tensor) -> Tensor:
        return _decay(_root(s, spare))

    def slope(s: Tensor, spare: Tensor) -> Tensor:
        t = _root(s, spare)  # 1 / t stays in spare
        return _decay(t).mul_(spare).mul_(0.5)

    return Kernel(bandwidth, 1.0, profile, slope, LOWEST**2)


def matern32(bandwidth: Bandwidth) -> Kernel:
    def profile(s: Tensor, spare: Tensor) -> Tensor:
        t = _root(s, spare)
        return torch.add(t, 1, out=spare).mul_(_decay(t))

    def slope(s: Tensor, spare: Tensor) -> Tensor:
        return _decay(_root(s, spare)).mul_(0.5)

    return Kernel(bandwidth, 3.0, profile, slope, LOWEST**2)


def matern52(bandwidth: Bandwidth) -> Kernel:
    def profile(s: Tensor, spare: Tensor) -> Tensor:
        t = _root(s, spare)
        return torch.add(t, 3, out=spare).mul_(t).div_(3).add_(1).mul_(_decay(t))

    def slope(s: Tensor, spare: Tensor) -> Tensor:
        t = _root(s, spare)
        return torch.add(t, 1, out=spare).mul_(_decay(t)).div_(6)

    return Kernel(bandwidth, 5.0, profile, slope, LOWEST**2)


def riesz(bandwidth: Bandwidth, exponent: float = 1.0) -> Kernel:
    """-(|x - y| / h)^exponent, conditionally positive: for differences of laws of equal mass alone."""
    if exponent == 1:  # a power takes ten times as long
        return Kernel(bandwidth, 1.0, lambda s, spare: _root(s, spare).neg_(), lambda s, _: s.rsqrt_().mul_(0.5))
    half = exponent / 2
    return Kernel(bandwidth, 1.0, lambda s, _: s.pow_(half).neg_(), lambda s, _: s.pow_(half - 1).mul_(half))


KERNELS: dict[Name, Callable[[Bandwidth], Kernel]] = {
    "gaussian": gaussian,
    "imq": imq,
    "laplace": laplace,
    "matern32": matern32,
    "matern52": matern52,
    "riesz": riesz,
}


def _decay(s: Tensor, _: Tensor | None = None) -> Tensor:
    return s.clamp_max_(LOWEST).neg_().exp_()


def _root(s: Tensor, spare: Tensor) -> Tensor:
    """sqrt(s), and its inverse in `spare`: on a CPU in a tenth of the time of sqrt."""
    return s.mul_(torch.rsqrt(s, out=spare))


@torch.no_grad()
def gram(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j), (S, n, m), whole in memory, cut from gradients.

    Args:
        x: (S, n, d).    y: (S, m, d).
    """
    out = x.new_empty(len(x), x.shape[1], y.shape[1])
    for rows, s, spare in _distances(_Centred.at(kernel, x, y)):
        out[:, rows] = kernel.profile(s, spare)
    return out


@torch.no_grad()
def kernel_sum(kernel: Kernel, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """sum_j a_j k(x_i, y_j), (S, n), cut from gradients.

    Args:
        x: (S, n, d).    y: (S, m, d).    weights: a, (S, m) or (1, m).
    """
    out, columns = x.new_empty(*x.shape[:2], 1), weights.expand(len(x), -1)[..., None]
    for rows, s, spare in _distances(_Centred.at(kernel, x, y)):
        out[:, rows] = kernel.profile(s, spare) @ columns
    return out[..., 0]


@torch.no_grad()
def gradient_sum(kernel: Kernel, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """sum_j a_j grad_x k(x_i, y_j), (S, n, d), cut from gradients; pairs of equal points give 0.

    Args:
        x: (S, n, d).    y: (S, m, d).    weights: a, (S, m) or (1, m).
    """
    pair = _Centred.at(kernel, x, y)
    columns = torch.cat([pair.y, torch.ones_like(pair.y[..., :1])], 2) * weights[..., None]  # a [y, 1], (S, m, d + 1)
    out = torch.empty_like(pair.x)
    for rows, s, spare in _distances(pair):
        beyond = None if pair.far is None else s[pair.far] > kernel.reach  # e^-60 times a distance of 1e25 is no 0
        slopes = kernel.slope(s, spare)
        product = slopes @ columns
        torch.addcmul(product[..., :-1], pair.x[:, rows], product[..., -1:], value=-1, out=out[:, rows])
        if (far := pair.far) is not None and beyond is not None:
            each = slopes[far].masked_fill_(beyond, 0) * weights.expand(len(x), -1)[far, None]
            out[far, rows] = pull(each, x[far, rows], y[far]) * of_seeds(kernel.unit, far)
    return out.mul_(2 * kernel.unit)


def rms_distance(y: Tensor) -> Tensor:
    """Root mean square distance between two of the points (S, m, d), (S, 1, 1): a bandwidth at a cost of m."""
    return (2 * y.var(1, correction=0).sum(1)).sqrt()[:, None, None]


@dataclass(frozen=True)
class _Centred:
    """Points in the kernel's unit about the mean of x: (S, n, d) and (S, m, d).

    Args:
        far: seeds that a matrix product would not do, (S,); None: it does all.
        raw: for those, the points as they came, and the unit.
    """

    x: Tensor
    y: Tensor
    far: Tensor | None = None
    raw: tuple[Tensor, Tensor, Bandwidth] | None = None

    @staticmethod
    def at(kernel: Kernel, x: Tensor, y: Tensor) -> _Centred:
        middle, unit = x.mean(1, keepdim=True), kernel.unit
        here, there = (x - middle) * unit, (y - middle) * unit
        far = apart(here.square().sum(2, keepdim=True), there.square().sum(2, keepdim=True))
        return _Centred(here, there, far, (x, y, unit))


def _distances(pair: _Centred) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of x, their s to all y, (S, rows, m), and a spare tensor like it; overwrite both, they end with the next.

    Two buffers serve all blocks: making new ones for each takes longer than the sums.
    """
    x, y = pair.x, pair.y
    seeds, n, d = x.shape
    info = torch.finfo(x.dtype)
    rounding = 1 + 2 * math.sqrt(d + 2) * info.eps
    x2 = x.square().sum(2, keepdim=True).mul_(rounding).add_(info.tiny)  # two points at the middle: s is not 0 either
    y2 = y.square().sum(2, keepdim=True).mul_(rounding)
    left = torch.cat([-2 * x, x2, torch.ones_like(x2)], 2)
    right = torch.cat([y, torch.ones_like(y2), y2], 2).mT
    m = y.shape[1]
    size = min(n, max(1, at_once(x) // (seeds * m)))
    buffers = x.new_empty(2, seeds * size * m)
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        count = rows.stop - first
        s, spare = (part[: seeds * count * m].view(seeds, count, m) for part in buffers)
        torch.bmm(left[:, rows], right, out=s)
        if pair.far is not None and pair.raw is not None:
            here, there, unit = pair.raw
            s[pair.far] = direct(here[pair.far, rows], there[pair.far], of_seeds(unit, pair.far) ** 2)
            s.clamp_min_(info.tiny)
        yield rows, s, spare
