"""One contestant on one task: a line of a board."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gwfbench.report.board.cells import Cell

ROLES = ("method", "floor", "control")  # what a contestant with several, by metric, is first


@dataclass(frozen=True)
class Seeds:
    """How many seeds finished, and how the others ended; one that was killed has not failed."""

    finished: int
    failed: Mapping[int, str] = field(default_factory=dict)  # status by seed
    worst: int = 0  # finished ones without a value in some metric
    killed: int = 0

    def __str__(self) -> str:
        """As on the board: `3/5, 2 oom`."""
        reasons = "".join(f", {count} {status}" for status, count in Counter(self.failed.values()).most_common())
        worst = f", {self.worst} without a value" if self.worst else ""
        killed = f", {self.killed} killed" if self.killed else ""
        return f"{self.finished}/{self.finished + len(self.failed) + self.killed}{reasons}{killed}{worst}"


@dataclass(frozen=True)
class Line:
    """One contestant on one task."""

    method: str  # its name on the board
    spec: str  # as a user types it
    role: str
    information: str  # used by any of its runs
    seeds: Seeds
    costs: Mapping[str, float]  # COSTS, medians over runs
    cells: Mapping[str, Cell]  # by metric; none for a metric that no finished run has
    tier: str = ""  # by the first metric among methods of the same information: letters (`stats.tiers`)
    detectable: str = ""  # difference that the seeds would show in the first metric (`stats.detectable`), in words

    @property
    def of_target(self) -> str:
        """What it uses of the target: P_0, which all may use, says nothing about it."""
        return " ".join(name for name in self.information.split() if name != "Initial")

    def value(self, metric: str) -> float:
        """The median; nan where there is none."""
        return self.cells[metric].value if metric in self.cells else math.nan
