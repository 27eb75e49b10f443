"""The transport map of JKO-Flow's code (Fan et al. 2022; sbyebss/variational_wgf, image/): a UNet that ends in tanh.

A resolution on the way down has two residual blocks, linear attention and, except for the coarsest, a 3 x 3 convolution
of stride 2. At the coarsest follow a residual block, attention, and another block. On the way up, all resolutions
except for the finest have two residual blocks, attention, and a transposed 4 x 4 convolution of stride 2; the first
block gets the values from the way down too. After that convolution the sizes are those of the next finer resolution, so
the finest values from the way down are not used. A 3 x 3 convolution, group normalisation and Mish, a 1 x 1 convolution
and tanh end it.

    residual block    r(x) + c(c(x)); c: 3 x 3 convolution, group normalisation, Mish; r: 1 x 1, if channels change
    attention         x + g W (v softmax(k)^T) q over pixels, 4 heads of 32, W 1 x 1; g is learnt and starts at 1e-5

`width` channels at full size, and 2, 4, ... at most 8 times as many below: 64 to 512 in theirs, 29.5 million
parameters at 32 x 32. It is no x + U(x): the map does not start at the identity. Weights start as torch's layers do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.conv import Conv, GroupNorm, Network, Parts, Weights, beside, folded, unfolded
from gwfbench.nn.dcgan import MOST, halvings
from gwfbench.nn.unet import HALVINGS
from gwfbench.rng import Streams

HEADS, EACH = 4, 32
SHARE = 1e-5  # g at the start


def unet(shape: tuple[int, int, int], width: int, depth: int | None, rng: Streams) -> Network:
    """x (S, n, c, h, w), or flat (S, n, c h w) -> (S, n, c, h, w) in [-1, 1].

    Args:
        depth: how often the image is halved; none: down to a side of 4, at most three times.
    """
    c, h, w = shape
    k = depth or min(HALVINGS, halvings(h, w))
    channels = [width * min(2**level, MOST) for level in range(k + 1)]
    make = _Make(Parts(rng))
    down = tuple(make.stage(*pair) for pair in zip([c, *channels], channels, strict=False))
    halve = tuple(make.parts.conv(each, each, 3, 2, 1) for each in channels[:k])
    middle = Stage((make.block(channels[k], channels[k]),), make.attention(channels[k]))
    last = make.block(channels[k], channels[k])
    up = tuple(make.stage(2 * channels[i + 1], channels[i]) for i in range(k))
    double = tuple(make.parts.transposed(each, each, 4, 2, 1) for each in channels[:k])
    end = make.layer(width, width)
    return Network(
        make.parts, UNet(shape, down, halve, middle, last, up, double, end, make.parts.conv(width, c, 1))
    )  # fmt: skip


@dataclass(frozen=True)
class Layer:
    conv: Conv
    norm: GroupNorm

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        return F.mish(self.norm(at, self.conv(at, x)))


@dataclass(frozen=True)
class Block:
    layers: tuple[Layer, Layer]
    shortcut: Conv | None

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        y = self.layers[1](at, self.layers[0](at, x))
        return y + (x if self.shortcut is None else self.shortcut(at, x))


@dataclass(frozen=True)
class Attention:
    project: Conv
    out: Conv
    share: int

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        share, size = at(self.share), x.shape[2:]
        parts = self.project(at, x).unflatten(1, (len(share), 3, HEADS, EACH)).flatten(5)
        q, k, v = parts.unbind(2)  # each (n, S, heads, 32, pixels)
        seen = (k.softmax(-1) @ v.mT).mT @ q
        y = self.out(at, seen.flatten(1, 3).unflatten(2, size))
        return x + (y.unflatten(1, (len(share), -1)) * share.view(-1, 1, 1, 1)).flatten(1, 2)


@dataclass(frozen=True)
class Stage:
    blocks: tuple[Block, ...]
    attention: Attention

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(at, x)
        return self.attention(at, x)


@dataclass(frozen=True)
class UNet:
    """Finest resolution first in each tuple."""

    shape: tuple[int, int, int]
    down: tuple[Stage, ...]
    halve: tuple[Conv, ...]
    middle: Stage
    last: Block
    up: tuple[Stage, ...]
    double: tuple[Conv, ...]
    end: Layer
    out: Conv

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds, y = len(x), folded(x.flatten(2).unflatten(2, self.shape))
        kept: list[Tensor] = []
        for i, stage in enumerate(self.down):
            y = stage(at, self.halve[i - 1](at, y) if i else y)
            kept.append(y)
        y = self.last(at, self.middle(at, y))
        for stage, double in zip(self.up[::-1], self.double[::-1], strict=True):
            y = double(at, stage(at, beside(y, kept.pop(), seeds)))
        return torch.tanh(unfolded(self.out(at, self.end(at, y)), seeds))


@dataclass(frozen=True)
class _Make:
    """Pieces in the making."""

    parts: Parts

    def layer(self, c_in: int, c_out: int) -> Layer:
        return Layer(self.parts.conv(c_in, c_out, 3), self.parts.group_norm(c_out))

    def block(self, c_in: int, c_out: int) -> Block:
        layers = (self.layer(c_in, c_out), self.layer(c_out, c_out))
        return Block(layers, self.parts.conv(c_in, c_out, 1) if c_in != c_out else None)

    def attention(self, channels: int) -> Attention:
        project = self.parts.conv(channels, 3 * HEADS * EACH, 1, bias=False)
        out = self.parts.conv(HEADS * EACH, channels, 1)
        share = torch.full_like(self.parts.tensors[-1][:, :1], SHARE)
        return Attention(project, out, self.parts.add(share))

    def stage(self, c_in: int, c_out: int) -> Stage:
        return Stage((self.block(c_in, c_out), self.block(c_out, c_out)), self.attention(c_out))
