"""Layers for images, S seeds at once: convolutions, group and spectral normalisation, and what makes a network of them.

Between a network's layers an image batch is (n, S c, h, w), the channels of each seed side by side: a convolution with
`groups` = S then is S convolutions, and at S = 1 a plain one. `folded` and `unfolded` go there and back.

A layer is a frozen value that knows where its parameters lie. A `Network` holds parameters, buffers and a structure
made of layers. All of it is in the precision of the input, on every device: what a row says is what ran.

Spectral normalisation (Miyato et al. 2018, equations 8 and 20): W / s(W), W as a matrix (c_out, c_in k k), s(W) from
one power iteration at each call that may train the parameters, which are calls that are not frozen, with gradients
on. Its vectors u are the only buffers.

No batch normalisation: it would make the points of a batch, and real and generated points in one pass, depend on each
other, and its running statistics are one more state. Group normalisation (Wu and He 2018) acts on each point alone.
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
    """What a network's layers see at one call: its tensors, and whether power iterations go on."""

    leaves: list[Tensor]
    buffers: dict[str, Tensor]
    iterate: bool

    def __call__(self, index: int, spectral: str | None = None) -> Tensor:
        """A parameter, (S, ...), divided by the largest singular value of each seed's matrix if it has a vector u."""
        weight = self.leaves[index]
        return weight if spectral is None else self._normalised(weight, spectral)

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
        self._structure = structure

    def __call__(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Values at x; `frozen` cuts the parameters from the gradient and leaves the buffers."""
        leaves = [leaf.detach() for leaf in self.parameters.leaves] if frozen else self.parameters.leaves
        return self._structure(Weights(leaves, self.buffers, torch.is_grad_enabled() and not frozen), x)

    def load_buffers(self, buffers: Mapping[str, Tensor | int | float]) -> None:
        """Go on from a copy of `buffers`.

        Raises:
            ValueError: they are not this network's.
        """
        if buffers.keys() != self.buffers.keys():
            raise ValueError(f"buffers {sorted(buffers)}, expected {sorted(self.buffers)}")
        self.buffers.update({name: torch.as_tensor(part).clone() for name, part in buffers.items()})


def folded(x: Tensor) -> Tensor:
    """(S, n, c, h, w) -> (n, S c, h, w); on a GPU, channels last in memory."""
    x = x.transpose(0, 1).flatten(1, 2)
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cuda" else x


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


@dataclass(frozen=True)
class Conv:
    """(n, S c_in, h, w) -> (n, S c_out, h', w'), transposed or not."""

    weight: int
    bias: int
    stride: int
    padding: int
    transposed: bool
    spectral: str | None

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        weight, bias = at(self.weight, self.spectral), at(self.bias)
        run = F.conv_transpose2d if self.transposed else F.conv2d
        return run(
            x, weight.flatten(0, 1), bias.flatten(), stride=self.stride, padding=self.padding, groups=len(weight)
        )


@dataclass(frozen=True)
class Linear:
    """(S, n, d_in) -> (S, n, d_out)."""

    weight: int
    bias: int
    spectral: str | None

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
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
        gain: float = 1.0,
    ) -> Conv:  # fmt: skip
        """Padding: none, as much as keeps h and w at stride 1. Gain: a factor of Xavier's weights."""
        return self._conv((c_out, c_in, size, size), c_out, stride, padding, init, gain, False)

    def transposed(self, c_in: int, c_out: int, size: int, stride: int, padding: int) -> Conv:
        return self._conv((c_in, c_out, size, size), c_out, stride, padding, None, 1.0, True)

    def _conv(
        self, shape: tuple[int, ...], c_out: int, stride: int, padding: int | None, init: Init | None, gain: float,
        transposed: bool,
    ) -> Conv:  # fmt: skip
        if transposed and self._spectral:
            raise ValueError("no spectral normalisation of transposed convolutions")
        patch = shape[2] * shape[3]
        weight, bias = self._drawn(shape, (c_out,), shape[1] * patch, shape[0] * patch, init or self._init, gain)
        return Conv(weight, bias, stride, shape[2] // 2 if padding is None else padding, transposed, self._u(weight))

    def linear(self, d_in: int, d_out: int, init: Init | None = None) -> Linear:
        init = init or self._init
        if init == "torch":
            weight, bias = (self.add(part) for part in linear_init(self._rng, d_in, d_out))
        else:
            weight, bias = self._drawn((d_in, d_out), (1, d_out), d_in, d_out, init, 1.0)
        return Linear(weight, bias, self._u(weight))

    def group_norm(self, channels: int) -> GroupNorm:
        one = self._rng.uniform(0).new_ones(len(self._rng.seeds), channels)
        return GroupNorm(self.add(one), self.add(torch.zeros_like(one)), math.gcd(channels, GROUPS))

    def add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _drawn(
        self, shape: tuple[int, ...], bias: tuple[int, ...], fan_in: int, fan_out: int, init: Init, gain: float
    ) -> tuple[int, int]:
        draw: Callable[[float], Tensor] = lambda bound: (2 * self._rng.uniform(*shape) - 1) * bound  # noqa: E731
        if init == "torch":
            weight = draw(fan_in**-0.5)
            return self.add(weight), self.add((2 * self._rng.uniform(*bias) - 1) * fan_in**-0.5)
        if init == "zero":
            weight = self._rng.uniform(0).new_zeros(len(self._rng.seeds), *shape)
        else:
            weight = (
                draw(gain * (6 / (fan_in + fan_out)) ** 0.5) if init == "xavier" else 0.02 * self._rng.normal(*shape)
            )
        return self.add(weight), self.add(weight.new_zeros(len(weight), *bias))

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
