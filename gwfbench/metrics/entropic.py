"""Sinkhorn divergence: entropic transport to draws of the truth, minus the cost of each cloud to itself.

    S = OT(P, Q) - OT(P, P) / 2 - OT(Q, Q) / 2,    OT = min over plans of E|x - y|^2 + eps KL(plan || P x Q)

(Feydy et al. 2019.) The cost is |x - y|^2, with 2000 points per side as in the tables of Blessing et al. 2024. Their
eps, 1e-3 whatever the target, is below the squared distance between neighbouring points wherever the target is as wide
as 1: S is then `w2` squared. Here eps is a tenth of the squared median distance between draws of the truth, so that
equal laws are seen through the noise of 2000 points, and units don't matter.

OT = mean f + mean g of the two potentials, which velocity/sinkhorn.py finds. Their difference to the potentials of a
cloud with itself, f_PQ - f_PP, is the derivative of S in P. So the standard error is sqrt(Var(f_PQ - f_PP) / n +
Var(g_PQ - f_QQ) / m), by the delta method; at equal laws both are noise, and it is too large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gwfbench.metrics.kernel import median_distance
from gwfbench.protocol import Estimate, Judged, Metric, Need
from gwfbench.velocity.sinkhorn import potentials

SHARE = 0.1  # of the squared median distance: eps
TOLERANCE = 1e-3  # mean relative error of a plan's column sums


def sinkhorn_divergence(x: Tensor, y: Tensor, epsilon: Tensor, itself: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S, and its standard error, (S,) each.

    Args:
        x, y: (S, n, d) and (S, m, d), float64.    epsilon: (S,), of the cost |x - y|^2.
        itself: the potential of y with itself, (S, m); None: it is computed.
    """
    f, g = _potentials(x, y, epsilon)
    own = _potentials(x, x, epsilon)[0]
    others = _potentials(y, y, epsilon)[0] if itself is None else itself
    a, b = f - own, g - others
    return a.mean(1) + b.mean(1), (a.var(1) / a.shape[1] + b.var(1) / b.shape[1]).sqrt()


def _potentials(x: Tensor, y: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """f (S, n) and g (S, m) for the cost |x - y|^2: twice those for half of it, at half of eps.

    Of one tensor given twice f and g are the same, and not only up to a constant.
    """
    f, g = potentials(x, y, epsilon[:, None, None] / 2, TOLERANCE)
    return 2 * f, 2 * g


def _sinkhorn(judged: Judged) -> Estimate:
    epsilon = SHARE * torch.tensor(median_distance(judged, judged.rng.fork("bandwidth")), dtype=torch.float64) ** 2
    points = judged.points[:, : judged.truth.limit].flatten(2).double()
    epsilon = epsilon.to(points.device)

    def make() -> tuple[Tensor, Tensor, Tensor]:
        other = judged.reference(points.shape[1]).flatten(2).double()
        middle = other.mean(1, keepdim=True)
        other = other - middle
        return middle, other, _potentials(other, other, epsilon)[0]

    middle, other, itself = judged.of_truth("draws, and their own potential", make)
    value, se = sinkhorn_divergence(points - middle, other, epsilon, itself)
    return Estimate(value, torch.where(se > 0, se, math.nan), points.shape[1])


sinkhorn = Metric(
    "sinkhorn",
    _sinkhorn,
    points=2000,
    needs=frozenset({Need.DRAW}),
    at="last",
    source="Sinkhorn divergence to as many fresh draws of the truth (Feydy et al. 2019), cost |x - y|^2, eps = 0.1 "
    "squared median distances of the truth. (With eps = 1e-3, as in Blessing et al. 2024, it is w2 squared where the "
    "target is as wide as 1.) Standard error from the dual potentials, by the delta method",
)
