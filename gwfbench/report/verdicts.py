"""Whether our runs give what a paper printed: the rule, and what it is able to tell.

With p the published value (or the range of its readings; of an estimate, its distance from the truth that the ledger
knows), [l, u] our 95 % interval over seeds (two seeds: their range; one: its value),

    band             [l - w, u + w],   w = rounding + 2 sqrt(ours^2 + theirs^2 + common^2)
    agreement        the band holds p
    power            the band's half width, and half the range of the readings, are together at most a quarter of
                     |p - still|, in logarithms where these are positive and a factor of ten apart: had the paper
                     printed the value of a method that comes three quarters of the way from P_0 to p, it would not
                     have agreed

where `ours` is the median standard error of our values, `theirs` the published spread over seeds divided by the root
of their number (of one, if it is not printed), and `common` the ledger's `error`. For a difference of two methods on
the same seeds and the same split, p - 0 stands for p - still, the rule asks that 0 lies outside the band, and `common`
is the error that two test parts of m rows leave in a difference of two accuracies, sqrt(2 q / m), where q is the share
of rows that only one of the two predicts right, at least |difference|.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gwfbench.papers.ledger import Answer, Number, Setting
from gwfbench.report import stats
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.leaderboard import Line, Seeds

Word = Literal["reproduced", "consistent", "better", "not reproduced", "different", "not run"]  # in this order
SHARE = 0.25  # of the way from P_0 that a band may cover on either side
SEEDS = 3  # fewer prove nothing
DECADE = 10.0  # from P_0 to the value: from there on, the way is measured in logarithms
SETTINGS: Mapping[Setting, str] = {"paper": "", "quick": "cut setting", "ours": "own setting"}
FEW = {0: "no seed", 1: "one seed", 2: "two seeds"}
RULE = """\
**How to read this.** *agrees within*: the published values that would have agreed with ours: our 95 % interval over
seeds (two seeds: their range; one: its value), widened on both sides by rounding + 2 sqrt(ours² + theirs² + common²).
Rounding is half a unit of the last printed digit; ours, the median standard error of our values; theirs, the printed
standard deviation over seeds divided by the square root of their number (of one seed, if it is not printed; 0 if no
deviation is); common, an error that no interval over seeds shows, where a table states one.

*fails from*: the value of ours from which on, with the same interval about it, the published value would not have
agreed, and in parentheses how far that is on the way from the published value to that of not moving (`still`), in
logarithms where these are positive and a factor of ten apart. A method that is worse than ours, but not as bad as that,
would have had the same verdict. *truth*: what exact draws have (`exact`; where the exact JKO law is the truth, draws of
that). *commit*: of the code that made our rows; + says that it had changes that were not committed.

- **reproduced**: the published value agrees; the run has the paper's settings and at least 3 seeds; nothing was chosen
  by agreement with the table; and the band (with the range of the readings) is narrow: on either side at most a quarter
  of the distance from the published value to that of not moving (`still`), in logarithms where they are positive and a
  factor of ten apart.
- **consistent**: it agrees, but one of these does not hold. The words in parentheses say which: *own setting* and *cut
  setting* (not the paper's), *one seed*, *two seeds*, *choices fitted to this table*, *another method* (ours is not
  theirs), *band too wide to tell* and *power not known* (no run of `still`).
- **better**, **not reproduced**: it does not agree, and we are on the good side, or the bad side. A failed run of ours
  is on the bad side. **different**: the same on the bad side, but not at the paper's settings or not with 3 seeds.
- **not run**: folded below each table, with the reasons; what takes a GPU with the command that runs it.

A verdict compares two numbers. How they were obtained may differ: see the lines above each table, and the remarks."""
DIFFERENCES = """\
Differences of two methods on the same split, where the error of the split mostly cancels; ours: mean over seeds, with
its 95 % t interval. The band holds the published difference: it agrees. It holds 0 as well: *no advantage to be seen*,
as a method without any would have agreed too. For accuracies it includes the error that two test parts leave in a
difference. For log-likelihoods that error is not known, and not counted."""


@dataclass(frozen=True)
class Ours:
    """One metric of one run's seeds, in the unit of the published value."""

    value: float
    "over seeds, as boards have it"
    low: float
    high: float
    se: float
    "standard error, median over seeds; nan where unknown"
    seeds: Seeds

    @property
    def whole(self) -> bool:
        """Whether every seed finished, and there is a value."""
        return not self.seeds.failed and math.isfinite(self.value)


@dataclass(frozen=True)
class Verdict:
    """A word, and what keeps it from being more."""

    word: Word
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"**{self.word}**" + (f" ({'; '.join(self.why)})" if self.why else "")


NOT_RUN = Verdict("not run")


def judged(number: Number, setting: Setting, ours: Ours, still: float) -> Verdict:
    """The verdict on one number.

    Args:
        still: the value of not moving, in the unit of the published one; nan where it is not known.
    """
    caveats = [SETTINGS[setting]] + ([FEW[ours.seeds.finished]] if ours.seeds.finished < SEEDS else [])
    low, high = band(number, ours)
    agrees = ours.whole and low <= max(number.compared) and min(number.compared) <= high
    if agrees:
        caveats.append("choices fitted to this table" if number.fitted else "")
        caveats.append(_power(number, low, high, still))
    caveats.append("another method" if number.instead else "")
    why = tuple(filter(None, caveats))
    if agrees:
        return Verdict("consistent" if why else "reproduced", why)
    if ours.whole:
        least, most = min(number.compared), max(number.compared)
        ahead = high < least if number.better == "lower" else low > most
        if ahead:
            return Verdict("better", why)
    return Verdict("different" if why else "not reproduced", why)


