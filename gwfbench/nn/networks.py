"""Generators, critics and transport maps by kind, for vectors (d,) and images (c, h, w).

    generator   z (S, n, latent)  -> (S, n, *shape)       images within [-1, 1] (tanh), except for unet
    critic      x (S, n, *shape)  -> (S, n, outputs)
    transport   x (S, n, *shape)  -> (S, n, *shape)       x + network(x), the identity at the start

    kind     for         is                                                             width, depth if none
    mlp      any shape   `SiLU` (gwfbench/nn/silu.py) on flat points                    128, 3 hidden layers
    dcgan    images      generator and critic of gwfbench/nn/dcgan.py                   64, by the image's size
    resnet   images      generator and critic of gwfbench/nn/resnet.py                  128, by the image's size
    unet     images      transport map of gwfbench/nn/unet.py; as a generator, that     64, by the image's size
                         map on latents of the data's shape
    auto                 mlp for vectors; for images dcgan, and unet as transport map

Width of images: channels next to the full-size image; depth: how often it is halved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.errors import require
from gwfbench.nn import dcgan, resnet
from gwfbench.nn.conv import Linear, Network, Parts, Weights
from gwfbench.nn.unet import unet
from gwfbench.rng import Streams

Kind = Literal["auto", "mlp", "dcgan", "resnet", "unet"]
Shape = tuple[int, ...]
WIDTHS: dict[str, int] = {"mlp": 128, "dcgan": 64, "resnet": 128, "unet": 64}
DEPTH = 3  # of mlp
LEAST = {"mlp": 0, "dcgan": 2, "resnet": 1, "unet": 1}  # halvings, where depth is none


def generator(kind: Kind, shape: Shape, latent: int, width: int | None, depth: int | None, rng: Streams) -> Network:
    """z (S, n, latent) -> (S, n, *shape).

    Raises:
        UserError: the kind has no generator of that shape.
    """
    kind, width = _settled("generator", kind, width, shape, ("mlp", "dcgan", "resnet", "unet"))
    if kind == "mlp":
        return _mlp((latent,), shape, width, depth, rng, end="tanh" if len(shape) == 3 else "none")
    image = _image(kind, shape, depth)
    if kind == "unet":
        size = math.prod(shape)
        require(
            latent == size,
            f"latent = {latent} for a unet",
            f"{size}, as many as an image has numbers",
            f"latent={size}",
        )
        return unet(image, width, depth, rng)
    return (dcgan if kind == "dcgan" else resnet).generator(image, latent, width, depth, rng)


def critic(
    kind: Kind, shape: Shape, outputs: int, width: int | None, depth: int | None, rng: Streams, spectral: bool = False
) -> Network:
    """x (S, n, *shape) -> (S, n, outputs).

    Args:
        spectral: divide every weight matrix by its largest singular value.

    Raises:
        UserError: the kind has no critic of that shape.
    """
    kind, width = _settled("critic", kind, width, shape, ("mlp", "dcgan", "resnet"))
    if kind == "mlp":
        return _mlp(shape, (outputs,), width, depth, rng, spectral=spectral)
    image = _image(kind, shape, depth)
    return (dcgan if kind == "dcgan" else resnet).critic(image, outputs, width, depth, rng, spectral)


def transport(kind: Kind, shape: Shape, width: int | None, depth: int | None, rng: Streams) -> Network:
    """x (S, n, *shape) -> (S, n, *shape), the identity at the start.

    Raises:
        UserError: the kind has no transport map of that shape.
    """
    kind, width = _settled("transport map", kind, width, shape, ("mlp", "unet"))
    if kind == "mlp":
        return _mlp(shape, shape, width, depth, rng, end="residual")
    return unet(_image(kind, shape, depth), width, depth, rng)


def _settled(role: str, kind: Kind, width: int | None, shape: Shape, known: tuple[Kind, ...]) -> tuple[Kind, int]:
    """Kind and width, auto and none decided."""
    expected = known if len(shape) == 3 else known[:1]
    kind = expected[min(1, len(expected) - 1)] if kind == "auto" else kind
    require(
        kind in expected,
        f"a {kind} {role} for points of shape {shape}",
        " or ".join(expected),
        "leave the network's kind at auto",
    )
    return kind, WIDTHS[kind] if width is None else width


def _image(kind: Kind, shape: Shape, depth: int | None) -> tuple[int, int, int]:
    """The shape, whose sides must take as many halvings as are to be."""
    c, h, w = shape
    least = 2 ** (LEAST[kind] if depth is None else depth)
    require(
        h % least == w % least == 0,
        f"images of {h} x {w} for a {kind} of {f'at least {LEAST[kind]}' if depth is None else depth} halvings",
        f"sides that are multiples of {least}",
        "a smaller depth, or mlp",
    )
    return c, h, w


End = Literal["none", "tanh", "residual"]


def _mlp(
    come: Shape,
    go: Shape,
    width: int,
    depth: int | None,
    rng: Streams,
    end: End = "none",
    spectral: bool = False,
) -> Network:
    sizes = (math.prod(come), *[width] * (DEPTH if depth is None else depth), math.prod(go))
    parts = Parts(rng, spectral=spectral)
    *layers, (d_in, d_out) = pairwise(sizes)
    made = [parts.linear(*layer) for layer in layers]
    made.append(parts.linear(d_in, d_out, init="zero" if end == "residual" else None))
    return Network(parts, Perceptron(tuple(made), go, end))


@dataclass(frozen=True)
class Perceptron:
    """`SiLU` on flat points, with normalised weights if so made."""

    layers: tuple[Linear, ...]
    shape: Shape
    end: End

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        y = flat
        for i, layer in enumerate(self.layers):
            y = layer(at, y if i == 0 else F.silu(y))
        if self.end == "residual":
            y = flat + y
        elif self.end == "tanh":
            y = torch.tanh(y)
        return y.unflatten(2, self.shape)
