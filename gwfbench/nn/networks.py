"""Generators, critics and transport maps by kind, for vectors (d,) and images (c, h, w).

    generator   z (S, n, latent)  -> (S, n, *shape)       images within [-1, 1] (tanh), but for unet
    critic      x (S, n, *shape)  -> (S, n, outputs)
    transport   x (S, n, *shape)  -> (S, n, *shape)       x + network(x), the identity at the start

    kind     for             is                                                       width, depth if none
    mlp      any shape       `SiLU` (gwfbench/nn/silu.py) on flat points              128, 3 hidden layers
    dcgan    images          gwfbench/nn/dcgan.py: generator, critic                  64, by the image's size
    auto     vectors: mlp; images: dcgan

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
from gwfbench.nn import dcgan
from gwfbench.nn.conv import Linear, Network, Parts, Weights
from gwfbench.rng import Streams

Kind = Literal["auto", "mlp", "dcgan"]
Shape = tuple[int, ...]
WIDTH, DEPTH = 128, 3  # of mlp


def generator(kind: Kind, shape: Shape, latent: int, width: int | None, depth: int | None, rng: Streams) -> Network:
    """z (S, n, latent) -> (S, n, *shape).

    Raises:
        UserError: the kind has no generator of that shape.
    """
    kind = _settled("generator", kind, shape, ("mlp", "dcgan"))
    if kind == "mlp":
        end: End = "tanh" if len(shape) == 3 else "none"
        return _mlp((latent,), shape, width, depth, rng, end=end)
    return dcgan.generator(_image(shape, depth), latent, width or 64, depth, rng)


def critic(
    kind: Kind, shape: Shape, outputs: int, width: int | None, depth: int | None, rng: Streams, spectral: bool = False
) -> Network:
    """x (S, n, *shape) -> (S, n, outputs).

    Args:
        spectral: divide every weight matrix by its largest singular value.

    Raises:
        UserError: the kind has no critic of that shape.
    """
    kind = _settled("critic", kind, shape, ("mlp", "dcgan"))
    if kind == "mlp":
        return _mlp(shape, (outputs,), width, depth, rng, spectral=spectral)
    return dcgan.critic(_image(shape, depth), outputs, width or 64, depth, rng, spectral)


def transport(kind: Kind, shape: Shape, width: int | None, depth: int | None, rng: Streams) -> Network:
    """x (S, n, *shape) -> (S, n, *shape), the identity at the start.

    Raises:
        UserError: the kind has no transport map of that shape.
    """
    _settled("transport map", kind, shape, ("mlp",))
    return _mlp(shape, shape, width, depth, rng, end="residual")


def _settled(role: str, kind: Kind, shape: Shape, known: tuple[Kind, ...]) -> Kind:
    """The kind, auto decided."""
    image = len(shape) == 3
    expected = [name for name in known if name == "mlp" or image]
    if kind == "auto":
        return known[1] if image and len(known) > 1 else "mlp"
    require(
        kind in expected,
        f"a {kind} {role} for points of shape {shape}",
        " or ".join(expected),
        "leave the network's kind at auto",
    )
    return kind


def _image(shape: Shape, depth: int | None) -> tuple[int, int, int]:
    """The shape, whose sides must take `depth` halvings, two if none."""
    c, h, w = shape
    least = 2 ** (depth or 2)
    require(
        h % least == w % least == 0,
        f"images of {h} x {w} for a network of {'at least 2' if depth is None else depth} halvings",
        f"sides that are multiples of {least}",
        "a smaller depth, or mlp",
    )
    return c, h, w


End = Literal["none", "tanh", "residual"]


def _mlp(
    come: Shape,
    go: Shape,
    width: int | None,
    depth: int | None,
    rng: Streams,
    end: End = "none",
    spectral: bool = False,
) -> Network:
    sizes = (math.prod(come), *[width or WIDTH] * (DEPTH if depth is None else depth), math.prod(go))
    parts = Parts(rng, spectral=spectral)
    *layers, last = pairwise(sizes)
    made = [parts.linear(*layer) for layer in layers]
    made.append(parts.linear(*last, init="zero" if end == "residual" else None))
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
