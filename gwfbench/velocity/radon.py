"""Radon-Wasserstein flows of KL(q || pi): velocities made of one-dimensional ones (Hess-Childs, Slepcev and Xu 2026).

On a line theta points have r_i = theta.x_i and slopes s_i = theta.grad log pi(x_i). With k(r) = exp(-r^2 / 2 h^2),

    w(r) = sum_i [s_i k(r - r_i) - k'(r - r_i)] / (floor + sum_i k(r - r_i))
    kdrw   v(x) = theta w(theta.x)                  rrw   v(x) = theta (k*w)(theta.x) / int k

w is the velocity E[s | theta.x = r] - (log q_theta)'(r) of the one-dimensional flow, both parts estimated with the same
kernel, so that w = 0 if q = pi, whatever h is: k*(s q_theta - q_theta') = 0 then. The flow's velocity is the mean of v
over all theta. With the second smoothing of rrw it is the gradient flow of KL in a geometry that includes particles:

    1/n sum_i [div v(x_i) + grad log pi(x_i).v(x_i)] = 1/n int w^2 (floor + sum_i k(. - r_i)) dr / int k   for any x_i,

which is minus the rate of KL, never below 0.

Sums are made on a grid of `cells` cells per bandwidth: each point is shared between the two nodes next to it, sums of k
and k' over nodes are convolutions, and values are read off by linear interpolation, all to second order in 1 / cells.
That costs O(n + G) per line, with G nodes, and no n x n matrix. The authors convolve by FFT and take k' in Fourier
space; we have short convolutions, which see neither the ends of the grid nor other lines.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.rng import Streams

Variant = Literal["kdrw", "rrw"]
REACH = 5  # bandwidths at which k is cut off: exp(-12.5) = 4e-6 (the authors' L)


class Lines(NamedTuple):
    """Velocities on lines.

    h: bandwidths, (S, L, 1).    w: of the points along each line, (S, L, n).
    """

    h: Tensor
    w: Tensor


def on_lines(
    x: Tensor, score: Tensor, theta: Tensor, width: float, variant: Variant, floor: float = 0.02, cells: int = 10
) -> Lines:
    """w, or k*w / int k, at the points x (S, n, d) on the lines theta (S, L, d).

    Args:
        score: grad log pi at x, (S, n, d).
        width: h in units of n^(-1/5) times the points' standard deviation along the line.
        floor: added to the sum of kernels, of which each point has one of height 1.
        cells: nodes of the grid to a bandwidth.
    """
    r, slope = theta @ (x - x.mean(1, keepdim=True)).mT, theta @ score.mT  # (S, L, n)
    h = _bandwidth(r, width)
    place = ((r - r.amin(-1, keepdim=True)) / h * cells).flatten(0, 1)  # in cells, (S L, n)
    node = place.nan_to_num(0.0, 0.0, 0.0).floor()  # a seed that is lost keeps its NaN in `share`
    share, node = place - node, node.long()
    nodes = int(node.max()) + 2
    ends = REACH * cells if variant == "rrw" else 0  # w is smoothed there too
    u = torch.arange(-REACH * cells, REACH * cells + 1, device=x.device, dtype=x.dtype) / cells
    k = (-u.square() / 2).exp()
    dense = _shared(torch.stack([torch.ones_like(place), slope.flatten(0, 1)], 1), node, share, nodes)
    dense = F.pad(dense, (ends + REACH * cells,) * 2)  # (S L, 2, nodes + ...)
    mass, push = dense[:, :1], dense[:, 1:]
    sums = F.conv1d(mass, torch.stack([k, u * k]).flip(-1)[:, None])  # sum k and -h sum k', as u = (r - r_i) / h
    pull = F.conv1d(push, k[None, None])
    w = (pull + sums[:, 1:] / h.reshape(-1, 1, 1)) / (floor + sums[:, :1])
    if variant == "rrw":
        w = F.conv1d(w, (k / k.sum())[None, None])
    w = w[:, 0]
    at = w.gather(-1, node).lerp(w.gather(-1, node + 1), share)
    return Lines(h, at.view_as(r))


def frames(rng: Streams, lines: int, d: int) -> Tensor:
    """Unit vectors, (S, lines, d), each uniform; from the first on, every d of them are orthogonal."""
    count = -(-lines // d)
    q, r = torch.linalg.qr(rng.normal(count, d, d))
    signs = r.diagonal(dim1=-2, dim2=-1).sign()  # makes q uniform, and does not depend on the library's choice
    return (q * signs[..., None, :]).mT.flatten(1, 2)[:, :lines]


def _bandwidth(r: Tensor, width: float) -> Tensor:
    """h of each line, (S, L, 1); where all points are at one place any will do."""
    deviation = r.std(-1, correction=0, keepdim=True)
    least = 1e-6 * r.abs().amax(-1, keepdim=True) + torch.finfo(r.dtype).tiny ** 0.25
    return width * r.shape[-1] ** -0.2 * torch.maximum(deviation, least)


def _shared(values: Tensor, node: Tensor, share: Tensor, nodes: int) -> Tensor:
    """Values (B, c, n) of points put on the nodes on both sides, (B, c, nodes)."""
    out = values.new_zeros(*values.shape[:2], nodes)
    index, share = node[:, None].expand_as(values), share[:, None]
    return out.scatter_add_(-1, index, values * (1 - share)).scatter_add_(-1, index + 1, values * share)
