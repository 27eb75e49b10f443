"""The runner's own points: pushed along by each law, or drawn from it; a method is given copies of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gwfbench.drive.contract import BadLaw, require_shape
from gwfbench.info import Field, Initial
from gwfbench.protocol import Drawn, Problem, Pushed
from gwfbench.rng import Streams

CHUNK = 65536  # points pushed or drawn at once


@dataclass
class Cloud:
    """Points (S, n, ...) and the log-densities of the first, (S, m), under the last law pushed.

    `whole` while all are at one law.

    Args:
        maps: inverse and log_det of each law pushed so far, in this order; None once one has none, or once the laws
            before are gone, as they are when a run goes on from a checkpoint.
        start: the log-density of P_0.
    """

    points: Tensor | None = None
    log_prob: Tensor | None = None
    whole: bool = True
    maps: list[tuple[Field, Field]] | None = None
    start: Field | None = field(default=None, repr=False)

    @property
    def density(self) -> Field | None:
        """The log-density of the last law pushed, anywhere: its points pulled back to P_0, by the maps of today."""
        maps, start = self.maps, self.start
        if maps is None or start is None:
            return None
        back = tuple(reversed(maps))

        def log_prob(y: Tensor) -> Tensor:
            volume = torch.zeros(y.shape[:2], dtype=y.dtype, device=y.device)
            for inverse, log_det in back:
                y = inverse(y)
                volume = volume + log_det(y)
            return start(y) - volume

        return log_prob

    def push(
        self, law: Pushed, step: int, n: int, m: int, problem: Problem, streams: Streams
    ) -> tuple[Tensor, Tensor | None]:
        """Move all points, in place, by law number `step`; the first one finds n draws of P_0.

        Args:
            m: number of points that get log-densities.
        """
        if self.points is None:
            if step > 1:
                raise BadLaw("it yielded Pushed after Drawn", "Pushed after Pushed, or first", "yield one kind only")
            start = problem[Initial]
            drawn = start.draw(n, streams.fork("start"))
            self.points = drawn.clone(memory_format=torch.contiguous_format)  # ours, to move in place
            self.log_prob = start.log_prob(self.points[:, :m].clone()) if start.log_prob else None
            self.maps, self.start = [], start.log_prob
        if law.log_det is None:
            self.log_prob = None
        if law.inverse is None or law.log_det is None:
            self.maps = None
        elif self.maps is not None:
            self.maps.append((law.inverse, law.log_det))
        volume = law.log_det if self.log_prob is not None else None
        noise = streams.fork(f"push/{step}")
        for first in range(0, n, CHUNK):
            part = self.points[:, first : first + CHUNK]
            # what the method is given it may keep and overwrite
            log_det = volume(part[:, : m - first].clone()) if volume is not None and first < m else None
            moved = law.push(part.clone(), noise)
            require_shape("push", moved, part.shape)
            self.whole = False
            part.copy_(moved)
            if log_det is not None and self.log_prob is not None:
                self.log_prob[:, first : min(first + CHUNK, m)] -= log_det
        self.whole = True
        return self.points, self.log_prob


def draw(law: Drawn, step: int, n: int, m: int, problem: Problem, streams: Streams) -> tuple[Tensor, Tensor | None]:
    """Points of law number `step`, at most as many as it has, and the log-densities of the first m."""
    noise, n = streams.fork(f"draw/{step}"), min(n, law.limit or n)
    parts = []
    for count in [n] if law.limit else [min(CHUNK, n - first) for first in range(0, n, CHUNK)]:
        parts.append(law.draw(count, noise))
        require_shape("draw", parts[-1], (len(streams.seeds), count, *problem.shape))
    points = torch.cat(parts, 1)  # a copy, also of one part
    density = law.log_prob
    if density is None:
        return points, None
    return points, torch.cat([density(part.clone()) for part in points[:, :m].split(CHUNK, 1)], 1)
