"""One player's update in the loop of generator_critic.py: a loss, its gradient by autograd, a step of Adam.

On a GPU an update is a CUDA graph (replay.py): its inputs, the learning rate and the step's number are copied into
buffers, and what the networks' buffers become is copied back into the tensors that they were. So it takes a handful of
launches and no wait, whatever the networks are. What can't be captured (losses that draw random numbers) is called as
it is, on every device; on the CPU all is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gwfbench.nn.adam import Adam
from gwfbench.nn.conv import Network
from gwfbench.nn.stacked import Stacked
from gwfbench.training.replay import Replayed


class _Given(Stacked):
    """The parameters of another, for an optimiser that is handed their gradient in place of a loss."""

    def __init__(self, parameters: Stacked):
        self.flat, self.leaves = parameters.flat, parameters.leaves

    def gradient(self, loss: Tensor) -> Tensor:
        return loss


class Side:
    """One player's optimisers: of its network, and of the learnt kernel, which both players have."""

    def __init__(self, net: Network, mixture: Stacked | None, lr: float, betas: tuple[float, float]):
        self._parts = [net.parameters] if mixture is None else [net.parameters, mixture]
        self.adams = [Adam(_Given(part), lr, betas) for part in self._parts]

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step down the scalar loss, all gradients from one backward pass."""
        for adam, gradient in zip(self.adams, self._gradients(loss), strict=True):
            adam.descend(gradient, rate)

    def stage(self, rate: float) -> None:
        """Say which step and at which rate the next `follow` is."""
        for adam in self.adams:
            adam.stage(rate)

    def follow(self, loss: Tensor) -> None:
        """As `descend`, with nothing read from Python."""
        for adam, gradient in zip(self.adams, self._gradients(loss), strict=True):
            adam.follow_staged(gradient)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """Flat, of each part."""
        found = iter(torch.autograd.grad(loss, [leaf for part in self._parts for leaf in part.leaves]))
        return [torch.cat([next(found).reshape(-1) for _ in part.leaves]) for part in self._parts]


class Update:
    """Steps of one player down one loss.

    Args:
        loss: of tensors of fixed shapes, (S,).
        nets: whose buffers the loss may change.
        captured: whether the loss can be captured: it draws no random numbers, and takes one branch.
    """

    def __init__(self, loss: Callable[..., Tensor], side: Side, nets: Sequence[Network], captured: bool):
        self._loss, self._side, self._nets, self._captured = loss, side, nets, captured
        self._inputs: list[Tensor] = []
        self._replayed: Replayed | None = None

    def __call__(self, rate: float, *inputs: Tensor) -> None:
        """One step at `rate` times the learning rate."""
        device = inputs[0].device
        if device.type != "cuda" or not self._captured:
            self._side.descend(self._loss(*inputs).sum(), rate)
            return
        if self._replayed is None:
            self._inputs, self._replayed = [x.clone() for x in inputs], Replayed(self._body, device)
        for mine, x in zip(self._inputs, inputs, strict=True):
            mine.copy_(x)
        self._side.stage(rate)
        self._replayed()

    def _body(self) -> None:
        before = [dict(net.buffers) for net in self._nets]
        self._side.follow(self._loss(*self._inputs).sum())
        for net, held in zip(self._nets, before, strict=True):
            for name, mine in held.items():
                if net.buffers[name] is not mine:
                    mine.copy_(net.buffers[name])
                    net.buffers[name] = mine
