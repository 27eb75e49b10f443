"""Adam over the flat parameters of one network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gwfbench.nn.stacked import Stacked


class Adam:
    """Adam (Kingma and Ba 2015) over the flat buffer of one network, its state kept from one loop to the next.

    The numbers are `torch.optim.Adam`'s (a test); on 8,000 parameters its fused step takes five times as long, most of
    it before the kernel.

    Args:
        decay: of weights: so many times the parameters are added to the gradient.
    """

    def __init__(
        self,
        parameters: Stacked,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.0,
    ):
        self._parameters, self._lr, self._betas, self._eps, self._decay = parameters, lr, betas, eps, decay
        self._mean, self._square = torch.zeros_like(parameters.flat), torch.zeros_like(parameters.flat)
        self._scale = torch.zeros_like(parameters.flat)
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

    def forget(self) -> None:
        """Start anew, the parameters as they are."""
        self._mean.zero_()
        self._square.zero_()
        self._steps = 0

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step down the scalar loss at `rate` times the learning rate."""
        gradient = self._parameters.gradient(loss)
        self._steps += 1
        root, step = self._corrected(self._steps, rate)
        scale = self._moved(gradient).div_(root).add_(self._eps)
        self._parameters.flat.addcdiv_(self._mean, scale, value=-step)

    def corrections(self, rates: Sequence[float]) -> Tensor:
        """What `follow` needs for the next steps at these rates, a row each: numbers that a loop reads on the device.

        The step of length r over root / c + eps is one over root / (c r) + eps / r: both addends' factors are a row.
        """
        rows = [self._corrected(self._steps + i, rate) for i, rate in enumerate(rates, 1)]
        return torch.tensor([[1 / (root * step), self._eps / step] for root, step in rows], dtype=torch.float64)

    def follow(self, gradient: Tensor, row: Tensor) -> None:
        """One step down this flat gradient, with a row of `corrections`, (1, 2)."""
        factor, least = row.unbind(-1)
        torch.addcmul(least, self._moved(gradient), factor, out=self._scale)
        self._parameters.flat.addcdiv_(self._mean, self._scale, value=-1.0)

    def took(self, steps: int) -> None:
        """Count the steps that `follow` took."""
        self._steps += steps

    def _corrected(self, steps: int, rate: float) -> tuple[float, float]:
        """By what the root of the second moment is divided after that many steps, and the length of the step."""
        b1, b2 = self._betas
        return math.sqrt(1 - b2**steps), rate * self._lr / (1 - b1**steps)

    def _moved(self, gradient: Tensor) -> Tensor:
        """Both moments with the gradient taken in, which is overwritten; the root of the second, in a buffer."""
        b1, b2 = self._betas
        if self._decay:
            gradient.add_(self._parameters.flat, alpha=self._decay)
        self._mean.lerp_(gradient, 1 - b1)
        self._square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        return torch.sqrt(self._square, out=self._scale)
