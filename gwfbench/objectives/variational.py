"""Variational forms of the energies: what the critic ascends, what the map descends (Fan et al. 2022, Table 1).

    F(P) = sup_h { E_P[A_h(y)] - B(h) },   dF/dP = A_h at the best h

Gamma is a law that can be drawn: a proposal, or the target. Critic values are (S, n); results are (S, n), or one number
per seed, (S,). A target or a proposal whose density is known adds its logarithm to A outside.

    energy       A_h                       - B                           Gamma     best h
    kl           log h                     1 - E[h]                      mu        dP/dmu        Corollary 3.3
    kl_samples   log h                     1 - E[h]                      Q         dP/dQ         equation 9
    kl_dv        D                         - log E[e^D]                  Q         log dP/dQ     Donsker-Varadhan
    js           log(1 - h), D = logit h   E[log h] + log 4              Q         Q/(P + Q)     equation 11
    entropy      w m/(m-1) (h/O)^{m-1}     - w E[h^m] / O^{m-1}          U         dP/dU         equation 10

js is 2 JS(P, Q); D is a critic without sign; w and m are those of `InternalEnergy`. U is uniform on any set that holds
the support of P, O its volume (Corollary 3.4; the paper takes a box). For kl the energy is
KL(P || Q) = E_P[log h + log mu - log Q] + 1 - E_mu[h] at the best h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.info import Field, Info, InteractionEnergy, InternalEnergy, LogDensity, TargetSamples

KNEE = 0.3  # of `squared`: the raw output below which it leaves the parabola
LEAST = 1e-12  # of a positive critic inside a logarithm; below it the critic's gradient is cut
FLOOR = 1e-6  # of one under a power below 1
TOP = 20.0  # of the bounded logarithm in `exp_minus_one`
PAIRS = 2**18  # at once: 1 MB in float32, which stays in a core's cache


@dataclass(frozen=True)
class Energy:
    """One row of the table.

    Args:
        rate: A_h at points of P, (S, n) -> (S, n); its mean is the map's loss, its value at the best h dF/dP.
        reference: -B from critic values at points of Gamma, (S, n) -> (S,).
        scale: what the critic's loss is divided by, so that its size does not depend on the box.
        rate_slope: derivative of `rate`, (S, n) -> (S, n); None, here and below: left to autograd.
        reference_slope: derivative of B at each of the points, (S, n) -> (S, n); or one number for all of them.
    """

    rate: Callable[[Tensor], Tensor]
    reference: Callable[[Tensor], Tensor]
    scale: Tensor | float = 1.0
    rate_slope: Callable[[Tensor], Tensor] | None = None
    reference_slope: Callable[[Tensor], Tensor | float] | None = None

    def bound(self, h_y: Tensor, h_z: Tensor) -> Tensor:
        """The variational value, at most F(P): critic at points y of P and z of Gamma; (S,)."""
        return self.rate(h_y).mean(1) + self.reference(h_z)

    def critic_loss(self, h_y: Tensor, h_z: Tensor) -> Tensor:
        """What the critic descends, (S,)."""
        return -self.bound(h_y, h_z) / self.scale

    def map_loss(self, h_y: Tensor) -> Tensor:
        """What the map descends in addition to the transport cost, (S,)."""
        return self.rate(h_y).mean(1)


@dataclass(frozen=True)
class Head:
    """h from the critic's raw output.

    Args:
        value: h.
        both: h and its derivative.
        one: the raw output at which h = 1.
    """

    value: Field
    both: Callable[[Tensor], tuple[Tensor, Tensor]]
    one: float


def squared(raw: Tensor) -> Tensor:
    """The positive head h = raw^2 of the paper's MLP critics (Section F), and below `KNEE` a tail instead of a zero.

    The tail, KNEE^2 exp(2 raw / KNEE - 2), goes on with the value and the slope of raw^2. Every positive h has one raw
    output still, but log h has slopes of at most 2 / KNEE and no pole at 0: with one, a step of Adam that takes raw
    below 0 at some points sends all other parameters astray, and the map with them.
    """
    return (KNEE + F.celu(raw - KNEE, KNEE)).square()


def _squared_both(raw: Tensor) -> tuple[Tensor, Tensor]:
    fall = raw.clamp_max(KNEE).sub_(KNEE).mul_(2 / KNEE).exp_()
    root = raw.clamp_min(KNEE)
    slope = fall.mul_(root)
    return root.mul_(slope), slope.mul_(2)


def exp_minus_one(raw: Tensor) -> Tensor:
    """The positive head h = exp(g) - 1, g = 20 sigmoid(3 raw / 20), for large ratios (E.2; g as in the code)."""
    return (TOP * torch.sigmoid(3 * raw / TOP)).expm1()


def _exp_minus_one_both(raw: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.sigmoid(3 * raw / TOP)
    h = (TOP * share).expm1_()
    return h, 3 * share * (1 - share) * (h + 1)


def plain(raw: Tensor) -> Tensor:
    """The critic itself: a logarithm of a ratio, of any sign; or h itself, of entropy (the authors' code)."""
    return raw


HEADS = {
    "squared": Head(squared, _squared_both, 1.0),
    "exp1": Head(exp_minus_one, _exp_minus_one_both, TOP / 3 * math.log(math.log(2) / (TOP - math.log(2)))),
    "plain": Head(plain, lambda raw: (raw, torch.ones_like(raw)), 0.0),  # log h, so h = 1 at 0
}


def log_h(h: Tensor) -> Tensor:
    """log h with h cut at 1e-12 from below."""
    return h.clamp_min(LEAST).log()


KL = Energy(
    log_h,
    lambda h: 1 - h.mean(1),
    rate_slope=lambda h: F.threshold(h, LEAST, math.inf).reciprocal_(),
    reference_slope=lambda h: 1 / h.shape[1],
)
"For kl (Gamma = mu; add log mu - log Q) and kl_samples (Gamma = Q)."

KL_DV = Energy(
    plain,
    lambda d: math.log(d.shape[1]) - d.logsumexp(1),
    rate_slope=torch.ones_like,
    reference_slope=lambda d: d.softmax(1),
)
"The best of all KL bounds over multiples of e^D."

JS = Energy(
    lambda d: -F.softplus(d),
    lambda d: -F.softplus(-d).mean(1) + math.log(4.0),
    rate_slope=lambda d: -torch.sigmoid(d),
    reference_slope=lambda d: torch.sigmoid(-d) / -d.shape[1],
)
"2 JS(P, Q), with D = logit h."


def entropy(m: float, weight: float, log_volume: Tensor) -> Energy:
    """weight / (m - 1) int P^m, Gamma uniform on a set of that log-volume, (S,)."""
    scale = weight * ((1 - m) * log_volume).exp()

    def power(h: Tensor, p: float) -> Tensor:
        return h if p == 1 else (h.clamp_min(FLOOR) if p < 1 else h).pow(p)  # a slope without bound at 0

    def slope(h: Tensor, p: float) -> Tensor:
        """Of the power."""
        if p == 1:
            return torch.ones_like(h)
        return p * (h.pow(p - 1) if p > 1 else torch.where(h >= FLOOR, h.clamp_min(FLOOR).pow(p - 1), 0.0))

    return Energy(
        lambda h: (scale * m / (m - 1)).to(h.dtype)[:, None] * power(h, m - 1),
        lambda h: -scale.to(h.dtype) * power(h, m).mean(1),
        scale,
        rate_slope=lambda h: (scale * m / (m - 1)).to(h.dtype)[:, None] * slope(h, m - 1),
        reference_slope=lambda h: scale.to(h.dtype)[:, None] * slope(h, m) / h.shape[1],
    )


@dataclass(frozen=True)
class Row:
    """What a method must know of an energy.

    Args:
        needs: what the task offers.
        bound: None: `entropy` of the task's internal energy; or, without heads, nothing.
        heads: names of heads of its critic, the default first; empty: it has no critic.
        map: default network of the map.
        starts: whether a density of P tells dF/dP.
    """

    needs: type[Info]
    bound: Energy | None = None
    heads: tuple[str, ...] = ()
    map: Literal["prelu", "icnn"] = "prelu"
    starts: bool = False


TABLE = {  # the first that the task offers is the default
    "kl": Row(LogDensity, KL, ("squared", "exp1"), starts=True),
    "entropy": Row(InternalEnergy, None, ("squared", "exp1", "plain"), "icnn", starts=True),
    "js": Row(TargetSamples, JS, ("plain",)),
    "kl_samples": Row(TargetSamples, KL, ("exp1", "squared")),
    "kl_dv": Row(TargetSamples, KL_DV, ("plain",)),
    "interaction": Row(InteractionEnergy),
}


def pair_energy(kernel: Field, x: Tensor, y: Tensor, partners: int) -> Tensor:
    """E[W(X - Y)] for independent X and Y, by an incomplete U-statistic: x_i with y_{i+1} ... y_{i+partners}; (S,).

    x and y are (S, n, d), and row i of one may depend on row i of the other alone: an image, or itself. Then it is
    unbiased. The order of the rows must not mean anything.
    """
    partners = min(partners, x.shape[1] - 1)
    return sum(kernel(x - y.roll(-r, 1)).mean(1) for r in range(1, partners + 1)) / partners  # type: ignore[return-value]


def force(kernel: Field, x: Tensor, y: Tensor) -> Tensor:
    """grad(W * P)(x) with the points y (S, m, d) for P, (S, n, d), by autograd, block by block of pairs."""
    rows = max(1, PAIRS // (y.shape[0] * y.shape[1]))
    forces = []
    for part in x.detach().split(rows, 1):
        with torch.enable_grad():
            leaf = part.clone().requires_grad_()
            pairs = kernel((leaf[:, :, None] - y[:, None]).flatten(1, 2))
            forces += torch.autograd.grad(pairs.sum() / y.shape[1], leaf)
    return torch.cat(forces, 1)
