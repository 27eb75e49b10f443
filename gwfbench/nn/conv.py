"""Layers for images, S seeds at once: convolutions, group and spectral normalisation, and what makes a network of them.

Between a network's layers an image batch is (n, S c, h, w), the channels of each seed side by side: a convolution with
`groups` = S then is S convolutions, and at S = 1 a plain one. `folded` and `unfolded` go there and back.

A layer is a frozen value that knows where its parameters lie. A `Network` holds parameters, buffers and a structure
made of layers. All of it is in the precision of the input, on every device: what a row says is what ran.

Spectral normalisation (Miyato et al. 2018, equations 8 and 20): W / s(W), W as a matrix (c_out, c_in k k), s(W) from
one power iteration at each call that may train the parameters, which are calls that are not frozen, with gradients
on. Its vectors u are the only buffers.

Group normalisation (Wu and He 2018) acts on each point alone. Batch normalisation (Ioffe and Szegedy 2015) is for the
generators of published networks only: it makes the points of a batch depend on each other, so that no critic here has
it. In training a channel's mean and variance are those of the batch, seed by seed, and running averages of both follow;
a call that says `alone` takes the averages instead. They are buffers too, which a call changes in place.

With `bf16` a network computes under PyTorch's autocast: products in bfloat16, sums over groups in float32, parameters,
gradients and results as they are. Spectral norms are float32 always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.rng import Streams

GROUPS = 8  # at most, of a group normalisation
SETTLING = 16  # power iterations at the start
Init = Literal["torch", "normal", "xavier", "zero"]


@dataclass(frozen=True)
class Weights:
    """What a network's layers see at one call.

    Args:
        iterate: whether power iterations go on.
        alone: whether batch normalisation takes its running averages, so that no point depends on another.
    """

    leaves: list[Tensor]
    buffers: dict[str, Tensor]
    iterate: bool
    alone: bool = False

    def __call__(self, index: int, spectral: str | None = None) -> Tensor:
        """A parameter, (S, ...), divided by the largest singular value of each seed's matrix if it has a vector u."""
        weight = self.leaves[index]
        if spectral is None:
            return weight
        if not torch.is_autocast_enabled(weight.device.type):
            return self._normalised(weight, spectral)
        with torch.autocast(weight.device.type, enabled=False):
            return self._normalised(weight, spectral)

    def _normalised(self, weight: Tensor, name: str) -> Tensor:
        matrix, u = weight.flatten(2), self.buffers[name]
        with torch.no_grad():
            v = F.normalize(matrix.mT @ u, dim=1)
            if self.iterate:
                u = F.normalize(matrix @ v, dim=1)
                self.buffers[name] = u  # a new tensor: the graph may hold the one before
        largest = u.mT @ matrix @ v  # (S, 1, 1)
        return weight / largest.view(-1, *[1] * (weight.dim() - 1))


class Structure(Protocol):
    """What a network does with its weights: x (S, n, ...) -> (S, n, ...)."""

    def __call__(self, at: Weights, x: Tensor) -> Tensor: ...


class Network:
    """S networks of one structure.

    Args:
        parts: their parameters and buffers.
        structure: made of the layers that `parts` gave.
    """

    def __init__(self, parts: Parts, structure: Structure):
        self.parameters = Stacked(parts.tensors)
        self.buffers = parts.buffers
        self.bf16 = False
        self._structure = structure

    def __call__(self, x: Tensor, frozen: bool = False, alone: bool | None = None) -> Tensor:
        """Values at x.

        Args:
            frozen: cut the parameters from the gradient, and leave the vectors of spectral normalisation.
            alone: normalise by the running averages, not by the batch, and leave them; None: if frozen.
        """
        leaves = [leaf.detach() for leaf in self.parameters.leaves] if frozen else self.parameters.leaves
        at = Weights(
            leaves, self.buffers, torch.is_grad_enabled() and not frozen, frozen if alone is None else alone
        )  # fmt: skip
        if not self.bf16:
            return self._structure(at, x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):  # each weight is used once
            return self._structure(at, x).to(x.dtype)

    def load_buffers(self, buffers: Mapping[str, Tensor | int | float]) -> None:
        """Go on from a copy of `buffers`.

        Raises:
            ValueError: they are not this network's.
        """
        if buffers.keys() != self.buffers.keys():
            raise ValueError(f"buffers {sorted(buffers)}, expected {sorted(self.buffers)}")
        self.buffers.update({name: torch.as_tensor(part).clone() for name, part in buffers.items()})


