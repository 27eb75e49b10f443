"""Witnesses of kernel discrepancies between particles q and a target p, whose gradients are the velocities of flows.

    MMD^2 / 2   f = E_q k - E_p k                                   v = -grad f            (Arbel et al. 2019, eq. 9)
    KALE        w = (E_q k - sum_j alpha_j k(., y_j)) / lambda      v = -(1 + lambda) grad w    (Glaser et al. 2021)
    DrMMD       w = 2 (1 + lambda) / lambda (E_q k - E_p k - sum_j a_j k(., y_j))      v = -grad w    (Chen et al. 2024)

with x_1 ... x_n of q, y_1 ... y_m of p and, K = k(y_i, y_j),

    alpha       minimises sum_j (alpha_j log(m alpha_j) - alpha_j) + |sum_j alpha_j k(y_j, .) - E_q k|^2 / (2 lambda);
                at the minimum alpha_j = exp(w(y_j)) / m, where w is about log(q / p)
    a           (K + m lambda I) a = (E_q k - E_p k)(y);  there w(y_j) = 2 (1 + lambda) m a_j, about 2 (q / p - 1)

As lambda -> infinity both become the MMD flow (DrMMD's twice as fast); as lambda -> 0 they tend to those of KL(q || p)
and chi^2(q || p). Both systems are of the form I + A, A positive, and are solved by conjugate
gradients: the eigenvalues of A fall so fast that a few dozen products do, where a factorisation costs m^3 / 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.velocity.blocks import asks
from gwfbench.velocity.kernels import Kernel, gradient_sum, gram, kernel_sum

Regularisation = float | Tensor  # lambda of all seeds, or (S, 1)
TOLERANCE = 1e-6  # of half the squared Newton decrement, with Armijo's 0.4 and 0.8: Glaser et al.'s code
NEWTON_STEPS = 100


@dataclass(frozen=True)
class Witness:
    """sum_j a_j k(., z_j): z (S, m, d), a (S, m)."""

    kernel: Kernel
    points: Tensor
    weights: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Values at x, (S, n, d) -> (S, n)."""
        return kernel_sum(self.kernel, x, self.points, self.weights)

    def gradient(self, x: Tensor) -> Tensor:
        """At x, (S, n, d) -> (S, n, d)."""
        return gradient_sum(self.kernel, x, self.points, self.weights)


def mmd_witness(kernel: Kernel, x: Tensor, y: Tensor) -> Witness:
    """f = E_q k - E_p k; v = -grad f is n times minus the gradient of half the MMD^2 of the two empirical laws.

    Args:
        x: (S, n, d) of q.    y: (S, m, d) of p.
    """
    return _difference(kernel, x, y, y.new_full(y.shape[:2], 1 / y.shape[1]), 1.0)


def kale_witness(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    regularisation: float,
    start: Witness | None = None,
    tolerance: float = TOLERANCE,
) -> Witness:
    """w of KALE by Newton's method; a seed that it does not solve gets NaN.

    Args:
        x: (S, n, d) of q.    y: (S, m, d) of p.
        regularisation: lambda.
        start: of the search, the witness of a step before (its points may be others); none: w = 0.
        tolerance: of half the squared Newton decrement.
    """
    n, m = x.shape[1], y.shape[1]
    mean = kernel_sum(kernel, y, x, x.new_full((1, n), 1 / n))
    alpha = torch.full_like(mean, 1 / m) if start is None else start(y).clamp_(-30, 30).exp_().div_(m)
    alpha = _kale_dual(gram(kernel, y, y), mean, regularisation, alpha, tolerance)
    return _difference(kernel, x, y, alpha, 1 / regularisation)


def drmmd_witness(kernel: Kernel, x: Tensor, y: Tensor, regularisation: Regularisation) -> Witness:
    """w of DrMMD; a seed whose system is not solved gets NaN.

    Args:
        x: (S, n, d) of q.    y: (S, m, d) of p.
        regularisation: lambda.
    """
    m = y.shape[1]
    difference = mmd_witness(kernel, x, y)(y)
    matrix = gram(kernel, y, y)
    scale = 1 / (m * regularisation)
    solved = solve(lambda u: _times(matrix, u) * scale, difference / regularisation, torch.finfo(y.dtype).eps ** 0.75)
    return _difference(kernel, x, y, (1 + solved) / m, 2 * (1 + regularisation) / regularisation)


