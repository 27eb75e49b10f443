"""How long the runs of one call will still take: by what they have taken so far, and before that by earlier runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

Runs = tuple[str, str]  # those of a task and a method, as rows name them


class Pace:
    """Learns from each run that ends.

    Args:
        expected: seconds of a run, from earlier ones, on whatever machine.
    """

    def __init__(self, expected: Mapping[Runs, float]):
        self._expected = dict(expected)
        self._took: dict[Runs, list[float]] = defaultdict(list)

    def ended(self, of: Runs, seconds: float) -> None:
        """A run has taken so long, from its start to its end."""
        self._took[of].append(seconds)

    def left(self, runs: Iterable[tuple[Runs, float]], at_once: int) -> float:
        """Seconds until all is done; nan where nothing is known.

        Args:
            runs: that are not done, each with the share of it that is.
            at_once: how many of them may run at the same time.
        """
        slower = [statistics.median(took) / self._expected[kind] for kind, took in self._took.items()
                  if self._expected.get(kind)]  # fmt: skip
        speed = statistics.median(slower) if slower else 1.0
        known = [second for took in self._took.values() for second in took] or [*self._expected.values()]
        usual = statistics.fmean(known) if known else math.nan
        total, count = 0.0, 0
        for kind, share in runs:
            took = self._took.get(kind)
            each = statistics.median(took) if took else speed * self._expected.get(kind, usual / speed)
            total, count = total + (1 - share) * each, count + 1
        return total / max(1, min(at_once, count))
