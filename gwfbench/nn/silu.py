"""Perceptrons with SiLU activations: the generators and critics of the sample-side methods."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.rng import Streams


class SiLU:
    """S perceptrons, (S, n, sizes[0]) -> (S, n, sizes[-1]), SiLU after each layer but the last.

    Args:
        sizes: widths, input and output included.
        rng: draws the initial weights, as `torch.nn.Linear` does.
    """

    def __init__(self, sizes: tuple[int, ...], rng: Streams):
        self.parameters = Stacked([part for d_in, d_out in pairwise(sizes) for part in linear_init(rng, d_in, d_out)])

    def __call__(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Values at x; `frozen` cuts the parameters from the gradient."""
        leaves = [leaf.detach() for leaf in self.parameters.leaves] if frozen else self.parameters.leaves
        for i in range(0, len(leaves), 2):
            x = torch.baddbmm(leaves[i + 1], x if i == 0 else F.silu(x), leaves[i])
        return x
