"""Multi-layer perceptrons with learned PReLU slopes, and the residual maps made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.rng import Streams

SLOPE = 0.25  # torch.nn.PReLU's start


class MLP:
    """S perceptrons, (S, n, sizes[0]) -> (S, n, sizes[-1]).

    Args:
        sizes: widths, input and output included.
        rng: draws the initial weights.
        prelu: a learned slope a layer after "hidden" layers, after "all" (the output too), or "none" (linear).
    """

    def __init__(self, sizes: tuple[int, ...], rng: Streams, prelu: Literal["hidden", "all", "none"] = "hidden"):
        self._layers = len(sizes) - 1
        slopes = {"hidden": self._layers - 1, "all": self._layers, "none": 0}[prelu]
        tensors = [part for d_in, d_out in pairwise(sizes) for part in linear_init(rng, d_in, d_out)]
        one = torch.full((len(rng.seeds),), SLOPE, device=rng.device, dtype=rng.dtype)
        self.parameters = Stacked([*tensors, *[one] * slopes])

    def __call__(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Values at x; `frozen` cuts the parameters from the gradient, which saves their share of the backward pass."""
        leaves = [leaf.detach() for leaf in self.parameters.leaves] if frozen else self.parameters.leaves
        if x.device.type == "cpu":
            return _Fused.apply(x, self._layers, *leaves)
        return composed(x, self._layers, *leaves)

    def dropped(self, x: Tensor, share: float, noise: Streams, first: int = 1) -> Tensor:
        """Values at x with each hidden unit of each point left out with probability `share`, the others scaled up.

        Args:
            first: hidden layer, counted from 1, before which nothing is left out.
        """
        keep = [
            noise.uniform(x.shape[1], bias.shape[-1]).ge(share).to(x.dtype) / (1 - share) if i >= first else None
            for i, (_, bias) in enumerate(self.layers()[:-1], 1)
        ]
        return composed(x, self._layers, *self.parameters.leaves, keep=keep)

    def end_at_zero(self) -> None:
        """Set the last layer to 0."""
        with torch.no_grad():
            for part in self.layers()[-1]:
                part.zero_()

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (S, d_in, d_out) and bias (S, 1, d_out) of each layer."""
        leaves = self.parameters.leaves
        return [(leaves[2 * i], leaves[2 * i + 1]) for i in range(self._layers)]


def composed(x: Tensor, layers: int, *leaves: Tensor, keep: Sequence[Tensor | None] = ()) -> Tensor:
    """The perceptron out of PyTorch's own functions: what `_Fused` must equal, and what runs on a GPU.

    Args:
        keep: factors of the hidden layers' values, (S, n, width) each; None: one.
    """
    slopes = leaves[2 * layers :]
    for i in range(layers):
        x = torch.baddbmm(leaves[2 * i + 1], x, leaves[2 * i])
        if i < len(slopes):
            x = F.prelu(x[None], slopes[i])[0]  # channel axis = seeds
        factor = keep[i] if i < len(keep) else None
        if factor is not None:
            x = x * factor
    return x


class _Fused(torch.autograd.Function):
    """The whole perceptron as one node of the graph, for the CPU: half the time of `composed`.

    PyTorch's CPU kernel of the PReLU gradient branches on each sign (756 us for 2048 x 64 random signs; the leaky-ReLU
    kernel takes 33), and a graph of twenty nodes costs as much as the small products in it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: int, *leaves: Tensor) -> Tensor:
        slopes = leaves[2 * layers :]
        inputs, before = [], []
        for i in range(layers):
            inputs.append(x)
            before.append(torch.baddbmm(leaves[2 * i + 1], x, leaves[2 * i]))
            x = _per_seed(F.leaky_relu, before[i], slopes=slopes[i]) if i < len(slopes) else before[i]
        ctx.layers, ctx.slopes = layers, len(slopes)
        ctx.save_for_backward(*inputs, *before, *leaves)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        layers, saved = ctx.layers, ctx.saved_tensors
        inputs, before, leaves = saved[:layers], saved[layers : 2 * layers], saved[2 * layers :]
        slopes, wanted = leaves[2 * layers :], ctx.needs_input_grad[2]
        found: list[Tensor | None] = [None] * len(leaves)
        for i in reversed(range(layers)):
            if i < ctx.slopes:
                if wanted:
                    negative = before[i].clamp_max(0.0)
                    found[2 * layers + i] = torch.bmm(
                        gradient.flatten(1)[:, None], negative.flatten(1)[:, :, None]
                    ).flatten()
                gradient = _per_seed(_leaky_backward, gradient, before[i], slopes=slopes[i])
            if wanted:
                found[2 * i], found[2 * i + 1] = inputs[i].mT @ gradient, gradient.sum(1, keepdim=True)
            if i or ctx.needs_input_grad[0]:
                gradient = gradient @ leaves[2 * i].mT
        return gradient if ctx.needs_input_grad[0] else None, None, *found


