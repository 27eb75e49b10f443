"""DCGAN (Radford et al. 2016): the small networks for images, as in the papers' "Small-Net".

Generator: a linear layer to the coarsest image, then k transposed 4 x 4 convolutions of stride 2, each but the last
with group normalisation (the paper: batch normalisation) and ReLU; tanh at the end. Critic: k 4 x 4 convolutions of
stride 2 with leaky ReLU (slope 0.2) and no normalisation but, if asked for, the spectral one; then a linear layer.

k halvings take h and w down to 4, but not below it nor to a fraction, and are at least two: 8 and 32 end at 2 and 4,
28 at 7. Next to the full-size image are `width` channels, twice as many at each size below, at most eight times.
Weights start as N(0, 0.02^2), biases at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.conv import Conv, GroupNorm, Linear, Network, Parts, Weights, flattened, folded, unfolded
from gwfbench.rng import Streams

MOST = 8  # times `width`
SLOPE = 0.2


def halvings(h: int, w: int, coarsest: int = 4) -> int:
    """How often h and w can be halved without a fraction and without going below `coarsest`."""
    count = 0
    while h % 2 == w % 2 == 0 and min(h, w) >= 2 * coarsest:
        h, w, count = h // 2, w // 2, count + 1
    return count


def generator(shape: tuple[int, int, int], latent: int, width: int, depth: int | None, rng: Streams) -> Network:
    """z (S, n, latent) -> (S, n, c, h, w) in [-1, 1].

    Args:
        depth: k; none: see above.
    """
    c, h, w = shape
    k = depth or max(2, halvings(h, w))
    channels = [width * min(2**level, MOST) for level in range(k)][::-1]
    coarse = (channels[0], h >> k, w >> k)
    parts = Parts(rng, "normal")
    project = parts.linear(latent, coarse[0] * coarse[1] * coarse[2])
    norms, convs = [], []
    for c_in, c_out in zip(channels, [*channels[1:], c], strict=True):
        norms.append(parts.group_norm(c_in))
        convs.append(parts.transposed(c_in, c_out, 4, 2, 1))
    return Network(parts, Generator(project, coarse, tuple(norms), tuple(convs)))


def critic(
    shape: tuple[int, int, int], outputs: int, width: int, depth: int | None, rng: Streams, spectral: bool
) -> Network:
    """x (S, n, c, h, w) -> (S, n, outputs).

    Args:
        depth: k; none: see above.
    """
    c, h, w = shape
    k = depth or max(2, halvings(h, w))
    channels = [c, *(width * min(2**level, MOST) for level in range(k))]
    parts = Parts(rng, "normal", spectral)
    convs = tuple(parts.conv(channels[i], channels[i + 1], 4, 2, 1) for i in range(k))
    return Network(parts, Critic(convs, parts.linear(channels[-1] * (h >> k) * (w >> k), outputs)))


@dataclass(frozen=True)
class Generator:
    project: Linear
    coarse: tuple[int, int, int]
    norms: tuple[GroupNorm, ...]
    convs: tuple[Conv, ...]

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds = len(x)
        x = folded(self.project(at, x).unflatten(2, self.coarse))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(at, F.relu(norm(at, x)))
        return unfolded(x, seeds).tanh()


@dataclass(frozen=True)
class Critic:
    convs: tuple[Conv, ...]
    out: Linear

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds, x = len(x), folded(x)
        for conv in self.convs:
            x = F.leaky_relu(conv(at, x), SLOPE)
        return self.out(at, flattened(x, seeds))
