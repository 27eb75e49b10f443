"""What a comparison with a public package is: two ways to do the same work, and what is read off the two results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gwfbench.plugins import registry
from gwfbench.protocol import Instance
from gwfbench.rng import Streams

Kind = Literal["error", "value"]  # lower is better, or: should be equal


@dataclass(frozen=True)
class Found:
    """One number of both sides.

    Args:
        exact: that of exact draws, for an error; None: 0.
    """

    kind: Kind
    theirs: float
    ours: float
    exact: float | None = None


@dataclass(frozen=True)
class Sides:
    """The work under one seed. What is not timed was done before.

    Args:
        theirs, ours: what is timed.
        judge: of what they gave: quantity -> both numbers.
        calls: points passed to the gradient on each side, of what they gave; None: it isn't counted.
    """

    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    judge: Callable[[Any, Any], Mapping[str, Found]]
    calls: Callable[[Any, Any], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Case:
    """A line of the page.

    Args:
        peer: the distribution, as pip names it.
        theirs, ours: what is called.
        start: what happens once; gives the work of a seed.
        small: the same, in a second or two, for a test.
        modules: that must be there.
    """

    name: str
    peer: str
    problem: str
    setting: str
    theirs: str
    ours: str
    start: Callable[[], Callable[[int], Sides]]
    small: Callable[[], Callable[[int], Sides]]
    modules: tuple[str, ...]


def built(task: str, seed: int) -> tuple[Instance, Streams]:
    """A task under one seed, and noise for a method."""
    rng = Streams((seed,))
    return registry.parse("task", task).build(rng.fork("task")), rng.fork("method")
