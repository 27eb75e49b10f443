"""Laws that are particles."""

from __future__ import annotations

from torch import Tensor

from gwfbench.rng import Streams


def first(x: Tensor, n: int, _rng: Streams) -> Tensor:
    """The first n of the particles x (S, N, ...): what `Drawn.draw` is of a law with a limit.

    Raises:
        ValueError: there are fewer; repeating some would spoil every two-sample metric.
    """
    if n > x.shape[1]:
        raise ValueError(f"{n} points asked of {x.shape[1]} particles")
    return x[:, :n]
