"""Small-Net of Caucheteux et al. 2026: the networks `otm` of their code, which are those of S-JKO (Choi et al. 2024).

Generator: a linear layer to the coarsest image; a block f for each doubling (batch normalisation, ReLU, upsample,
transposed 3 x 3 convolution, batch normalisation, ReLU, the same convolution); batch normalisation, ReLU, a transposed
3 x 3 convolution and tanh. Critic: a first block (convolution, leaky ReLU of slope 0.2, convolution, mean pooling;
parallel: pooling and 1 x 1 convolution), a block for each further halving (leaky ReLU, convolution, leaky ReLU,
convolution, pooling; parallel: 1 x 1 convolution, pooling), two blocks that keep the size, ReLU, the sum over pixels,
and a linear layer. Both players have `width` channels, theirs 256, and they halve as resnet.py does.

Two mistakes in their code are part of the published numbers. The generator's block has no skip connection: it computes
f(x) twice and adds both, so that it is 2 f(x), and the running averages see each batch twice: they move by 1 -
0.9^2 = 0.19 instead of 0.1. Here it is computed once. And the first leaky ReLU of a critic's block works in place, so
that the parallel branch sees its values, not x. With `skip` both are as they were probably meant: up(x) + f(x), and x.

Weights start as torch's layers do: the code's Xavier start is called on containers, where it does nothing. For the
last convolution, whose weight is transposed, that is a bound of 27^(-1/2), nine times that of a plain one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.conv import BatchNorm, Conv, Network, Parts, Weights, pooled, upsampled
from gwfbench.nn.dcgan import SLOPE, halvings
from gwfbench.nn.resnet import PLAIN, Critic, Generator
from gwfbench.rng import Streams

MOMENTUM = 0.1
TWICE = 1 - (1 - MOMENTUM) ** 2


def generator(
    shape: tuple[int, int, int], latent: int, width: int, depth: int | None, rng: Streams, skip: bool
) -> Network:
    """z (S, n, latent) -> (S, n, c, h, w) in [-1, 1].

    Args:
        depth: number of doublings; default: as resnet.py's.
    """
    c, h, w = shape
    k = depth or halvings(h, w)
    coarse = (width, h >> k, w >> k)
    parts = Parts(rng)
    same, norm = partial(parts.transposed, width, width, 3, 1, 1), partial(parts.batch_norm, width)
    project = parts.linear(latent, coarse[0] * coarse[1] * coarse[2])
    momentum = MOMENTUM if skip else TWICE
    blocks = tuple(
        Doubling((norm(momentum=momentum), norm(momentum=momentum)), (same(), same()), skip) for _ in range(k)
    )
    return Network(parts, Generator(project, coarse, blocks, norm(), parts.transposed(width, c, 3, 1, 1)))


def critic(
    shape: tuple[int, int, int], outputs: int, width: int, depth: int | None, rng: Streams, spectral: bool, skip: bool
) -> Network:
    """x (S, n, c, h, w) -> (S, n, outputs).

    Args:
        depth: number of halvings; default: as resnet.py's.
    """
    c, h, w = shape
    k = depth or max(1, halvings(h, w, 7))
    parts = Parts(rng, spectral=spectral)

    def block(c_in: int, halves: bool, first: bool = False) -> Block:
        convs = (parts.conv(c_in, width, 3), parts.conv(width, width, 3))
        return Block(convs, parts.conv(c_in, width, 1) if halves else None, first, skip)

    blocks = [block(c, True, first=True), *(block(width, i < k - 1) for i in range(k - 1 + PLAIN))]
    return Network(parts, Critic(tuple(blocks), parts.linear(width, outputs)))


@dataclass(frozen=True)
class Doubling:
    """2 f(x), or up(x) + f(x)."""

    norms: tuple[BatchNorm, BatchNorm]
    convs: tuple[Conv, Conv]
    skip: bool

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        y = self.convs[0](at, upsampled(F.relu(self.norms[0](at, x))))
        y = self.convs[1](at, F.relu(self.norms[1](at, y)))
        return upsampled(x) + y if self.skip else 2 * y


@dataclass(frozen=True)
class Block:
    """Of the critic; one that has a shortcut halves, and pools before its 1 x 1 convolution, which commutes with it."""

    convs: tuple[Conv, Conv]
    shortcut: Conv | None
    first: bool
    skip: bool

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        a = x if self.first else F.leaky_relu(x, SLOPE)
        y = self.convs[1](at, F.leaky_relu(self.convs[0](at, a), SLOPE))
        beside = x if self.skip else a
        return beside + y if self.shortcut is None else self.shortcut(at, pooled(beside)) + pooled(y)