def _leaky_backward(gradient: Tensor, x: Tensor, slope: float) -> Tensor:
    return torch.ops.aten.leaky_relu_backward(gradient, x, slope, False)


def _per_seed(function: Callable[..., Tensor], *tensors: Tensor, slopes: Tensor) -> Tensor:
    """The function on each seed's part with that seed's slope as a number."""
    if len(slopes) == 1:
        return function(*tensors, float(slopes))
    parts = zip(*tensors, slopes.tolist(), strict=True)
    return torch.stack([function(*part) for part in parts])


class ResidualMLP:
    """T(x) = x + MLP(x), (S, n, d) -> (S, n, d), with `depth` hidden layers.

    Args:
        prelu: as `MLP`; "all": the residual ends in one too.
    """

    def __init__(self, d: int, width: int, depth: int, rng: Streams, prelu: Literal["hidden", "all"] = "hidden"):
        self.mlp = MLP((d, *[width] * depth, d), rng, prelu)
        self.parameters = self.mlp.parameters

    def to_identity(self) -> None:
        """Set the last layer to 0, which makes T the identity whatever the other layers are."""
        self.mlp.end_at_zero()

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)

    def dropped(self, x: Tensor, share: float, noise: Streams, first: int = 1) -> Tensor:
        """T with dropout in the hidden layers, as `MLP.dropped`."""
        return x + self.mlp.dropped(x, share, noise, first)


class ResidualLinear:
    """T(x) = x + W_1 ... W_L x + c: an MLP without activations, trained layer by layer, applied as one matrix."""

    def __init__(self, d: int, width: int, depth: int, rng: Streams):
        self.mlp = MLP((d, *[width] * depth, d), rng, prelu="none")
        self.parameters = self.mlp.parameters

    def to_identity(self) -> None:
        """Set the last layer to 0, which makes T the identity whatever the other layers are."""
        self.mlp.end_at_zero()

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weight (S, d, d) and bias (S, 1, d) of the residual."""
        (weight, bias), *rest = self.mlp.layers()
        for next_weight, next_bias in rest:
            weight, bias = weight @ next_weight, torch.baddbmm(next_bias, bias, next_weight)
        return weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._folded()
        return x + torch.baddbmm(bias, x, weight)

    def log_det(self, x: Tensor) -> Tensor:
        """log |det grad T| at the points, (S, n)."""
        weight, _ = self._folded()
        eye = torch.eye(weight.shape[-1], dtype=torch.float64, device=weight.device)
        return torch.linalg.slogdet(weight.double() + eye)[1].to(x.dtype)[:, None].expand(x.shape[:2])

    def inverse(self, y: Tensor) -> Tensor:
        """The x with T(x) = y, (S, n, d)."""
        weight, bias = (part.double() for part in self._folded())
        eye = torch.eye(weight.shape[-1], dtype=torch.float64, device=weight.device)
        return torch.linalg.solve(weight + eye, y.double() - bias, left=False).to(y.dtype)
