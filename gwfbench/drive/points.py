"""The runner's own points: pushed along by each law, or drawn from it; a method never sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gwfbench.info import Initial
from gwfbench.protocol import Drawn, Problem, Pushed
from gwfbench.rng import Streams

CHUNK = 65536  # points pushed or drawn at once


class BadLaw(Exception):
    """The method yielded what the contract does not allow."""


@dataclass
class Cloud:
    """Points (S, n, ...) and their log-densities (S, n) under the last law pushed; `whole` while all are at one law."""

    points: Tensor | None = None
    log_prob: Tensor | None = None
    whole: bool = True

    def push(self, law: Pushed, step: int, n: int, problem: Problem, streams: Streams) -> tuple[Tensor, Tensor | None]:
        """Move all points, in place, by law number `step`; the first one finds n draws of P_0."""
        if self.points is None:
            if step > 1:
                raise BadLaw("it yielded Pushed after Drawn; Pushed needs the law before it to be Pushed, or the first")
            start = problem[Initial]
            drawn = start.draw(n, streams.fork("start"))
            self.points = drawn.clone(memory_format=torch.contiguous_format)  # ours, to move in place
            self.log_prob = start.log_prob(self.points) if start.log_prob else None
        if law.log_det is None:
            self.log_prob = None
        noise = streams.fork(f"push/{step}")
        for first in range(0, n, CHUNK):
            part = self.points[:, first : first + CHUNK]
            log_det = law.log_det(part) if law.log_det is not None and self.log_prob is not None else None
            moved = law.push(part, noise)
            _require_shape("push", moved, part.shape)
            self.whole = False
            part.copy_(moved)
            if log_det is not None and self.log_prob is not None:
                self.log_prob[:, first : first + CHUNK] -= log_det
        self.whole = True
        return self.points, self.log_prob


def draw(law: Drawn, step: int, n: int, problem: Problem, streams: Streams) -> tuple[Tensor, Tensor | None]:
    """Points of law number `step`, at most as many as it has, and their log-densities."""
    noise, n = streams.fork(f"draw/{step}"), min(n, law.limit or n)
    parts = []
    for count in [n] if law.limit else [min(CHUNK, n - first) for first in range(0, n, CHUNK)]:
        parts.append(law.draw(count, noise))
        _require_shape("draw", parts[-1], (len(streams.seeds), count, *problem.shape))
    points = torch.cat(parts, 1)
    density = law.log_prob
    return points, None if density is None else torch.cat([density(part) for part in points.split(CHUNK, 1)], 1)


def _require_shape(what: str, got: Tensor, expected: tuple[int, ...]) -> None:
    if not isinstance(got, Tensor) or tuple(got.shape) != tuple(expected):
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise BadLaw(
            f"its {what} gave {shape}; expected (S, n, ...) = {tuple(expected)}"
            + (
                f"; a law that has only {got.shape[1]} points says so: Drawn(..., limit={got.shape[1]})"
                if what == "draw" and isinstance(got, Tensor) and got.ndim > 1 and got.shape[1] < expected[1]
                else ""
            )
        )
