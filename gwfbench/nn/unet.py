"""UNet (Ronneberger et al. 2015) as a transport map of images: T(x) = x + U(x), the identity at the start.

At each resolution there are two 3 x 3 convolutions, each with group normalisation and SiLU, on the way down, and two on
the way up (except at the coarsest). The way down goes by mean pooling. The way up goes by a 1 x 1 convolution that
halves the channels and nearest upsampling; the result is concatenated with the values from the way down. A 3 x 3
convolution, 0 at the start, ends it.

`width` channels at full size, twice as many at each size below, at most eight times: with width 64 and four resolutions
the numbers of channels are those of Fan et al. 2022 (section G), 64 to 512. The network is smaller than theirs all the
same: 7.2 million parameters, where that of their code has 29.5 million (jkoflow_unet.py). Weights start as torch's
convolutions do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.conv import Conv, GroupNorm, Network, Parts, Weights, beside, folded, pooled, unfolded, upsampled
from gwfbench.nn.dcgan import MOST, halvings
from gwfbench.rng import Streams

HALVINGS = 3  # at most, where depth is none


def unet(shape: tuple[int, int, int], width: int, depth: int | None, rng: Streams) -> Network:
    """x (S, n, c, h, w), or flat (S, n, c h w) -> (S, n, c, h, w).

    Args:
        depth: how often the image is halved; none: down to a side of 4, at most three times.
    """
    c, h, w = shape
    k = depth or min(HALVINGS, halvings(h, w))
    channels = [width * min(2**level, MOST) for level in range(k + 1)]
    parts = Parts(rng)
    down = tuple(_pair(parts, c_in, c_out) for c_in, c_out in zip([c, *channels], channels, strict=False))
    narrow = tuple(parts.conv(channels[i + 1], channels[i], 1) for i in range(k))
    up = tuple(_pair(parts, 2 * channels[i], channels[i]) for i in range(k))
    return Network(parts, UNet(shape, down, narrow, up, parts.conv(width, c, 3, init="zero")))


@dataclass(frozen=True)
class Pair:
    convs: tuple[Conv, Conv]
    norms: tuple[GroupNorm, GroupNorm]

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(at, conv(at, x)))
        return x


def _pair(parts: Parts, c_in: int, c_out: int) -> Pair:
    return Pair(
        (parts.conv(c_in, c_out, 3), parts.conv(c_out, c_out, 3)), (parts.group_norm(c_out), parts.group_norm(c_out))
    )


@dataclass(frozen=True)
class UNet:
    """Finest resolution first in each tuple."""

    shape: tuple[int, int, int]
    down: tuple[Pair, ...]
    narrow: tuple[Conv, ...]
    up: tuple[Pair, ...]
    out: Conv

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds, image = len(x), x.flatten(2).unflatten(2, self.shape)
        y, skips = folded(image), []
        for i, pair in enumerate(self.down):
            y = pair(at, pooled(y) if i else y)
            skips.append(y)
        skips.pop()
        for narrow, pair in zip(self.narrow[::-1], self.up[::-1], strict=True):
            y = upsampled(narrow(at, y))
            y = pair(at, beside(skips.pop(), y, seeds))
        return image + unfolded(self.out(at, y), seeds)