def drmmd(witness: Witness, x: Tensor, y: Tensor) -> Tensor:
    """DrMMD, (S,), from its witness: (E_q w - E_p w) / 2."""
    return (witness(x).mean(1) - witness(y).mean(1)) / 2


def solve(apply: Callable[[Tensor], Tensor], right: Tensor, tolerance: float) -> Tensor:
    """u with u + A u = right, A positive semidefinite, by conjugate gradients; NaN where 2 m products don't do.

    As I + A has no eigenvalue below 1, u is off by no more than the residual, which ends below tolerance |u|.

    Args:
        apply: A, (S, m) -> (S, m).
        right: (S, m).
    """
    u, residual, direction = torch.zeros_like(right), right, right
    square = residual.square().sum(1, keepdim=True)
    going = torch.ones_like(square, dtype=torch.bool)
    for i in range(2 * right.shape[1] + 10):
        going = square > tolerance**2 * u.square().sum(1, keepdim=True)
        if asks(i, u) and not going.any():
            return u
        image = direction + apply(direction)
        step = torch.where(going, square / (direction * image).sum(1, keepdim=True), 0)  # a seed that has ended stays
        u = u + step * direction
        residual = residual - step * image
        before, square = square, residual.square().sum(1, keepdim=True)
        direction = torch.where(going, residual + square / before * direction, direction)
    return torch.where(going, torch.nan, u)


def _difference(kernel: Kernel, x: Tensor, y: Tensor, weights: Tensor, scale: Regularisation) -> Witness:
    """scale (E_q k - sum_j weights_j k(., y_j))."""
    own = x.new_full(x.shape[:2], 1 / x.shape[1])
    return Witness(kernel, torch.cat([x, y], 1), scale * torch.cat([own, -weights], 1))


def _kale_dual(matrix: Tensor, mean: Tensor, lam: float, alpha: Tensor, tolerance: float) -> Tensor:
    """alpha, (S, m), from K (S, m, m) and E_q k at y (S, m)."""
    m, going = alpha.shape[1], torch.ones_like(alpha[:, :1], dtype=torch.bool)
    for _ in range(NEWTON_STEPS):
        root = alpha.sqrt()
        slope = (m * alpha).log() + (_times(matrix, alpha) - mean) / lam
        direction = root * solve(lambda u, r=root: r * _times(matrix, r * u) / lam, -root * slope, 1e-3)
        decrement = -(slope * direction).sum(1, keepdim=True)
        going = decrement / 2 > tolerance
        if not going.any():
            return torch.where(decrement.isfinite(), alpha, torch.nan)
        curvature = (direction * _times(matrix, direction)).sum(1, keepdim=True) / lam
        alpha = torch.where(going, alpha + _line_search(alpha, direction, decrement, curvature) * direction, alpha)
    return torch.where(going, torch.nan, alpha)


def _line_search(alpha: Tensor, direction: Tensor, decrement: Tensor, curvature: Tensor) -> Tensor:
    """Armijo's t, (S, 1), by halving of 0.8, that keeps alpha positive.

    The change of the objective is written without the difference of two large values: of t (slope, direction), of the
    quadratic part, and of sum alpha ((1 + r) log(1 + r) - r), r = t direction / alpha.
    """
    ratio = direction / alpha
    t = (-0.99 / ratio.amin(1, keepdim=True).clamp_max(-0.5)).clamp_max(1)
    for _ in range(100):
        r = t * ratio
        entropy = (alpha * ((1 + r) * r.log1p() - r)).sum(1, keepdim=True)
        change = -t * decrement + entropy + t.square() * curvature / 2
        failing = change > -0.4 * t * decrement
        if not failing.any():
            break
        t = torch.where(failing, 0.8 * t, t)
    return t


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
