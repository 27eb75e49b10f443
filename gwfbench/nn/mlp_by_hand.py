"""Perceptrons and the residual maps made of them with their gradients written out, on buffers that are made once.

A map that is trained by hand has

    image(x)         T(x), (S, n, d), in a buffer of its own; what the gradient needs is kept
    gradient(slope)  d loss / d parameters in the layout of the network's flat buffer, given d loss / d T(x) of the last
                     image

One seed is computed with matrices, several with batches of them. Nothing here reads a number from the device, except
for the slopes of PReLU on the CPU, where they are free.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP
from gwfbench.nn.stacked import Stacked

Keep = list[Tensor | None] | None  # factors of the hidden layers' values

_leaky = torch.ops.aten.leaky_relu.out
_leaky_backward = torch.ops.aten.leaky_relu_backward.grad_input
_prelu = torch.ops.aten._prelu_kernel
_prelu_backward = torch.ops.aten._prelu_kernel_backward


def inner(x: Tensor) -> Tensor:
    """(S, n, d), or (n, d) of the only seed: its products take less time to start."""
    return x[0] if len(x) == 1 else x


def product(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x @ y of matrices, or of a batch of them, in that buffer."""
    return torch.mm(x, y, out=out) if x.dim() == 2 else torch.bmm(x, y, out=out)


