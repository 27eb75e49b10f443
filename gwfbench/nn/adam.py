"""Adam over the flat parameters of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gwfbench.nn.stacked import Stacked

_kernel = torch.ops.aten._fused_adam_


class Adam:
    """Adam (Kingma and Ba 2015) over the flat buffer of one network, its state kept from one loop to the next.

    A step is the kernel under `torch.optim.Adam(fused=True)`, called without the 40 us that
    the optimiser takes before it.

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
        self._count = torch.zeros((), dtype=parameters.flat.dtype, device=parameters.flat.device)
        self._row = self._count.new_zeros(2)
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
        """Start again, with the parameters as they are."""
        self._mean.zero_()
        self._square.zero_()
        self._steps = 0

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step down the scalar loss at `rate` times the learning rate."""
        gradient = self._parameters.gradient(loss)
        self._steps += 1
        self._move(gradient, self._count.fill_(self._steps), rate * self._lr)

    def schedule(self, rates: Sequence[float]) -> Tensor:
        """What `follow` needs for the next steps at these rates, a row each: a loop reads them on the device."""
        rows = [(self._steps + i, rate * self._lr) for i, rate in enumerate(rates, 1)]
        return torch.tensor(rows, dtype=torch.float64).view(-1, 2)

    def follow(self, gradient: Tensor, row: Tensor) -> None:
        """One step down this flat gradient, with a row of `schedule`, (2,)."""
        self._move(gradient, row[0], row[1])

    def stage(self, rate: float) -> None:
        """Count a step and put its number and rate where `follow_staged` reads them: launches, and no wait."""
        self._steps += 1
        self._row[0].fill_(self._steps)
        self._row[1].fill_(rate * self._lr)

    def follow_staged(self, gradient: Tensor) -> None:
        """The step that was staged, down this flat gradient."""
        self.follow(gradient, self._row)

    def took(self, steps: int) -> None:
        """Count the steps that `follow` took."""
        self._steps += steps

    def _move(self, gradient: Tensor, step: Tensor, rate: Tensor | float) -> None:
        """The step of that number, both on the parameters' device."""
        b1, b2 = self._betas
        step_by = _kernel.tensor_lr if isinstance(rate, Tensor) else _kernel.default  # left to itself it reads the rate
        step_by(
            [self._parameters.flat], [gradient], [self._mean], [self._square], [], [step],
            lr=rate, beta1=b1, beta2=b2, weight_decay=self._decay, eps=self._eps, amsgrad=False, maximize=False,
        )  # fmt: skip
