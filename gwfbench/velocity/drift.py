"""Drifting fields: the three versions of Deng et al. 2026 (arXiv 2602.04770), and related flows.

With points x of q, points y+ of the target p, negatives y- (the same x), and a kernel k (velocity/pairs.py):

    equation4       V = E_p[k (y+ - x)] / E_p[k] - E_q[k (y- - x)] / E_q[k]: mean shifts (equations 2 to 4).
                    Self pairs count, so that p = q gives 0 also on samples.

    algorithm2      as run (appendix A.1): A = sqrt(softmax over j, jointly over y+ and y-, times softmax over i) of
                    log k, self pairs masked; V = (sum A+)(sum A-) (mean of y+ by A+ - mean of y- by A-). Its normalised
                    shifts differ from equation 4's by the product of the two masses, which is 0 far from the data.

    official        the authors' JAX code: algorithm 2 with lengths in units of the mean pairwise distance (self pairs
                    included), coordinates in units of that over sqrt(d), self pairs only 100 units away, A at least
                    1e-3, each temperature's field divided by its root mean square, and their sum. The floor weighs
                    (n + m) / 1000 per row next to a mass of at most about 1: made for batches of 64, at 1000 it leads.

    sinkhorn_proxy  separate row softmaxes for y+ and y-, no mask, Gaussian kernel: the field that Gretton et al. 2026
                    (arXiv 2605.05118) compare with the Sinkhorn flow's. It is as third-party code has it, because their
                    text was not available.

    mmd             equation 4 without its normalisers, E_p[k (y+ - x)] - E_q[k (y- - x)]. For a Laplace kernel it is
                    the flow of half MMD^2 with h^2 times the Matern-3/2 kernel of length sqrt(3) h, since its
                    derivative in t = |x - y| is -t k; for a Gaussian kernel it is h^2 times the flow with k.

    parzen_kl       the Wasserstein gradient flow of KL(k*q || k*p) itself, -grad of its first variation
                    k * log(k*q / k*p), times h^2: equation 4 with a Gaussian kernel, averaged once more with it:
                    v(x) = E V(x + h Z), Z ~ N(0, I) (Gretton et al. 2026, first result; the formula is ours).

For a Gaussian kernel equation 4 is h^2 (grad log k*p - grad log k*q). All return V at x, (S, n, d).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gwfbench.rng import Streams
from gwfbench.velocity.distances import pull
from gwfbench.velocity.pairs import LEAST, Kernel, Rows, distant, log_kernel, log_sum_exp, mean_shift, squares

SELF = 1e6  # added to the distance of a point to itself (appendix A.1)
OFFICIAL_SELF, OFFICIAL_FLOOR = 100.0, 1e-6  # the same in the authors' code; the floor is on the product under the root


def equation4(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel, negatives: Tensor | None = None) -> Tensor:
    """Difference of the mean shifts to the points y and to the negatives (default: x itself)."""
    return mean_shift(x, y, h, kernel)[0] - mean_shift(x, x if negatives is None else negatives, h, kernel)[0]


def mmd(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel) -> Tensor:
    """Equation 4 without Z_p and Z_q."""
    (to_p, log_p), (to_q, log_q) = mean_shift(x, y, h, kernel), mean_shift(x, x, h, kernel)
    return log_p.exp() * to_p - log_q.exp() * to_q


def algorithm2(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel) -> Tensor:
    """Deng et al. 2026, appendix A.1."""
    return _cross_weighted(x, y, lambda: _masked(x, y, h, kernel, SELF / _as(h, x)), h)


def sinkhorn_proxy(x: Tensor, y: Tensor, h: Tensor | float) -> Tensor:
    """Separate row softmaxes, columns as in algorithm 2, exp(-|x - y|^2 / 2 h^2), no mask."""
    return _cross_weighted(x, y, lambda: log_kernel(x, torch.cat([y, x], 1), h, "gaussian"), h, joint=False)


def official(x: Tensor, y: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """`drift_loss.py` of lambertae/drifting, as a displacement of x.

    Its loss is on coordinates in units u = max(mean distance / sqrt(d), 1e-3), where the field is F; here V = u F.
    The factor u^2 to the gradient of its loss is one number a batch, which Adam does not see.
    """
    both = torch.cat([y, x], 1)
    total = sum(values.clamp_min_(0).sqrt_().sum((1, 2), keepdim=True) for _, values in squares(x, both))
    mean = torch.as_tensor(total) / (x.shape[1] * both.shape[1])
    length, unit = mean.clamp_min(1e-3), (mean / math.sqrt(x.shape[2])).clamp_min(1e-3)
    field = torch.zeros_like(x)
    for temperature in temperatures:
        far = OFFICIAL_SELF / temperature * torch.ones_like(length)

        def blocks(h: Tensor = length * temperature, far: Tensor = far) -> Iterator[Rows]:
            return _masked(x, y, h, "laplace", far)

        force = _cross_weighted(x, y, blocks, length * temperature, floor=math.sqrt(OFFICIAL_FLOOR)) / unit
        field += force / force.square().mean((1, 2), keepdim=True).clamp_min(1e-8).sqrt()
    return unit * field


def parzen_kl(x: Tensor, y: Tensor, h: Tensor | float, noise: Streams, draws: int = 1) -> Tensor:
    """Equation 4 with a Gaussian kernel at x + h Z, averaged over independent draws of Z."""
    total = torch.zeros_like(x)
    for k in range(draws):
        there = x + h * noise.fork(str(k)).normal(*x.shape[1:])
        total += mean_shift(there, y, h, "gaussian")[0] - mean_shift(there, x, h, "gaussian")[0]
    return total / draws


def _masked(x: Tensor, y: Tensor, h: Tensor | float, kernel: Kernel, far: Tensor) -> Iterator[Rows]:
    """log k to y and then to x itself, less `far` for self pairs."""
    m = y.shape[1]
    for at, values in log_kernel(x, torch.cat([y, x], 1), h, kernel):
        values[:, :, m + at.start : m + at.stop].diagonal(dim1=1, dim2=2).sub_(far.expand(len(x), 1, 1)[..., 0])
        yield Rows(at, values)


def _cross_weighted(
    x: Tensor,
    y: Tensor,
    blocks: Callable[[], Iterator[Rows]],
    h: Tensor | float,
    joint: bool = True,
    floor: float = 0.0,
) -> Tensor:
    """Algorithm 2 from its logits to y and x: softmaxes, root, and each side weighted by the other's mass.

    Both softmaxes are sums of exponentials about their own largest one: a point that only outliers are near to has a
    column far below the others, which still sums to one.

    Args:
        blocks: the logits, (S, rows, m + n), computed again at each call.
        h: their length; seeds with points too far by it get their sums by differences.
        joint: rows sum to one over y and x together, not over each.
    """
    m, far = y.shape[1], distant(x, y, h)
    rows, columns = [], None
    for _, values in blocks():
        row = torch.cat([log_sum_exp(part, -1) for part in values.split([m, x.shape[1]], -1)], -1)
        rows.append(row.logsumexp(-1, keepdim=True).expand_as(row) if joint else row)
        column = log_sum_exp(values, -2)
        columns = column if columns is None else torch.logaddexp(columns, column)
    assert columns is not None
    centre = y.mean(1, keepdim=True)
    sides = [torch.cat([torch.ones_like(side[..., :1]), side - centre], -1) for side in (y, x)]
    out = []
    for (at, values), row in zip(blocks(), rows, strict=True):
        values.sub_(columns / 2)
        weights = [
            part.sub_(row[..., i : i + 1] / 2).clamp_min_(LEAST).exp_().clamp_min_(floor)
            for i, part in enumerate(values.split([m, x.shape[1]], -1))
        ]
        plus, minus = (part @ side for part, side in zip(weights, sides, strict=True))
        out.append(minus[..., :1] * plus[..., 1:] - plus[..., :1] * minus[..., 1:])
        if far is not None:
            to_y, to_x = (pull(w[far], x[far, at], other[far]) for w, other in zip(weights, (y, x), strict=True))
            out[-1][far] = minus[far, :, :1] * to_y - plus[far, :, :1] * to_x
    return torch.cat(out, 1)


def _as(h: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(h, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
