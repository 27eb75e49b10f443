"""The residual networks of Miyato et al. 2018 (Tables 4 to 6), made for a spectrally normalised critic.

Generator: a linear layer to the coarsest image; a block for each doubling (normalise, ReLU, upsample, 3 x 3
convolution, normalise, ReLU, convolution; parallel: upsample and 1 x 1 convolution); normalise, ReLU, 3 x 3 convolution
and tanh. Critic: a block for each halving (ReLU, convolution, ReLU, convolution, mean pooling; parallel: 1 x 1
convolution, pooling; the first without the first ReLU), two blocks that keep the size, ReLU, the sum over pixels, and
a linear layer.

All layers have `width` channels; for 32 x 32 the paper has 256 in the generator and 128 in the critic. The generator
starts from a side of at least 4, the critic halves to a side of at least 7: for 32 x 32, three and two times. Weights
are Xavier's, times 2^(1/2) in the main branch of a block, as in the authors' code; biases are 0.

`paper`: batch normalisation, with the 2e-5 of the authors' framework, and a last layer of the critic without a bias,
as their code has them; else group normalisation, and a bias. In two things the code differs from theirs: real and
generated points go through the critic in one pass, with one power iteration where theirs has two, and its generator's
updates leave the vectors u alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.conv import (
    BatchNorm,
    Conv,
    GroupNorm,
    Linear,
    Network,
    Parts,
    Structure,
    Weights,
    folded,
    pooled,
    unfolded,
    upsampled,
)
from gwfbench.nn.dcgan import halvings
from gwfbench.rng import Streams

Norm = GroupNorm | BatchNorm
GAIN = 2**0.5
PLAIN = 2  # blocks of the critic that keep the size
EPS = 2e-5  # added to variances by Chainer


def generator(
    shape: tuple[int, int, int], latent: int, width: int, depth: int | None, rng: Streams, paper: bool = False
) -> Network:
    """z (S, n, latent) -> (S, n, c, h, w) in [-1, 1].

    Args:
        depth: number of doublings; default: see above.
    """
    c, h, w = shape
    k = depth or halvings(h, w)
    coarse = (width, h >> k, w >> k)
    parts = Parts(rng, "xavier")
    norm = partial(parts.batch_norm, eps=EPS) if paper else parts.group_norm
    project = parts.linear(latent, coarse[0] * coarse[1] * coarse[2])
    blocks = tuple(_block(parts, width, width, upsampled, norm) for _ in range(k))
    last = norm(width)
    return Network(parts, Generator(project, coarse, blocks, last, parts.conv(width, c, 3)))


def critic(
    shape: tuple[int, int, int], outputs: int, width: int, depth: int | None, rng: Streams, spectral: bool,
    paper: bool = False,
) -> Network:  # fmt: skip
    """x (S, n, c, h, w) -> (S, n, outputs).

    Args:
        depth: number of halvings; default: see above.
    """
    c, h, w = shape
    k = depth or max(1, halvings(h, w, 7))
    parts = Parts(rng, "xavier", spectral)
    blocks = [_block(parts, c if i == 0 else width, width, pooled, opens=i == 0) for i in range(k)]
    blocks += [_block(parts, width, width) for _ in range(PLAIN)]
    return Network(parts, Critic(tuple(blocks), parts.linear(width, outputs, bias=not paper)))


def _block(
    parts: Parts, c_in: int, c_out: int, resize: Callable[[Tensor], Tensor] | None = None,
    norm: Callable[[int], Norm] | None = None, opens: bool = False,
) -> Block:  # fmt: skip
    norms = (norm(c_in), norm(c_out)) if norm else ()
    convs = (parts.conv(c_in, c_out, 3, gain=GAIN), parts.conv(c_out, c_out, 3, gain=GAIN))
    return Block(norms, convs, parts.conv(c_in, c_out, 1) if resize else None, resize, opens)


@dataclass(frozen=True)
class Block:
    """Main branch and shortcut, whose 1 x 1 convolution commutes with resizing and comes at the smaller size."""

    norms: tuple[Norm, ...]
    convs: tuple[Conv, Conv]
    shortcut: Conv | None
    resize: Callable[[Tensor], Tensor] | None
    opens: bool

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        up, down = self.resize is upsampled, self.resize is pooled
        y = self.norms[0](at, x) if self.norms else x
        y = y if self.opens else F.relu(y)
        y = self.convs[0](at, upsampled(y) if up else y)
        y = self.norms[1](at, y) if self.norms else y
        y = self.convs[1](at, F.relu(y))
        if self.shortcut is None:
            return x + y
        return upsampled(self.shortcut(at, x)) + y if up else self.shortcut(at, pooled(x)) + (pooled(y) if down else y)


@dataclass(frozen=True)
class Generator:
    project: Linear
    coarse: tuple[int, int, int]
    blocks: tuple[Structure, ...]
    norm: Norm
    out: Conv

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds = len(x)
        x = folded(self.project(at, x).unflatten(2, self.coarse), last=True)
        for block in self.blocks:
            x = block(at, x)
        return unfolded(self.out(at, F.relu(self.norm(at, x))), seeds).tanh()


@dataclass(frozen=True)
class Critic:
    blocks: tuple[Structure, ...]
    out: Linear

    def __call__(self, at: Weights, x: Tensor) -> Tensor:
        seeds, x = len(x), folded(x, last=True)
        for block in self.blocks:
            x = block(at, x)
        return self.out(at, unfolded(F.relu(x).sum((2, 3), keepdim=True), seeds).flatten(2))