def affine(bias: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """bias + x @ weight, in that buffer."""
    return (torch.addmm if x.dim() == 2 else torch.baddbmm)(bias, x, weight, out=out)


class Gradient:
    """A buffer in the layout of a network's parameters: `flat`, and a view for each of them."""

    def __init__(self, parameters: Stacked):
        self.flat = torch.zeros_like(parameters.flat)
        parts = self.flat.split([leaf.numel() for leaf in parameters.leaves])
        self.leaves = [part.view(leaf.shape) for part, leaf in zip(parts, parameters.leaves, strict=True)]


class PReLU:
    """Learned slopes of S seeds after one layer, on buffers.

    The slopes come as numbers, one per seed, where there are any, which is faster on the CPU; else from their tensor.

    Args:
        slope: (S,).
        gradient: buffer of its gradient, (S,).
        before: what comes in.
        scratch: room of that size.
    """

    def __init__(self, slope: Tensor, gradient: Tensor, before: Tensor, scratch: Tensor):
        seeds = len(slope)
        self._before, self._scratch = before, scratch
        self._slope = slope.view(1, 1) if seeds == 1 else slope.view(seeds, 1, 1)
        self._gradient = gradient.view(()) if seeds == 1 else gradient.view(seeds, 1, 1)

    def forward(self, out: Tensor, numbers: list[float] | None) -> Tensor:
        """The values, in the buffer `out`; or, without numbers, in memory of their own."""
        if numbers is None:
            return _prelu(self._before, self._slope)
        if len(numbers) == 1:
            return _leaky(self._before, numbers[0], out=out)
        for x, y, slope in zip(self._before, out, numbers, strict=True):
            _leaky(x, slope, out=y)
        return out

    def backward(self, gradient: Tensor, numbers: list[float] | None, learn: bool) -> Tensor:
        """The gradient of what came in, given that of the values, in its place or not; `learn`: the slopes' too."""
        if numbers is None:
            gradient, slopes = _prelu_backward(gradient, self._before, self._slope)
            if learn:
                torch.sum(slopes, (-2, -1), keepdim=slopes.dim() == 3, out=self._gradient)
            return gradient
        if learn:
            self._learn(gradient)
        if len(numbers) == 1:
            return _leaky_backward(gradient, self._before, numbers[0], False, grad_input=gradient)
        for g, x, slope in zip(gradient, self._before, numbers, strict=True):
            _leaky_backward(g, x, slope, False, grad_input=g)
        return gradient

    def _learn(self, gradient: Tensor) -> None:
        negative = torch.clamp_max(self._before, 0.0, out=self._scratch)
        if gradient.dim() == 2:
            torch.dot(gradient.view(-1), negative.view(-1), out=self._gradient)
        else:
            torch.bmm(gradient.flatten(1)[:, None], negative.flatten(1)[:, :, None], out=self._gradient)


class Perceptron:
    """An `MLP` at n points: input in the buffer `x`, (S, n, d_in), or (n, d_in) of one seed, as all buffers here.

    Args:
        points: n.
        numbers: whether `PReLU` gets its slopes as numbers; None: on the CPU.
        like: another at as many points or more, of which this one shares the first n: its own buffers are views.
        apart: whether values and gradients are in different pieces (training/replay.py): only buffers last that long.
    """

    def __init__(
        self, net: MLP, points: int, numbers: bool | None = None, like: Perceptron | None = None, apart: bool = False
    ):
        leaves = [leaf.detach() for leaf in net.parameters.leaves]
        made, seeds, layers = leaves[0], len(leaves[0]), len(net.layers())
        widths = [leaf.shape[1] for leaf in leaves[: 2 * layers : 2]] + [leaves[2 * layers - 1].shape[-1]]
        whole = like and like.whole

        def buffer(name: str, i: int, width: int) -> Tensor:
            if whole is not None:
                return whole[name, i][:, :points]
            return torch.zeros(seeds, points, width, device=made.device, dtype=made.dtype)

        self.whole = {("x", 0): buffer("x", 0, widths[0]), ("slope", 0): buffer("slope", 0, widths[0])}
        for i, width in enumerate(widths[1:]):
            for name in ("before", "after"):
                self.whole[name, i] = buffer(name, i, width)
        for width in set(widths[1:]):
            self.whole["scratch", width] = buffer("scratch", width, width)
        self.gradients = Gradient(net.parameters) if like is None else like.gradients
        found = [inner(leaf) if leaf.dim() == 3 else leaf for leaf in self.gradients.leaves]
        self._weights, self._biases = ([inner(leaf) for leaf in leaves[k : 2 * layers : 2]] for k in (0, 1))
        self._dweights, self._dbiases = found[: 2 * layers : 2], found[1 : 2 * layers : 2]
        self.x, self._slope = inner(self.whole["x", 0]), inner(self.whole["slope", 0])
        self._before = [inner(self.whole["before", i]) for i in range(layers)]
        after = [inner(self.whole["after", i]) for i in range(layers)]
        self._prelus = [
            PReLU(slope, gradient, self._before[i], inner(self.whole["scratch", widths[i + 1]]))
            for i, (slope, gradient) in enumerate(zip(leaves[2 * layers :], found[2 * layers :], strict=True))
        ]
        slopes, self._apart = len(self._prelus), apart
        self._reads = slopes > 0 and (made.device.type == "cpu" if numbers is None else numbers)
        self._slopes = net.parameters.flat[len(net.parameters.flat) - slopes * seeds :].view(slopes, seeds)
        self._numbers: list[list[float] | None] = [None] * slopes
        self._after = [after[i] if i < slopes else self._before[i] for i in range(layers)]
        self._turned = [weight.mT for weight in self._weights]
        self._inputs = [x.mT for x in (self.x, *self._after[:-1])]

    def values(self, keep: Keep = None) -> Tensor:
        """Values at x.

        Args:
            keep: factors of the hidden layers' values; None: one.
        """
        x = self.x
        if self._reads:
            self._numbers = self._slopes.tolist()
        for i, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            affine(bias, x, weight, self._before[i])
            x = self._after[i]
            if i < len(self._prelus):
                x = self._prelus[i].forward(x, self._numbers[i])
                if self._apart and not self._reads:
                    x = self._after[i].copy_(x)
                elif not self._reads:
                    self._after[i], self._inputs[i + 1 : i + 2] = x, [x.mT]
            factor = _factor(keep, i)
            if factor is not None:
                x.mul_(factor)
        return x

    def gradient(self, slope: Tensor, keep: Keep = None) -> Tensor:
        """The parameters' gradient, flat, given that of the values, which is overwritten, as all buffers are."""
        self._back(slope, keep, learn=True)
        return self.gradients.flat

    def slope(self, slope: Tensor) -> Tensor:
        """The input's gradient, given that of the values, which is overwritten."""
        return product(self._back(slope, None, learn=False), self._turned[0], self._slope)

    def _back(self, slope: Tensor, keep: Keep, learn: bool) -> Tensor:
        """The gradient of the first layer before its PReLU; a layer's own values make room for its gradient."""
        for i in reversed(range(len(self._weights))):
            factor = _factor(keep, i)
            if factor is not None:
                slope.mul_(factor)
            if i < len(self._prelus):
                slope = self._prelus[i].backward(slope, self._numbers[i], learn)
            if learn:
                product(self._inputs[i], slope, self._dweights[i])
                torch.sum(slope, -2, keepdim=True, out=self._dbiases[i])
            if i:
                slope = self._through(slope, self._turned[i], self._after[i - 1])
        return slope

    def _through(self, slope: Tensor, turned: Tensor, out: Tensor) -> Tensor:
        if slope.shape[-1] == 1:
            return torch.mul(slope, turned, out=out)  # half the time of the product
        return product(slope, turned, out)


def _factor(keep: Keep, layer: int) -> Tensor | None:
    return keep[layer] if keep is not None and layer < len(keep) else None


class ResidualMLPByHand:
    """`ResidualMLP` trained by hand, its dropout factors in `keep`.

    Args:
        points: n.
        keep: factors of the hidden layers' values, (S, n, width), filled by whoever draws them; None, also for one
            of the layers: no dropout.
    """

    def __init__(self, net: ResidualMLP, points: int, keep: Keep = None, numbers: bool | None = None):
        self._mlp = Perceptron(net.mlp, points, numbers, apart=True)
        self._keep = None if keep is None else [factor if factor is None else inner(factor) for factor in keep]
        self._image = torch.zeros_like(self._mlp.whole["x", 0])
        self._slope = torch.zeros_like(self._image)

    def image(self, x: Tensor) -> Tensor:
        self._mlp.x.copy_(inner(x))
        torch.add(self._mlp.x, self._mlp.values(self._keep), out=inner(self._image))
        return self._image

    def gradient(self, slope: Tensor) -> Tensor:
        self._slope.copy_(slope)
        return self._mlp.gradient(inner(self._slope), self._keep)


class ResidualLinearByHand:
    """`ResidualLinear` trained by hand, through the one d x d matrix that its layers are."""

    def __init__(self, net: ResidualLinear, points: int):
        leaves = [leaf.detach() for leaf in net.parameters.leaves]
        made, seeds, d = leaves[0], len(leaves[0]), leaves[0].shape[1]
        self._weights, self._biases = ([inner(leaf) for leaf in leaves[k::2]] for k in (0, 1))
        self._gradients = Gradient(net.parameters)
        found = [inner(leaf) for leaf in self._gradients.leaves]
        self._dweights, self._dbiases = found[::2], found[1::2]

        def zeros(*shape: int) -> Tensor:
            return inner(torch.zeros(seeds, *shape, device=made.device, dtype=made.dtype))

        self._whole = torch.zeros(seeds, points, d, device=made.device, dtype=made.dtype)
        self._x, self._image = zeros(points, d), inner(self._whole)
        self._firsts = [zeros(d, weight.shape[-1]) for weight in self._weights]  # W_1 ... W_i
        self._shifts = [zeros(1, weight.shape[-1]) for weight in self._weights]
        self._lasts = [zeros(d, weight.shape[-1]) for weight in self._weights]  # gradients of the same
        self._pushes = [zeros(1, weight.shape[-1]) for weight in self._weights]

    def image(self, x: Tensor) -> Tensor:
        self._x.copy_(inner(x))
        weight, bias = self._weights[0], self._biases[0]
        for i in range(1, len(self._weights)):
            bias = affine(self._biases[i], bias, self._weights[i], self._shifts[i])
            weight = product(weight, self._weights[i], self._firsts[i])
        affine(bias, self._x, weight, self._image).add_(self._x)
        return self._whole

    def gradient(self, slope: Tensor) -> Tensor:
        last, slope = len(self._weights) - 1, inner(slope)
        product(self._x.mT, slope, self._lasts[last] if last else self._dweights[0])
        torch.sum(slope, -2, keepdim=True, out=self._pushes[last] if last else self._dbiases[0])
        for i in range(last, 0, -1):
            weight, bias = self._lasts[i], self._pushes[i]
            first, shift = (self._firsts[i - 1], self._shifts[i - 1]) if i > 1 else (self._weights[0], self._biases[0])
            self._dbiases[i].copy_(bias)
            product(first.mT, weight, self._dweights[i])
            _add_product(self._dweights[i], shift.mT, bias)
            product(weight, self._weights[i].mT, self._lasts[i - 1] if i > 1 else self._dweights[0])
            product(bias, self._weights[i].mT, self._pushes[i - 1] if i > 1 else self._dbiases[0])
        return self._gradients.flat


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    total.addmm_(x, y) if total.dim() == 2 else total.baddbmm_(x, y)
