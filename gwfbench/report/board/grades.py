"""Tiers by one metric: letters, or why there are none."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gwfbench.report import stats
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.lines import Line

FACTOR = 3.0  # a board has too few seeds for letters if it can't find this, unless it has found a difference
SHARE = 0.5  # of the way from exact to still, likewise, where values are not all positive
FEW, FAILED, UNTOLD, ALONE = (
    "too few seeds", "no seed has a value", "the metric does not tell still from exact", "no method to compare it with",
)  # fmt: skip


@dataclass(frozen=True)
class Grade:
    """A method's letters in one metric, and the difference that its seeds would show, in words."""

    tier: str
    detectable: str
    why: str  # there are no letters
    weak: bool = False  # there are, but the board could not tell a factor of three: to share one says little


def grades(lines: Sequence[Line], metric: str) -> dict[str, Grade]:
    """Tiers by one metric, and the difference that the seeds would show; by method.

    Methods are compared with those that use the same information about the target alone. One that has no value at all
    is told apart from the others by that, and not by a test.

    Args:
        lines: of one task.
    """
    own = {line.method: line.cells[metric] for line in lines if metric in line.cells}
    sign = -1 if any(cell.better == "higher" for cell in own.values()) else 1
    everyone = [sign * value for cell in own.values() for value, _ in cell.values.values()]
    way = _way(lines, metric)
    untold = any(cell.told is False for cell in own.values())
    groups: dict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    found: dict[str, Grade] = {}
    for line in lines:
        if line.role != "method" or not (line.method in own or line.seeds.failed):
            continue
        known = {seed: sign * value for seed, (value, _) in own.get(line.method, NO_CELL).values.items()}
        if any(map(math.isfinite, known.values())):
            groups[line.of_target][line.method] = dict.fromkeys(line.seeds.failed, math.nan) | known
        else:
            found[line.method] = Grade("", "", FAILED)
    for values in groups.values():
        found |= _group(values, everyone, way, untold)
    return found


def _group(
    values: Mapping[str, Mapping[int, float]], everyone: Sequence[float], way: float, untold: bool
) -> dict[str, Grade]:
    """Grades of methods that use the same information."""
    if len(values) == 1:
        return dict.fromkeys(values, Grade("", "", UNTOLD if untold else ALONE))
    gap, is_factor = stats.detectable(values, everyone)
    words = "" if math.isnan(gap) else f"a factor of {gap:.3g}" if is_factor else f"{gap:.2g}"
    bar = FACTOR if is_factor else math.inf if math.isnan(way) else SHARE * way
    apart = stats.told_apart(values, everyone)
    weak = not gap <= bar  # nan: it is not known
    why = UNTOLD if untold else FEW if weak and not apart else ""
    letters = {} if why else stats.tiers(values, everyone, apart)
    return {method: Grade(letters.get(method, ""), words, why, weak) for method in values}


def _way(lines: Sequence[Line], metric: str) -> float:
    """How far still is from exact draws; nan where it is not known."""
    ends = [
        [line.value(metric) for line in lines if line.spec == "still"],
        [line.value(metric) for line in lines if metric in line.cells and line.cells[metric].role == "floor"],
    ]
    return abs(ends[0][0] - ends[1][0]) if all(ends) else math.nan
