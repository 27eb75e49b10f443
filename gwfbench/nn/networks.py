"""Generators, critics and transport maps by kind, for vectors (d,) and images (c, h, w).

    generator   z (S, n, latent)  -> (S, n, *shape)       images within [-1, 1] (tanh), except for unet
    critic      x (S, n, *shape)  -> (S, n, outputs)
    transport   x (S, n, *shape)  -> (S, n, *shape)

    kind           for         is                                                          width, depth if none
    mlp            any shape   `SiLU` (gwfbench/nn/silu.py) on flat points                 128, 3 hidden layers
    dcgan          images      generator and critic of gwfbench/nn/dcgan.py                64, by the image's size
    resnet         images      generator and critic of gwfbench/nn/resnet.py               128, by the image's size
    sngan          images      the same, as Miyato et al. 2018 have them                   256 and 128, by its size
    otm            images      generator and critic of gwfbench/nn/otm.py (Small-Net)      256, by the image's size
    otm_skip       images      the same, with the connections that otm's code lacks        256, by the image's size
    unet           images      transport map of gwfbench/nn/unet.py; as a generator, that  64, by the image's size
                               map on latents of the data's shape
    jkoflow_unet   images      transport map, or generator, of gwfbench/nn/jkoflow_unet.py 64, by the image's size
    auto                       mlp for vectors; for images dcgan, and unet as transport map

A transport map is x + network(x) and the identity at the start, except for jkoflow_unet. Generators of sngan, otm and
otm_skip have batch normalisation, so that in training a point depends on its batch (gwfbench/nn/conv.py).

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
from gwfbench.nn import dcgan, otm, resnet
from gwfbench.nn.conv import Linear, Network, Parts, Weights
from gwfbench.nn.jkoflow_unet import unet as jkoflow_unet
from gwfbench.nn.unet import unet
from gwfbench.rng import Streams

Kind = Literal["auto", "mlp", "dcgan", "resnet", "sngan", "otm", "otm_skip", "unet", "jkoflow_unet"]
Role = Literal["generator", "critic", "transport map"]
Shape = tuple[int, ...]
PAIRS: tuple[Kind, ...] = ("mlp", "dcgan", "resnet", "sngan", "otm", "otm_skip")  # with a generator and a critic
MAPS = {"unet": unet, "jkoflow_unet": jkoflow_unet}
WIDTHS = {
    "mlp": 128, "dcgan": 64, "resnet": 128, "sngan": 128, "otm": 256, "otm_skip": 256, "unet": 64, "jkoflow_unet": 64,
}  # fmt: skip
SNGAN_GENERATOR = 256
DEPTH = 3  # of mlp
LEAST = {"dcgan": 2}  # halvings, where depth is none; of others 1


def generator(kind: Kind, shape: Shape, latent: int, width: int | None, depth: int | None, rng: Streams) -> Network:
    """z (S, n, latent) -> (S, n, *shape).

    Raises:
        UserError: the kind has no generator of that shape.
    """
    kind, width = _settled("generator", kind, width, shape, (*PAIRS, "unet", "jkoflow_unet"))
    if kind == "mlp":
        return _mlp((latent,), shape, width, depth, rng, end="tanh" if len(shape) == 3 else "none")
    image = _image(kind, shape, depth)
    if kind in MAPS:
        size = math.prod(shape)
        require(
            latent == size,
            f"latent = {latent} for a {kind}",
            f"{size}, as many as an image has numbers",
            f"latent={size}",
        )
        return MAPS[kind](image, width, depth, rng)
    if kind == "dcgan":
        return dcgan.generator(image, latent, width, depth, rng)
    if kind in ("otm", "otm_skip"):
        return otm.generator(image, latent, width, depth, rng, kind == "otm_skip")
    return resnet.generator(image, latent, width, depth, rng, kind == "sngan")


def critic(
    kind: Kind, shape: Shape, outputs: int, width: int | None, depth: int | None, rng: Streams, spectral: bool = False
) -> Network:
    """x (S, n, *shape) -> (S, n, outputs).

    Args:
        spectral: divide every weight matrix by its largest singular value.

    Raises:
        UserError: the kind has no critic of that shape.
    """
    kind, width = _settled("critic", kind, width, shape, PAIRS)
    if kind == "mlp":
        return _mlp(shape, (outputs,), width, depth, rng, spectral=spectral)
    image = _image(kind, shape, depth)
    if kind == "dcgan":
        return dcgan.critic(image, outputs, width, depth, rng, spectral)
    if kind in ("otm", "otm_skip"):
        return otm.critic(image, outputs, width, depth, rng, spectral, kind == "otm_skip")
    return resnet.critic(image, outputs, width, depth, rng, spectral, kind == "sngan")


def transport(kind: Kind, shape: Shape, width: int | None, depth: int | None, rng: Streams) -> Network:
    """x (S, n, *shape) -> (S, n, *shape), the identity at the start (not of jkoflow_unet).

    Raises:
        UserError: the kind has no transport map of that shape.
    """
    kind, width = _settled("transport map", kind, width, shape, ("mlp", "unet", "jkoflow_unet"))
    if kind == "mlp":
        return _mlp(shape, shape, width, depth, rng, end="residual")
    return MAPS[kind](_image(kind, shape, depth), width, depth, rng)


def halved(net: Network) -> Network:
    """The network, its products in bfloat16 from now on.

    Raises:
        UserError: it is not in float32.
    """
    dtype = net.parameters.flat.dtype
    require(
        dtype == torch.float32,
        f"precision=bf16 in a run of {str(dtype).removeprefix('torch.')}",
        "a run of float32, whose products bfloat16 can stand for",
        "leave precision out, or run without --precision",
    )
    net.bf16 = True
    return net


def _settled(role: Role, kind: Kind, width: int | None, shape: Shape, known: tuple[Kind, ...]) -> tuple[Kind, int]:
    """Kind and width, auto and none decided."""
    expected = known if len(shape) == 3 else known[:1]
    kind = expected[min(1, len(expected) - 1)] if kind == "auto" else kind
    require(
        kind in expected,
        f"a {kind} {role} for points of shape {shape}",
        " or ".join(expected),
        "leave the network's kind at auto",
    )
    usual = SNGAN_GENERATOR if (kind, role) == ("sngan", "generator") else WIDTHS[kind]
    return kind, usual if width is None else width


def _image(kind: Kind, shape: Shape, depth: int | None) -> tuple[int, int, int]:
    """The shape, whose sides must take as many halvings as are to be."""
    c, h, w = shape
    fewest = LEAST.get(kind, 1)
    least = 2 ** (fewest if depth is None else depth)
    require(
        h % least == w % least == 0,
        f"images of {h} x {w} for a {kind} of {f'at least {fewest}' if depth is None else depth} halvings",
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
