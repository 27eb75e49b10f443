"""What is said of a value next to `exact` and `still`: at the floor, suspiciously good, or nothing.

With d the mean over shared seeds of (value - that of exact draws), where lower is better, its standard error s from
those of the judge, and D the same for `still`:

    told       D > 2 s: the metric tells `still` from exact draws on this task. Where it does not, it judges nothing
    floor      d <= 2 s, and |d| + 1.645 s < 5 % of D: not told from exact draws, and shown (two one-sided tests at 5 %,
               Schuirmann 1987) to be off by less than a twentieth of the way to not moving
    alarm      1. d < -4 s, unless the metric judges nothing
               2. two metrics (one, where there is no other) give to the last bit what they give `exact` under the same
                  seed, and not as a ratio of small whole numbers, which may happen by chance
               3. a metric that is a sum of squares, or its root, is further below the floor than independent draws are.
                  Their squared error is at least as spread as chi-squared of one degree of freedom around its mean, so
                  that with r the largest ratio over S seeds of a value to the least value of `exact`, no S runs have
                  P(chi2_1 <= r)^S < 1e-5 by chance

An unknown standard error (null) is unknown: no floor, and no alarm of the first kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from gwfbench.report.board.cells import NO_CELL, Cell, Key

ALARM = 4.0  # standard errors by which a method must beat the floor to be suspected
TOLD = 2.0  # standard errors of a difference that is seen
EQUIVALENT = 1.645  # one-sided 5 %
MARGIN = 0.05  # of the way from exact draws to not moving
CHANCE = 1e-5  # that independent draws are so far below the floor
SQUARES = ("symkl", "symkl_jko", "bures_w2", "sliced_w2", "w2", "fid", "moments_mean", "moments_covariance")


@dataclass(frozen=True)
class Gap:
    """By how much one contestant is worse than another in a metric: mean over the seeds that both have."""

    mean: float  # nan where they share no seeds or points
    se: float  # of the mean, by the judge; nan: unknown
    always: bool  # under every seed

    @property
    def told(self) -> bool | None:
        """Whether it is seen to be worse; without standard errors, whether it is under every seed; None: not known."""
        if math.isnan(self.mean):
            return None
        return self.always if math.isnan(self.se) else self.mean > TOLD * self.se


def gap(one: Cell, other: Cell, same_n: bool = True) -> Gap:
    """Of two cells; at different numbers of points they are compared only where that is asked for."""
    seeds = one.values.keys() & other.values.keys()
    if not seeds or (same_n and one.n != other.n) or other.worst.keys() & seeds:
        return Gap(math.nan, math.nan, False)
    sign = -1 if one.better == "higher" else 1
    gaps = [sign * (one.values[seed][0] - other.values[seed][0]) for seed in seeds]
    errors = [cell.values[seed][1] for cell in (one, other) for seed in seeds]
    se = math.sqrt(sum(error**2 for error in errors)) / len(seeds)
    return Gap(math.fsum(gaps) / len(seeds), se, min(gaps) > 0)


def judged(found: Mapping[Key, Mapping[str, Cell]]) -> dict[Key, dict[str, Cell]]:
    """The cells, by (task, method) and metric, with all that `exact` and `still` of the same kind say of them."""
    floors: dict[tuple[str, str, Key], Cell] = {}
    stills: dict[tuple[str, str, Key], Cell] = {}
    for (task, method), own in found.items():
        for metric, cell in own.items():
            if cell.role == "floor":
                floors[task, metric, cell.kind] = cell
            elif cell.role == "control" and method.partition(" ")[0] == "still":
                stills[task, metric, cell.kind] = cell
    ways = {key: gap(still, floors.get(key, NO_CELL), same_n=False) for key, still in stills.items()}
    nowhere = Gap(math.nan, math.nan, False)
    done: dict[Key, dict[str, Cell]] = {}
    for (task, method), own in found.items():
        at = {metric: floors.get((task, metric, cell.kind), NO_CELL) for metric, cell in own.items()}
        copies = set(_copies(own, at))
        done[task, method] = {}
        for metric, cell in own.items():
            way = ways.get((task, metric, cell.kind), nowhere)
            cell = replace(cell, told=way.told)
            if cell.role == "method":
                cell = _verdict(metric, cell, at[metric], way, metric in copies)
            done[task, method][metric] = cell
    return done


def _verdict(metric: str, mine: Cell, floor: Cell, way: Gap, copied: bool) -> Cell:
    off = gap(mine, floor)
    if copied:
        return replace(mine, verdict="alarm", why="the same to the last bit as that of exact draws under this seed")
    if metric in SQUARES and _too_low(mine, floor, way.mean):
        return replace(mine, verdict="alarm", why="further below the noise floor than independent draws can be")
    if math.isnan(off.mean) or math.isnan(off.se):
        return mine
    rounding = 1e-9 * max(abs(value) for value, _ in floor.values.values())
    if way.told is not False and off.mean < -ALARM * off.se - rounding:
        return replace(mine, verdict="alarm", why="better than exact draws of the truth by more than sampling error")
    near = off.mean <= TOLD * off.se + rounding and abs(off.mean) + EQUIVALENT * off.se < MARGIN * way.mean
    return replace(mine, verdict="floor") if near and way.told else mine


def _copies(own: Mapping[str, Cell], floors: Mapping[str, Cell]) -> Iterator[str]:
    """Metrics in which a method has the value of exact draws, under a seed under which that is no chance."""
    same: dict[int, list[str]] = {}
    shared: dict[int, int] = {}
    for metric, cell in own.items():
        for seed in cell.values.keys() & floors[metric].values.keys() if cell.role == "method" else ():
            value = cell.values[seed][0]
            shared[seed] = shared.get(seed, 0) + 1
            if value == floors[metric].values[seed][0] and _fine(value, cell.n):
                same.setdefault(seed, []).append(metric)
    for seed, metrics in same.items():
        if len(metrics) > 1 or shared[seed] == 1:
            yield from metrics


def _fine(value: float, n: float) -> bool:
    """Whether it is no ratio of small whole numbers, nor a share of n, but for single precision."""
    if value == 0 or not math.isfinite(value):
        return False
    near = float(Fraction(value).limit_denominator(1000))
    return abs(near - value) > 1e-7 * abs(value) and abs(value * n - round(value * n)) > 1e-7 * abs(value * n)


def _too_low(mine: Cell, floor: Cell, way: float) -> bool:
    from scipy.special import chdtr

    seeds = mine.values.keys() & floor.values.keys()
    least = min((floor.values[seed][0] for seed in seeds), default=0.0)
    if mine.n != floor.n or not seeds or not 1e-9 * abs(way) < least < math.inf:  # a floor of rounding is none
        return False
    ratio = max(mine.values[seed][0] for seed in seeds) / least
    return ratio < 1 and float(chdtr(1, max(ratio, 0.0))) ** len(seeds) < CHANCE
