"""f-divergences regularised by the MMD: Moreau envelopes in a kernel's Hilbert space (Stein et al., arXiv 2402.04613).

    D(q) = min over s >= 0 of D_f(s || p) + MMD^2(s, q) / (2 lambda),   h = (E_q k - sum_j s_j k(., y_j)) / lambda

for p the points y_1 ... y_m: the least s lives on them, if f grows faster than any line. h is the first variation of D,
and -grad h the velocity of its flow. With r_j = m s_j, which is about q / p, and K = k(y_i, y_j), r minimises

    sum_j f(r_j) + r.K r / (2 lambda m) - r.E_q k(y) / lambda,   r_j >= 0,   slope f'(r_j) - h(y_j)

so that f'(r_j) = h(y_j) where r_j > 0, and D = E_q h - E_p f*(h) - lambda |h|^2 / 2. Here f is Tsallis', order a > 1:

    f(r) = (r^a - a r + a - 1) / (a - 1)                f'(r) = a (r^(a - 1) - 1) / (a - 1)
    f*(u) = (1 + (a - 1) u / a)_+^(a / (a - 1)) - 1     f*'(u) = (1 + (a - 1) u / a)_+^(1 / (a - 1))

KL, the limit a -> 1, is KALE without its factor 1 + lambda; a = 2 is chi^2, and where no r_j is 0 it is DrMMD
(witness.py) of 2 lambda, divided by 1 + 2 lambda. SciPy's L-BFGS-B solves for r, in float64 on the CPU, one seed after
the other, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from gwfbench.velocity.kernels import Kernel, gram, kernel_sum
from gwfbench.velocity.witness import Witness

TOLERANCE = 1e-5  # of the slope, that is of h at y
UNSOLVED = 1e-2  # a slope above this after all iterations is no solution
ITERATIONS = 2000


def envelope_witness(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    regularisation: float,
    alpha: float,
    start: Witness | None = None,
    tolerance: float = TOLERANCE,
) -> Witness:
    """h; a seed whose problem is not solved gets NaN.

    Args:
        x: (S, n, d) of q.    y: (S, m, d) of p.
        regularisation: lambda.
        start: of the search, the witness of a step before (its points may be others); none: r = 1.
        tolerance: of the slopes.
    """
    n, m = x.shape[1], y.shape[1]
    mean = kernel_sum(kernel, y, x, x.new_full((1, n), 1 / n))
    first = torch.ones_like(mean) if start is None else ratio(start(y), alpha)
    matrix = gram(kernel, y, y)
    matrices, means, starts = (part.double().cpu().numpy() for part in (matrix, mean, first))
    solved = [_solve(matrices[i], means[i], starts[i], regularisation, alpha, tolerance) for i in range(len(matrices))]
    r = torch.from_numpy(np.stack(solved)).to(mean)
    own = x.new_full(x.shape[:2], 1 / n)
    return Witness(kernel, torch.cat([x, y], 1), torch.cat([own, -r / m], 1) / regularisation)


def ratio(u: Tensor, alpha: float) -> Tensor:
    """f*'(u), the r at which f' is u, or 0 where u is below all slopes."""
    return (1 + (alpha - 1) / alpha * u).clamp_min(0) ** (1 / (alpha - 1))


def _solve(
    matrix: np.ndarray[Any, Any],
    mean: np.ndarray[Any, Any],
    first: np.ndarray[Any, Any],
    lam: float,
    alpha: float,
    tolerance: float,
) -> np.ndarray[Any, Any]:
    """r of one seed, (m,)."""
    m = len(mean)
    if not all(np.isfinite(part).all() for part in (matrix, mean, first)):
        return np.full(m, np.nan)

    def objective(r: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        pull, power = (matrix @ r / m - 2 * mean) / lam, r ** (alpha - 1)
        value = ((power - alpha) * r).sum() / (alpha - 1) + m + r @ pull / 2
        return float(value), alpha / (alpha - 1) * (power - 1) + pull + mean / lam

    r, _, report = fmin_l_bfgs_b(
        objective, np.clip(first, 0, 1e6), bounds=[(0, None)] * m, factr=0, pgtol=tolerance, maxiter=ITERATIONS
    )
    slope = np.where(r > 0, report["grad"], np.minimum(report["grad"], 0))
    return r if np.abs(slope).max() <= max(UNSOLVED, tolerance) else np.full(m, np.nan)
