"""Kernelised Stein discrepancies: compare the law's points with the truth's score, without draws of the truth.

    KSD^2 = E u(x, x'),   x, x' ~ the law, independent,   s = grad log of the truth's density
    u(x, y) = s(x).s(y) k + s(x).grad_y k + s(y).grad_x k + trace(grad_x grad_y k)

(Liu, Lee and Jordan 2016, Theorem 3.6; Fan et al. 2022, F.1), by the U-statistic: the mean over i != j, which has
mean 0 when the laws are equal and may be negative. Like the paper's, the value is the square. For k = phi(|x - y|^2)
    u = phi s(x).s(y) - 2 phi' (s(x) - s(y)).(x - y) - 2 d phi' - 4 |x - y|^2 phi''
and with h as the unit of length, z = x / h, t = h s, r = |z - z'|^2:
    rbf   exp(-r / 2)        h^2 u = e^{-r/2} [t.t' + (t - t').(z - z') + d - r]
    imq   (1 + r)^{-1/2}     h^2 u = q^{1/2} [t.t' + q ((t - t').(z - z') + d - 3 + 3 q)],   q = 1 / (1 + r)
(imq: Gorham and Mackey 2017, whose discrepancy, unlike the Gaussian kernel's, sees mass that escapes to infinity). The
authors' code of Fan et al. has + r for the trace's - r, so that exact draws do not give 0; that is not offered here.

h is the median distance between 1000 draws of the truth, so it is the same for all methods. All that depends on a pair
is a matrix product of two thin factors, such as
    t.t' + (t - t').(z - z') + d - r = (t - z).(t' - z') + z.z' + b + b',   b = t.z - |z|^2 + d/2
so a block costs two products (imq: three), one exponential (imq: a root) and a few passes in the cache; 1e5 points at
dimension 64 need 0.8 GB in all. Factors are made in float64 from centred points; blocks have the points' dtype, and
their sums are kept in float64. On 2000 points of mixtures, float32 blocks moved the value by 1e-6 standard errors.
Points so far away that r would lose digits (distances.py) get it by differences, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gwfbench.metrics.kernel import Pairs, median_distance, side, u_statistic
from gwfbench.protocol import Estimate, Judged, Metric, Need
from gwfbench.velocity.distances import apart, direct


def ksd_statistic(
    points: Tensor, score: Tensor, bandwidth: float, kernel: Literal["rbf", "imq"] = "rbf", size: int | None = None
) -> tuple[Tensor, Tensor]:
    """KSD^2 by the U-statistic, and its standard error (Hoeffding's variance; see kernel.py): 0-d, float64.

    Args:
        points: (n, d); blocks are computed in its dtype.
        score: (n, d), the truth's at the points.
        bandwidth: h, of exp(-|x - y|^2 / (2 h^2)) or (1 + |x - y|^2 / h^2)^{-1/2}.
        size: side of a block; None: what suits the device.

    Raises:
        ValueError: fewer than 2 points.
    """
    x, size = points.double(), size or side(points)
    z, t = (x - x.mean(0)) / bandwidth, score.double() * bandwidth
    square = z.square().sum(1)[None, :, None].to(points.dtype)
    far = apart(square, square) is not None
    u = _by_differences(kernel, x / bandwidth, t, size) if far else _PAIRS[kernel](z, t, points.dtype, size)
    value, se = u_statistic(u, len(x), x.device, size)
    return value / bandwidth**2, se / bandwidth**2


def _rbf(z: Tensor, t: Tensor, dtype: torch.dtype, size: int) -> Pairs:
    square, one = z.square().sum(1, keepdim=True), torch.ones_like(z[:, :1])
    b = (t * z).sum(1, keepdim=True) - square + z.shape[1] / 2
    exponent = _product([z, -square / 2, one], [z, one, -square / 2], dtype, size)  # -r / 2
    bracket = _product([t - z, z, b, one], [t - z, z, one, b], dtype, size)

    def u(rows: slice, columns: slice) -> Tensor:
        return bracket(rows, columns).mul_(exponent(rows, columns).exp_())

    return u


def _imq(z: Tensor, t: Tensor, dtype: torch.dtype, size: int) -> Pairs:
    square, one = z.square().sum(1, keepdim=True), torch.ones_like(z[:, :1])
    a = (t * z).sum(1, keepdim=True) + (z.shape[1] - 3) / 2
    distance = _product([-2 * z, square + 1, one], [z, one, square], dtype, size)  # 1 + r
    scores = _product([t], [t], dtype, size)
    cross = _product([-t, -z, a, one], [z, t, one, a], dtype, size)  # (t - t').(z - z') + d - 3

    def u(rows: slice, columns: slice) -> Tensor:
        root = distance(rows, columns).rsqrt_()
        out, inner = scores(rows, columns), cross(rows, columns)
        inner.addcmul_(root, root, value=3)
        return out.addcmul_(inner.mul_(root), root).mul_(root)

    return u


def _by_differences(kernel: Literal["rbf", "imq"], z: Tensor, t: Tensor, size: int) -> Pairs:
    """As those above, in float64, with r by differences; the other terms lose no more than t.z does."""
    one, d = torch.ones_like(z[:, :1]), z.shape[1]
    y = z - z.median(0).values
    a = (t * y).sum(1, keepdim=True) + d / 2
    scores = _product([t], [t], t.dtype, size)
    cross = _product([-t, -y, a, one], [y, t, one, a], t.dtype, size)  # (t - t').(z - z') + d

    def u(rows: slice, columns: slice) -> Tensor:
        r = direct(z[rows], z[columns])
        inner, rest = scores(rows, columns), cross(rows, columns)
        if kernel == "rbf":
            return inner.add_(rest).sub_(r).mul_(torch.exp(-r / 2))
        q = 1 / (1 + r)
        return inner.addcmul_(rest.add_(q, alpha=3).sub_(3), q).mul_(q.sqrt_())

    return u


_PAIRS: dict[str, Callable[[Tensor, Tensor, torch.dtype, int], Pairs]] = {"rbf": _rbf, "imq": _imq}


def _product(left: list[Tensor], right: list[Tensor], dtype: torch.dtype, size: int) -> Pairs:
    """Blocks of the product of two matrices, given by their columns, always in the same buffer."""
    a, b = torch.cat(left, 1).to(dtype), torch.cat(right, 1).to(dtype)
    buffer = a.new_empty(min(size, len(a)) ** 2)

    def block(rows: slice, columns: slice) -> Tensor:
        x, y = a[rows], b[columns]
        return torch.mm(x, y.T, out=buffer[: len(x) * len(y)].view(len(x), len(y)))

    return block


def _ksd(judged: Judged, kernel: Literal["rbf", "imq"]) -> Estimate:
    assert judged.truth.score is not None
    points, score = judged.points, judged.truth.score(judged.index, judged.points)
    medians = median_distance(judged, judged.rng.fork("bandwidth"))
    both = [
        ksd_statistic(x, s, h, kernel) for x, s, h in zip(points.flatten(2), score.flatten(2), medians, strict=True)
    ]
    return Estimate(torch.stack([value for value, _ in both]), torch.stack([se for _, se in both]), points.shape[1])


ksd = Metric(
    "ksd",
    lambda judged: _ksd(judged, "rbf"),
    points=10_000,
    needs=frozenset({Need.SCORE, Need.DRAW}),
    source="KSD^2 of the points against the truth's score, by the U-statistic (Liu, Lee and Jordan 2016; Fan et al. "
    "2022, F.1), so that it may be negative. Gaussian kernel, h the median distance between 1000 draws of the truth. "
    "Standard error from Hoeffding's variance with its degenerate term",
)
ksd_imq = Metric(
    "ksd_imq",
    lambda judged: _ksd(judged, "imq"),
    points=10_000,
    needs=frozenset({Need.SCORE, Need.DRAW}),
    source="as ksd, standard error too, with the inverse multiquadric kernel (1 + |x - y|^2 / h^2)^{-1/2} (Gorham and "
    "Mackey 2017), which also sees mass that escapes far away",
)
