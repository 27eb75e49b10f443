"""Velocity of the debiased Sinkhorn divergence: the difference of two entropic transport maps.

    S(q, p) = OT(q, p) - OT(q, q)/2 - OT(p, p)/2,   OT with cost |x - y|^2/2 and entropy epsilon = blur^2
    v(x) = T_qp(x) - T_qq(x),   T_qp(x) = sum_j P_ij y_j / sum_j P_ij   (Feydy et al. 2019, Section 3; Genevay 2018)

which is -n times the gradient of S in the points of q. The plan is P_ij = exp((f_i + g_j - c_ij)/epsilon)/(n m).

Solver: rounds of one exponential and some matrix-vector products. A round makes K = exp((f + g - c)/epsilon) and runs
Sinkhorn's scalings u, v on it, whose logarithms then go into f and g (Schmitzer 2019, stabilised scaling). Epsilon
starts above the largest cost and falls by 4 a round: where the plan of one round has row means 1, entries to the power
of 4 have row means of at least 1, so in exact arithmetic nothing underflows. The plan of q with itself is symmetric:
one potential, each update the geometric mean of the old and the new (Knight et al. 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

FALL = 4.0  # of epsilon, a round
INNER = 8  # scalings a round
FLOOR = 1e-15  # of the products in the scalings: how far one round may move a potential


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
    epsilon = torch.as_tensor(blur, dtype=x.dtype, device=x.device).square().expand(len(x))[:, None, None]
    return transport(x, y, epsilon, tolerance, rounds) - transport(x, itself, epsilon, tolerance, rounds)
