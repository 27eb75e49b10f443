"""Flows of f-divergences, by a critic that learns the logarithm of the density ratio.

    F(q) = E_p f(q/p):   v = -grad f'(r) = w(r) grad log(p/q),   r = q/p,   w(r) = r f''(r)

(Gao et al. 2019.) The critic D minimises E_p softplus(-D) + E_q softplus(D), least at log(p/q).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.adam import Adam
from gwfbench.nn.silu import SiLU
from gwfbench.rng import Streams

Divergence = Literal["kl", "reverse_kl", "js", "logd", "jeffreys", "chi2"]

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": torch.ones_like,  # KL(q|p), f = r log r, w = 1
    "reverse_kl": torch.exp,  # KL(p|q), f = -log r, w = 1/r
    "js": torch.sigmoid,  # twice the Jensen-Shannon divergence, f = r log r - (1 + r) log((1 + r)/2), w = 1/(1 + r)
    "logd": lambda log_ratio: torch.sigmoid(-log_ratio),  # 2 KL((p + q)/2|p), f' = log(1 + r), w = r/(1 + r)
    "jeffreys": lambda log_ratio: 1 + log_ratio.exp(),  # KL(q|p) + KL(p|q), f = (r - 1) log r, w = 1 + 1/r
    "chi2": lambda log_ratio: 2 * (-log_ratio).exp(),  # chi^2(q|p), f = (r - 1)^2, w = 2 r
}
"w as a function of log(p/q)"


def velocity(log_ratio: Callable[[Tensor], Tensor], x: Tensor, divergence: str, clip: float) -> Tensor:
    """w(r) grad log(p/q) at x (S, n, d), by autograd.

    Args:
        log_ratio: log(p/q), (S, n, d) -> (S, n).
        divergence: one of `WEIGHTS`.
        clip: within the weight, log(p/q) is held to [-clip, clip].
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = log_ratio(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return WEIGHTS[divergence](value.detach().clamp(-clip, clip))[..., None] * gradient


class Critic:
    """A velocity with a critic, trained some steps of Adam at each call before it is asked.

    Args:
        d: dimension of the points.
        rng: draws the initial weights.
        width, depth: SiLU layers of the critic.
        lr: of Adam.
        updates: steps of Adam a call, each on all of x and y.
        divergence, clip: as in `velocity`.
    """

    def __init__(
        self,
        d: int,
        rng: Streams,
        *,
        divergence: str = "kl",
        width: int = 64,
        depth: int = 2,
        lr: float = 1e-3,
        updates: int = 5,
        clip: float = 3.0,
    ):
        self._net = SiLU((d, *[width] * depth, 1), rng)
        self._adam = Adam(self._net.parameters, lr)
        self._updates, self._divergence, self._clip = updates, divergence, clip

    def log_ratio(self, x: Tensor) -> Tensor:
        """Estimate of log(p/q) at x, (S, n, d) -> (S, n), its weights cut from the gradient."""
        return self._net(x, frozen=True)[..., 0]

    def train(self, x: Tensor, y: Tensor) -> None:
        """One step on the logistic loss between x (S, n, d) of q and y (S, m, d) of p."""
        with torch.enable_grad():
            on_x, on_y = self._net(torch.cat([x, y], 1))[..., 0].split((x.shape[1], y.shape[1]), 1)
            self._adam.descend((F.softplus(on_x).mean(1) + F.softplus(-on_y).mean(1)).sum(), 1.0)

    def state(self) -> dict[str, Tensor | int]:
        """Of the network and of Adam."""
        return self._adam.state()

    def load(self, state: Mapping[str, Tensor | int | float]) -> None:
        """Go on from what `state` gave."""
        self._adam.load(state)

    def __call__(self, x: Tensor, y: Tensor, noise: Streams) -> Tensor:
        for _ in range(self._updates):
            self.train(x, y)
        return velocity(self.log_ratio, x, self._divergence, self._clip)