def band(number: Number, ours: Ours) -> tuple[float, float]:
    """The published values that would agree with ours, from and to."""
    w = margin(number, ours) * (1 + 1e-12)
    return ours.low - w, ours.high + w


def margin(number: Number, ours: Ours) -> float:
    """The amount by which our interval is widened on both sides."""
    se = 0.0 if math.isnan(ours.se) else ours.se
    return number.rounding + 2 * math.hypot(se, number.spread / math.sqrt(number.seeds), number.error)


def fails_from(number: Number, ours: Ours) -> float:
    """The value of ours from which on, with the same interval about it, the published one would not have agreed."""
    w = margin(number, ours)
    if number.better == "higher":
        return min(number.compared) - w - (ours.high - ours.value)
    return max(number.compared) + w + (ours.value - ours.low)


def reach(number: Number, ours: Ours, still: float) -> float:
    """How far `fails_from` is on the way from the published value to that of not moving; nan where there is no way."""
    start = min(number.compared) if number.better == "higher" else max(number.compared)
    end, sign = fails_from(number, ours), -1 if number.better == "higher" else 1
    if not sign * (still - start) > 0:
        return math.nan
    if number.scale != "log10" and min(start, still) > 0 and not 1 / DECADE < still / start < DECADE:
        start, end, still = (math.log(x) if x > 0 else math.nan for x in (start, end, still))
    return (end - start) / (still - start)


def _power(number: Number, low: float, high: float, still: float) -> str:
    """Why agreement says little; empty where it says enough."""
    if math.isnan(still):
        return "power not known"
    least, most = min(number.compared), max(number.compared)
    if number.scale != "log10" and min(least, still) > 0 and not 1 / DECADE < still / most < DECADE:
        if low <= 0:
            return "band too wide to tell"
        low, high, least, most, still = (math.log(x) for x in (low, high, least, most, still))
    away = min(abs(least - still), abs(most - still))
    return "" if (high - low + most - least) / 2 <= SHARE * away else "band too wide to tell"


def of_line(number: Number, line: Line) -> Ours:
    """What a line of a board says about a number, in the number's unit."""
    cell = line.cells.get(number.metric, NO_CELL)
    errors = [se for _, se in cell.values.values() if not math.isnan(se)]
    se = statistics.median(errors) if errors else math.nan
    value = cell.value
    low, high = (value if math.isnan(end) else end for end in (cell.low, cell.high))  # of one seed
    if number.scale == "log10":
        se = se / (value * math.log(10)) if value > 0 else math.nan
    elif number.scale == "half":
        se = se / 2
    value, low, high = (in_unit(number, x) for x in (value, low, high))
    return Ours(value, low, high, se, line.seeds)


def in_unit(number: Number, value: float) -> float:
    """A value of our metric in the unit of the published one."""
    if number.scale != "log10":
        return value / 2 if number.scale == "half" else value
    return math.log10(value) if value > 0 else math.nan


@dataclass(frozen=True)
class Difference:
    """What a paper claims for one method over another, in one metric of one row, and ours."""

    first: Number
    second: Number
    published: float
    ours: float
    "mean over the seeds that both have"
    low: float
    high: float
    seeds: int
    setting: Setting

    @property
    def band(self) -> tuple[float, float]:
        return self.low, self.high


def difference(first: Number, second: Number, one: tuple[Answer, Line], other: tuple[Answer, Line]) -> Difference:
    """The published difference of two numbers next to that of two lines of one board, paired by seed."""
    a, b = (line.cells.get(first.metric, NO_CELL).values for _, line in (one, other))
    both = sorted(a.keys() & b.keys())
    mean, half = stats.paired({seed: a[seed][0] - b[seed][0] for seed in both})
    errors = [math.hypot(a[seed][1], b[seed][1]) for seed in both]
    se = statistics.median(errors) if errors else math.nan
    published = first.compared[0] - second.compared[0]
    apart = max(abs(published), 0.0 if math.isnan(mean) else abs(mean))
    split = math.sqrt(2 * apart / first.rows) if first.rows and first.metric == "accuracy" else 0.0
    w = first.rounding + second.rounding + 2 * math.hypot(0.0 if math.isnan(se) else se, split)
    half = 0.0 if math.isnan(half) else half
    weakest = max((one[0].setting, other[0].setting), key=list(SETTINGS).index)
    return Difference(first, second, published, mean, mean - half - w, mean + half + w, len(both), weakest)


def judged_difference(gap: Difference) -> Verdict:
    """The verdict on a claimed difference."""
    caveats = [SETTINGS[gap.setting]] + ([FEW[gap.seeds]] if gap.seeds < SEEDS else [])
    agrees = gap.low <= gap.published <= gap.high
    if agrees:
        caveats.append("choices fitted to this table" if gap.first.fitted else "")
        caveats.append("no advantage to be seen" if gap.low <= 0 <= gap.high else "")
    why = tuple(filter(None, caveats))
    if agrees:
        return Verdict("consistent" if why else "reproduced", why)
    sign = 1 if gap.first.better == "higher" else -1
    if sign * gap.ours > sign * gap.published:
        return Verdict("better", why)
    return Verdict("different" if why else "not reproduced", why)