def folded(x: Tensor, last: bool = False) -> Tensor:
    """(S, n, c, h, w) -> (n, S c, h, w); channels last in memory on a GPU, and on a CPU if asked for.

    On a CPU a step of the residual networks is 1.1 to 1.3 times as fast so (benchmarks/networks.py).
    """
    x = x.transpose(0, 1).flatten(1, 2)
    return x.contiguous(memory_format=torch.channels_last) if last or x.device.type == "cuda" else x


def unfolded(x: Tensor, seeds: int) -> Tensor:
    """(n, S c, h, w) -> (S, n, c, h, w)."""
    return x.unflatten(1, (seeds, -1)).transpose(0, 1)


def flattened(x: Tensor, seeds: int) -> Tensor:
    """(n, S c, h, w) -> (S, n, c h w)."""
    return unfolded(x, seeds).flatten(2)


def upsampled(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, 2 h, 2 w), each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pooled(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, h / 2, w / 2), means of squares of four."""
    return F.avg_pool2d(x, 2)


def beside(x: Tensor, y: Tensor, seeds: int) -> Tensor:
    """The channels of x and y next to each other, seed by seed."""
    if seeds == 1:
        return torch.cat([x, y], 1)
    return torch.cat([x.unflatten(1, (seeds, -1)), y.unflatten(1, (seeds, -1))], 2).flatten(1, 2)


@dataclass(frozen=True)
class Conv:
    """(n, S c_in, h, w) -> (n, S c_out, h', w'), transposed or not."""

    weight: int
    bias: int | None
    stride: int
    padding: int
    transposed: bool
    spectral: str | None

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        weight = at(self.weight, self.spectral)
        bias = None if self.bias is None else at(self.bias).flatten()
        run = F.conv_transpose2d if self.transposed else F.conv2d
        return run(x, weight.flatten(0, 1), bias, stride=self.stride, padding=self.padding, groups=len(weight))


@dataclass(frozen=True)
class Linear:
    """(S, n, d_in) -> (S, n, d_out)."""

    weight: int
    bias: int | None
    spectral: str | None

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, at(self.weight, self.spectral))
        return torch.baddbmm(at(self.bias), x, at(self.weight, self.spectral))


@dataclass(frozen=True)
class GroupNorm:
    """(n, S c, h, w) -> the same, mean 0 and variance 1 in each group of channels of each point, then scaled."""

    scale: int
    shift: int
    groups: int

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        scale, shift = at(self.scale), at(self.shift)
        return F.group_norm(x, len(scale) * self.groups, scale.flatten(), shift.flatten())


@dataclass(frozen=True)
class BatchNorm:
    """(n, S c, h, w) -> the same, mean 0 and variance 1 in each channel over a batch's pixels, then scaled.

    Args:
        momentum: share of the batch's mean and variance in the next running averages.
    """

    scale: int
    shift: int
    mean: str
    variance: str
    eps: float
    momentum: float

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        mean, variance = at.buffers[self.mean].view(-1), at.buffers[self.variance].view(-1)
        scale, shift = at(self.scale).flatten(), at(self.shift).flatten()
        return F.batch_norm(x, mean, variance, scale, shift, not at.alone, self.momentum, self.eps)


class Parts:
    """The tensors of a network in the making; each layer is drawn as it is added.

    Args:
        rng: draws the initial weights.
        init: of weights where the layer says nothing: "torch", uniform on +-1/sqrt(fan in) as in torch.nn, biases too;
            "normal", N(0, 0.02^2) (Radford et al. 2016); "xavier", uniform of variance 2/(fan in + fan out), as in
            Miyato et al. 2018; "zero". Biases are 0 except for "torch".
        spectral: normalise every convolution and linear layer.
    """

    def __init__(self, rng: Streams, init: Init = "torch", spectral: bool = False):
        self.tensors: list[Tensor] = []
        self.buffers: dict[str, Tensor] = {}
        self._rng, self._spectral = rng, spectral
        self._init: Init = init

    def conv(
        self, c_in: int, c_out: int, size: int, stride: int = 1, padding: int | None = None, init: Init | None = None,
        gain: float = 1.0, bias: bool = True,
    ) -> Conv:  # fmt: skip
        """Padding: none, as much as keeps h and w at stride 1. Gain: a factor of Xavier's weights."""
        return self._conv((c_out, c_in, size, size), c_out if bias else 0, stride, padding, init, gain, False)

    def transposed(self, c_in: int, c_out: int, size: int, stride: int, padding: int) -> Conv:
        return self._conv((c_in, c_out, size, size), c_out, stride, padding, None, 1.0, True)

    def _conv(
        self, shape: tuple[int, ...], biases: int, stride: int, padding: int | None, init: Init | None, gain: float,
        transposed: bool,
    ) -> Conv:  # fmt: skip
        if transposed and self._spectral:
            raise ValueError("no spectral normalisation of transposed convolutions")
        patch = shape[2] * shape[3]
        fans = shape[1] * patch, shape[0] * patch
        weight, bias = self._drawn(shape, (biases,) if biases else None, *fans, init or self._init, gain)
        return Conv(weight, bias, stride, shape[2] // 2 if padding is None else padding, transposed, self._u(weight))

    def linear(self, d_in: int, d_out: int, init: Init | None = None, bias: bool = True) -> Linear:
        init = init or self._init
        if init == "torch" and bias:
            weight, biases = (self.add(part) for part in linear_init(self._rng, d_in, d_out))
        else:
            weight, biases = self._drawn((d_in, d_out), (1, d_out) if bias else None, d_in, d_out, init, 1.0)
        return Linear(weight, biases, self._u(weight))

    def group_norm(self, channels: int) -> GroupNorm:
        one = self._rng.uniform(0).new_ones(len(self._rng.seeds), channels)
        return GroupNorm(self.add(one), self.add(torch.zeros_like(one)), math.gcd(channels, GROUPS))

    def batch_norm(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> BatchNorm:
        one = self._rng.uniform(0).new_ones(len(self._rng.seeds), channels)
        scale, shift = self.add(one), self.add(torch.zeros_like(one))
        mean, variance = f"mean{scale}", f"variance{scale}"
        self.buffers[mean], self.buffers[variance] = torch.zeros_like(one), torch.ones_like(one)
        return BatchNorm(scale, shift, mean, variance, eps, momentum)

    def add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _drawn(
        self, shape: tuple[int, ...], bias: tuple[int, ...] | None, fan_in: int, fan_out: int, init: Init, gain: float
    ) -> tuple[int, int | None]:
        draw: Callable[[float], Tensor] = lambda bound: (2 * self._rng.uniform(*shape) - 1) * bound  # noqa: E731
        if init == "torch":
            weight = draw(fan_in**-0.5)
            drawn = None if bias is None else (2 * self._rng.uniform(*bias) - 1) * fan_in**-0.5
            return self.add(weight), None if drawn is None else self.add(drawn)
        if init == "zero":
            weight = self._rng.uniform(0).new_zeros(len(self._rng.seeds), *shape)
        else:
            weight = (
                draw(gain * (6 / (fan_in + fan_out)) ** 0.5) if init == "xavier" else 0.02 * self._rng.normal(*shape)
            )
        return self.add(weight), None if bias is None else self.add(weight.new_zeros(len(weight), *bias))

    def _u(self, weight: int) -> str | None:
        """The name of the vector of a weight that is to be normalised, near its singular vector."""
        if not self._spectral:
            return None
        matrix, name = self.tensors[weight].flatten(2), f"u{weight}"
        u = F.normalize(self._rng.normal(matrix.shape[1], 1), dim=1)
        for _ in range(SETTLING):
            u = F.normalize(matrix @ (matrix.mT @ u), dim=1)
        self.buffers[name] = u
        return name
