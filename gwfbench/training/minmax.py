"""The alternating loop of vjko and jko_flow (Fan et al. 2022, Algorithm 1), and the decay of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from torch import Tensor

from gwfbench.nn.adam import Adam

Decay = Literal["none", "cosine"]


def cosine(done: int, total: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * done / total))


def alternate(
    batches: Iterable[Tensor],
    reference: Callable[[], Tensor],
    push: Callable[[Tensor], Tensor],
    critic_loss: Callable[[Tensor, Tensor], Tensor] | None,
    map_loss: Callable[[Tensor, Tensor], Tensor],
    *,
    critic: Adam | None,
    map_: Adam,
    iterations: int,
    critic_steps: int,
    map_steps: int,
    decay: Decay = "none",
    rate: float = 1.0,
) -> None:
    """Train critic and map in turn: J1 times one batch, J2 steps on the critic, then J3 on the map.

    The map does not change during the critic's steps, so its image of the batch is computed once, and serves the
    map's first step too. Losses are summed over seeds: each seed has its own parameters, and so its own gradient.

    Unlike in the paper's Algorithm 1, the reference is drawn anew at each critic step: with one draw for all three, the
    critic fits the draw, and vjko on ou:dim=32 ended at SymKL 8.9e-2 from the exact JKO law instead of 2.7e-3.

    Args:
        batches: points x (S, n, d) of P_k; `iterations` of them are taken.
        reference: draws z (S, n, d) of the reference law.
        push: the map T, x -> y, differentiable.
        critic_loss: (y, z) -> (S,), y cut from the map; None, like the critic: no critic steps.
        map_loss: (x, y) -> (S,).
        map_steps: 0 trains the critic alone.
        decay: of both learning rates within this call, "cosine" down to zero.
        rate: factor of both learning rates.
    """
    for j, x in zip(range(iterations), batches, strict=False):
        now = rate * (cosine(j, iterations) if decay == "cosine" else 1.0)
        y = push(x)
        if critic is not None and critic_loss is not None:
            image = y.detach()
            for _ in range(critic_steps):
                critic.descend(critic_loss(image, reference()).sum(), now)
        for i in range(map_steps):
            map_.descend(map_loss(x, y if i == 0 else push(x)).sum(), now)
