"""Parameters of S networks in one flat buffer, so that an optimizer step is one fused call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gwfbench.rng import Streams


class Stacked:
    """Tensors with a leading seed axis that are views of one flat buffer.

    Args:
        tensors: initial values, each (S, ...).
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self.flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        sizes = [tensor.numel() for tensor in tensors]
        self.leaves = [
            part.view(tensor.shape).detach().requires_grad_()
            for part, tensor in zip(self.flat.split(sizes), tensors, strict=True)
        ]

    def gradient(self, loss: Tensor) -> Tensor:
        """Gradient of the scalar loss with respect to these parameters alone, flat."""
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, self.leaves)])


def linear_init(rng: Streams, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """Weight (S, d_in, d_out) and bias (S, 1, d_out), uniform on +-1/sqrt(d_in), as `torch.nn.Linear`."""
    bound = d_in**-0.5
    return (2 * rng.uniform(d_in, d_out) - 1) * bound, (2 * rng.uniform(1, d_out) - 1) * bound
