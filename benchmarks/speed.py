"""asv benchmarks: every piece of work of benchmarks/works.py in units, as `python -m benchmarks.units` has it."""

from __future__ import annotations

from statistics import median

from benchmarks.pieces import WHOLE, settle, timed
from benchmarks.works import WORKS


class Speed:
    """CPU seconds of the work over those of the unit, 400 x (1024x64 @ 64x64 + tanh), one thread."""

    params = tuple(WORKS)
    param_names = ("work",)
    timeout = 900

    def setup(self, name: str) -> None:
        settle()
        work = WORKS[name]
        self.round, self.scale = work.start(work.part), work.part * work.times

    def track_units(self, name: str) -> float:
        """Median of three rounds."""
        rounds = [timed(self.round, self.scale) for _ in range(3)]
        return median(one.parts[WHOLE] / one.unit for one in rounds)

    track_units.unit = "units"  # type: ignore[attr-defined]
