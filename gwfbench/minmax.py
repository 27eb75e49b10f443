"""The alternating loop of every JKO, GAN and generative-Wasserstein-flow method (Fan et al. 2022, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from gwfbench.nn.stacked import Stacked

Decay = Literal["none", "cosine"]


class Adam:
    """Adam (Kingma and Ba 2015) over the flat buffer of one network, its state kept from one loop to the next.

    The numbers are `torch.optim.Adam`'s (a test); on 8,000 parameters its fused step takes five times as long, most of
    it before the kernel.
    """

    def __init__(
        self,
        parameters: Stacked,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        self._parameters, self._lr, self._betas, self._eps = parameters, lr, betas, eps
        self._weight_decay = weight_decay
        self._mean, self._square = torch.zeros_like(parameters.flat), torch.zeros_like(parameters.flat)
        self._steps = 0

    def state(self) -> dict[str, Tensor | int]:
        """Copies of the network's parameters and of the two moments, flat, and the number of steps taken."""
        return {
            "parameters": self._parameters.flat.clone(),
            "mean": self._mean.clone(),
            "square": self._square.clone(),
            "steps": self._steps,
        }

    def load(self, state: Mapping[str, Tensor | int | float]) -> None:
        """Go on from what `state` gave, the network included; the state's tensors stay as they are."""
        for name, mine in (("parameters", self._parameters.flat), ("mean", self._mean), ("square", self._square)):
            mine.copy_(torch.as_tensor(state[name]))
        self._steps = int(state["steps"])

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step down the scalar loss at `rate` times the learning rate."""
        gradient = self._parameters.gradient(loss)
        if self._weight_decay:
            gradient = gradient.add(self._parameters.flat, alpha=self._weight_decay)
        self._steps += 1
        b1, b2 = self._betas
        self._mean.lerp_(gradient, 1 - b1)
        self._square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        scale = self._square.sqrt().div_(math.sqrt(1 - b2**self._steps)).add_(self._eps)
        self._parameters.flat.addcdiv_(self._mean, scale, value=-rate * self._lr / (1 - b1**self._steps))


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
    map's first step too. Losses are summed over seeds: each seed has its own parameters and so its own gradient.

    Unlike in the paper's Algorithm 1, the reference is drawn anew at each critic step: with one draw for all three, the
    critic fits the draw, and vjko on ou:dim=32 ended at SymKL 8.9e-2 from the exact JKO law instead of 2.7e-3.

    Args:
        batches: points x (S, n, d) of P_k; `iterations` of them are taken.
        reference: draws z (S, n, d) of the reference law.
        push: the map T, x -> y, differentiable.
        critic_loss: (y, z) -> (S,), y cut from the map; None, as the critic: no critic steps.
        map_loss: (x, y) -> (S,).
        map_steps: 0 trains the critic alone.
        decay: of both learning rates within this call, "cosine" down to zero.
        rate: factor of both learning rates.
    """
    for j, x in zip(range(iterations), batches, strict=False):
        now = rate * (0.5 * (1 + math.cos(math.pi * j / iterations)) if decay == "cosine" else 1.0)
        y = push(x)
        if critic is not None and critic_loss is not None:
            image = y.detach()
            for _ in range(critic_steps):
                critic.descend(critic_loss(image, reference()).sum(), now)
        for i in range(map_steps):
            map_.descend(map_loss(x, y if i == 0 else push(x)).sum(), now)
