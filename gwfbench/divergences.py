"""Variational forms of the energies: what the critic ascends, what the map descends (Fan et al. 2022, Table 1).

All take critic values at points, (S, n), and give one number a seed, (S,).
"""

from __future__ import annotations

from torch import Tensor

FLOOR = 1e-6  # of a positive critic inside a logarithm; below it the critic's gradient is cut


def squared(raw: Tensor) -> Tensor:
    """The positive head h = raw^2 of the paper's MLP critics (Section F)."""
    return raw * raw


def log_h(h: Tensor) -> Tensor:
    """log h with h cut at 1e-6 from below."""
    return h.clamp_min(FLOOR).log()


def kl_critic_loss(h_y: Tensor, h_z: Tensor) -> Tensor:
    """E_mu[h(z)] - E_P[log h(y)], the part of -V(T, h) that depends on h (Corollary 3.3).

    Its minimum over h is at h = dP/dmu, where it is 1 - KL(P || mu).

    Args:
        h_y: critic at points of P = T#P_k.    h_z: critic at points of the proposal mu.
    """
    return h_z.mean(1) - log_h(h_y).mean(1)


def kl_energy(h_y: Tensor, log_mu_y: Tensor, log_q_y: Tensor) -> Tensor:
    """E_P[log(h mu / Q)(y)], the part of KL(P || Q) that depends on the map (Corollary 3.3).

    With h = dP/dmu it is KL(P || Q) itself, up to the constant of an unnormalised Q.
    """
    return (log_h(h_y) + log_mu_y - log_q_y).mean(1)
