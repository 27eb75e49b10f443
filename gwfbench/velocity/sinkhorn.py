"""Velocity of the debiased Sinkhorn divergence: the difference of two entropic transport maps.

    S(q, p) = OT(q, p) - OT(q, q)/2 - OT(p, p)/2,   OT with cost |x - y|^2/2 and entropy epsilon = blur^2
    v(x) = T_qp(x) - T_qq(x),   T_qp(x) = sum_j P_ij y_j / sum_j P_ij   (Feydy et al. 2019)

which is -n times the gradient of S in the points of q. The plan is P_ij = exp((f_i + g_j - c_ij)/epsilon)/(n m).

Solver: rounds of one exponential and some matrix-vector products. A round makes K = exp((f + g - c)/epsilon) and runs
Sinkhorn's scalings u, v on it, whose logarithms then go into f and g (Schmitzer 2019, stabilised scaling). Epsilon
starts at a share of the largest cost and falls by 8 per round: where the rows of one round's plan have mean 1, those of
its entries to the power of 8 have a mean of at least 1, so no row of K vanishes. From the second round at the last
epsilon on, the scalings are over-relaxed (Thibault et al. 2021): plain ones took six times as long near p = q, or did
not end.

The plan of q with itself is symmetric: one potential, each update the geometric mean of the old and the new one (Knight
et al. 2014). Memory: one n x m matrix per seed. Where costs are so many epsilons that they would lose digits that
matter, the points are taken in float64. Where that is not enough, it is an error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gwfbench.velocity.blocks import as_number
from gwfbench.velocity.distances import apart

START = 20.0  # the largest cost over the first epsilon: e^-20 of single precision are no loss
FALL = 8.0  # of epsilon, a round
INNER = 8  # scalings a round
LOWEST = -60.0  # exponent of K: below it nothing adds up to a digit, and denormal numbers take ten times as long
OMEGA = 1.9  # over-relaxation, below 2
FLOOR = 1e-15  # of the products in the scalings: how far one update may move a potential


def sinkhorn(
    x: Tensor,
    y: Tensor,
    xx: Tensor | None = None,
    *,
    blur: float | Tensor,
    tolerance: float = 1e-2,
    rounds: int = 200,
) -> Tensor:
    """Velocity T_qp - T_qq at x, (S, n, d).

    Args:
        x: (S, n, d) of q.    y: (S, m, d) of p.
        xx: another batch (S, k, d) of q for T_qq; none: x itself, and the symmetric solver.
        blur: root of epsilon, a length; one number or (S,).
        tolerance: mean relative error of the plans' column sums; their row sums are exact.
        rounds: the most before giving up.

    Raises:
        ArithmeticError: a seed's plan is not within the tolerance after all rounds.
    """
    middle = y.mean(1, keepdim=True)
    x, y = x - middle, y - middle
    itself = x if xx is None else xx - middle
    epsilon = as_number(blur, x).square().expand(len(x))[:, None, None]
    return transport(x, y, epsilon, tolerance, rounds) - transport(x, itself, epsilon, tolerance, rounds)


def potentials(x: Tensor, y: Tensor, epsilon: Tensor, tolerance: float, rounds: int = 200) -> tuple[Tensor, Tensor]:
    """f (S, n) and g (S, m), whose means' sum is OT; the same tensor twice: symmetric, f = g.

    Args:
        x, y: (S, n, d) and (S, m, d), float64, about their common middle.
        epsilon: (S, 1, 1).    tolerance, rounds: as in `sinkhorn`.

    Raises:
        ArithmeticError: as `transport`.
    """
    if _far(x, y, epsilon) is not None:
        raise _too_small(y, epsilon)
    _, f, g = _solved(x, y, epsilon, tolerance, rounds)
    return f[..., 0], g[..., 0]


def _too_small(y: Tensor, epsilon: Tensor) -> ArithmeticError:
    return ArithmeticError(
        f"a blur of {float(epsilon.sqrt().min()):g} is too small next to distances of {float(y.abs().max()):g}: "
        "costs in units of its square have more digits than a number; take a larger blur"
    )


def transport(x: Tensor, y: Tensor, epsilon: Tensor, tolerance: float = 1e-2, rounds: int = 200) -> Tensor:
    """Entropic transport map of the points x (S, n, d) to y (S, m, d), (S, n, d); the same tensor twice: symmetric.

    Args:
        epsilon: (S, 1, 1).    tolerance, rounds: as in `sinkhorn`; each seed stops independently of the others.

    Raises:
        ArithmeticError: a seed is not within the tolerance after all rounds, or its blur is too small for 64 bits.
    """
    far = _far(x, y, epsilon)
    if far is None:
        return _transport(x, y, epsilon, tolerance, rounds)
    image = torch.empty_like(x)
    for which, dtype in ((far, torch.float64), (~far, x.dtype)):
        if bool(which.any()):
            a, e = x[which].to(dtype), epsilon[which].to(dtype)
            b = a if x is y else y[which].to(dtype)
            if _far(a, b, e) is not None:
                raise _too_small(b, e)
            image[which] = _transport(a, b, e, tolerance, rounds).to(x.dtype)
    return image


def _far(x: Tensor, y: Tensor, epsilon: Tensor) -> Tensor | None:
    """Seeds whose costs lose too many digits, (S,)."""
    return apart(x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True), 1 / epsilon)


def _transport(x: Tensor, y: Tensor, epsilon: Tensor, tolerance: float, rounds: int) -> Tensor:
    return _solved(x, y, epsilon, tolerance, rounds)[0]


def _solved(x: Tensor, y: Tensor, epsilon: Tensor, tolerance: float, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """The images of x (S, n, d), and the potentials (S, n, 1) and (S, m, 1)."""
    half_x, half_y = x.square().sum(-1, keepdim=True) / 2, y.square().sum(-1, keepdim=True) / 2
    largest = (half_x.amax(1, keepdim=True).sqrt() + half_y.amax(1, keepdim=True).sqrt()).square()  # >= all costs
    f, g = torch.zeros_like(half_x), torch.zeros_like(half_y)
    image, missing = torch.zeros_like(x), torch.full_like(epsilon, torch.inf)
    kernel = x.new_empty(len(x), x.shape[1], y.shape[1])
    here = torch.maximum(epsilon, largest / START)
    for _ in range(rounds):
        omega = torch.where(missing < torch.inf, OMEGA, 1.0).to(x.dtype)
        left = torch.cat([x, f - half_x, torch.ones_like(f)], -1) / here
        right = torch.cat([y, torch.ones_like(g), g - half_y], -1)
        torch.bmm(left, right.mT, out=kernel).clamp_min_(LOWEST).exp_()
        u, v, error = _symmetric(kernel) if x is y else _scalings(kernel, omega)
        open_ = missing > tolerance
        image = torch.where(open_, kernel @ (v * y) / (kernel @ v), image)
        missing = torch.where(open_ & (here == epsilon), error, missing)
        f, g, here = f + here * u.log(), g + here * v.log(), torch.maximum(epsilon, here / FALL)
        if bool((missing <= tolerance).all()):
            return image, f, g
    worst = float(missing.max())
    raise ArithmeticError(f"Sinkhorn's column sums are {worst:.2g} off after {rounds} rounds; tolerance {tolerance:g}")


def _scalings(kernel: Tensor, omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u (S, n, 1), v (S, m, 1) after `INNER` updates of each from 1, and the mean error of column sums, (S, 1, 1).

    omega: (S, 1, 1), of the updates but the last one of u, which makes the row sums exact.
    """
    n, m = kernel.shape[1:]
    u = torch.ones_like(kernel[..., :1])
    v = n / (kernel.mT @ u).clamp_min_(FLOOR)
    for _ in range(INNER):
        u = u ** (1 - omega) * (m / (kernel @ v).clamp_min_(FLOOR)) ** omega
        v = v ** (1 - omega) * (n / (kernel.mT @ u).clamp_min_(FLOOR)) ** omega
    u = m / (kernel @ v).clamp_min_(FLOOR)
    return u, v, (v * (kernel.mT @ u) / n - 1).abs().mean(1, keepdim=True)


def _symmetric(kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scaling u (S, n, 1) of a symmetric kernel, for rows and for columns, and its sums' mean error, (S, 1, 1)."""
    n = kernel.shape[1]
    u = torch.ones_like(kernel[..., :1])
    sums = kernel @ u / n
    for _ in range(INNER):
        u = (u / sums.clamp_min(FLOOR)).sqrt()
        sums = kernel @ u / n
    return u, u, (u * sums - 1).abs().mean(1, keepdim=True)
