"""Flows of divergences between kernel density estimates (Cao, Wei and Liu 2026, arXiv 2603.10592).

With p_h = k*p and q_h = k*q by the Gaussian kernel of bandwidth h, r = q_h / p_h and F(q) = E_p f(q / p),

    v = h^2 w(r) (grad log p_h - grad log q_h) = w(r) (m_p - m_q),   w(r) = r f''(r),   m the mean shifts

(their equations 8 and 20 to 23; equation 4 of drifting is w = 1). The densities are put into the flow of F, whose own
density is q, not q_h: v is not the gradient flow of F(q_h), which is averaged once more with k (drift.py, parzen_kl).

    KL(q|p)  w = 1        KL(p|q)  w = 1 / r        chi^2(q|p)  w = 2 r, exactly (their text has r: half of chi^2)
    MMD      v = E_p[k (y - x)] - E_q[k (x' - x)], which is h^2 times the flow of half MMD^2

Sums of these with positive weights are flows of the summed divergences (their theorem 4.12). On the sphere mean shifts
are geodesic ones (sphere.py), and the same formulas hold with tangent gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gwfbench.velocity.pairs import mean_shift
from gwfbench.velocity.ratio import WEIGHTS, Divergence
from gwfbench.velocity.sphere import geodesic_shift


def kde_flow(
    x: Tensor,
    y: Tensor,
    h: Tensor | float,
    weights: Mapping[Divergence, float],
    mmd: float = 0.0,
    cut: float = math.inf,
    sphere: bool = False,
) -> Tensor:
    """Velocity at x (S, n, d) from y (S, m, d): the sum of weights times w(r) (m_p - m_q), and of `mmd` times MMD's.

    Args:
        h: bandwidth, one number or (S, 1, 1); an angle on the sphere.
        cut: within w, r is held to [1 / cut, cut].
        sphere: kernel and shifts along the unit sphere; v is tangent.
    """
    to_p, log_p = geodesic_shift(x, y, h) if sphere else mean_shift(x, y, h, "gaussian")
    to_q, log_q = geodesic_shift(x, x, h) if sphere else mean_shift(x, x, h, "gaussian")
    log_ratio = (log_p - log_q).clamp(-math.log(cut), math.log(cut))
    w = sum((weight * WEIGHTS[name](log_ratio) for name, weight in weights.items()), torch.zeros_like(log_p))
    return w * (to_p - to_q) + mmd * (log_p.exp() * to_p - log_q.exp() * to_q)
