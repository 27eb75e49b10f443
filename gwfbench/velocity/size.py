"""The size of P_0's coordinates: the scale at which a method that draws its own first law starts."""

from __future__ import annotations

from torch import Tensor

from gwfbench.info import Initial
from gwfbench.protocol import Problem
from gwfbench.rng import Streams

START = 4096  # draws
QUARTILE = 0.6744897501960817  # median of |N(0, 1)|


def coordinate_size(problem: Problem, rng: Streams) -> Tensor:
    """Standard deviation of the centred normal law whose coordinates have P_0's median size, (S,).

    A median, because one draw of a prior with heavy tails would decide a variance.
    """
    draws = problem[Initial].draw(START, rng)
    return draws.abs().flatten(1).median(1).values / QUARTILE
