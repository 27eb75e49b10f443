"""What a board of a few seeds can tell: intervals, pairwise tests, tiers, detectable differences, scores, profiles.

A replicate is a seed, and seeds are paired: methods see the same problem and the same evaluation noise under one seed.

    test       paired t on the differences over the seeds that both have, of logarithms where all values are positive.
               A permutation test's p is at least 2^(1 - S), 0.06 for five seeds: it could never tell two methods apart
    Holm       of all pairs on a board at once (Holm 1979), level 5 %
    tiers      letters: methods that share one are not told apart (compact letter display, Piepho 2004); all others are
    failures   a failed seed counts as the worst value on its board, `still` included; so does one without a value
    no spread  is no evidence: where the differences vary by no more than rounding does (to whole counts, if the board
               has these), p is that of their signs, 2^(1 - S)
    interval   of the median. 6 seeds or more: from the k-th smallest value to the k-th largest, with the largest k for
               which P(Bin(S, 1/2) < k) <= 2.5 %: at least 95 % for every continuous law. 3 to 5 seeds have no such k:
               there the t interval of the mean, of logarithms where all values are positive, which holds the median of
               a (log-)normal law in 95 % of cases, and always the median of the values. 2 seeds: their range
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from functools import cache
from itertools import combinations
from string import ascii_lowercase

import numpy as np

LEVEL = 0.05
POWER = 0.8  # of a detectable difference
DIGITS = 3  # printed of a value
SAME = 1e-9  # of their mean: differences with less spread are equal but for rounding

Values = Mapping[str, Mapping[int, float]]  # by contestant and seed; nan or inf is a failure


def on_scale(values: Values, others: Iterable[float] = ()) -> tuple[dict[str, dict[int, float]], bool]:
    """The values with failures made the worst on the board, and whether they are logarithms now.

    Args:
        values: lower must be better, here and below.
        others: values of others (controls) on the same board.
    """
    every = [*others, *(value for seeds in values.values() for value in seeds.values())]
    finite = [value for value in every if math.isfinite(value)]
    worst = max(finite, default=0.0)
    positive = bool(finite) and min(finite) > 0
    scale = math.log if positive else float
    return {
        name: {seed: scale(value if math.isfinite(value) else worst) for seed, value in seeds.items()}
        for name, seeds in values.items()
    }, positive


def resolution(values: Iterable[float]) -> float:
    """The unit of which all differences of these values are multiples, within rounding; 0 where there is none.

    It is that of whole counts, or shares of them. Euclid's algorithm, with remainders below 1e-6 taken for 0.
    """
    known = np.unique([value for value in values if math.isfinite(value)])
    least = 1e-6 * float(np.abs(known).max(initial=0.0))
    unit = 0.0
    for gap in np.diff(known).tolist():
        rest = gap if gap > least else 0.0
        while rest > least:
            over = unit % rest
            unit, rest = rest, min(over, rest - over)
        if 0 < unit < 100 * least:
            return 0.0
    return unit


def differs(a: Mapping[int, float], b: Mapping[int, float], unit: float = 0.0, logs: bool = False) -> float:
    """Two-sided p of the paired t test of equal means, over the seeds that both have; 1 where there are not two.

    Args:
        unit: resolution of the values; differences that vary by no more than rounding to it have no spread.
        logs: these are logarithms of the values.
    """
    from scipy.special import stdtr

    seeds = a.keys() & b.keys()
    pairs = np.array([[a[seed], b[seed]] for seed in seeds])
    if len(pairs) < 2 or not (gaps := pairs[:, 0] - pairs[:, 1]).any():
        return 1.0
    deviation, mean = float(gaps.std(ddof=1)), abs(float(gaps.mean()))
    rounding = np.full_like(pairs, unit)
    if logs and unit:  # and of a value below the unit, not more than all of it
        rounding = np.exp(np.minimum(math.log(unit) - pairs, 0.0))
    if deviation <= max(SAME * mean, math.sqrt((rounding**2).sum(1).mean() / 12)):
        return 2.0 ** (1 - len(gaps)) if (gaps > 0).all() or (gaps < 0).all() else 1.0
    return float(2 * stdtr(len(gaps) - 1, -mean * math.sqrt(len(gaps)) / deviation))


def paired(gaps: Mapping[int, float]) -> tuple[float, float]:
    """Mean of differences over seeds, and half the width of its 95 % t interval; nan where they have no spread."""
    from scipy.special import stdtrit

    values = np.array(list(gaps.values()))
    if len(values) < 2:
        return float(values.mean()) if len(values) else math.nan, math.nan
    half = float(stdtrit(len(values) - 1, 1 - LEVEL / 2)) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(half) if half > SAME * abs(values.mean()) else math.nan


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the order given."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def told_apart(values: Values, others: Iterable[float] = ()) -> set[frozenset[str]]:
    """The pairs of contestants whose difference is no noise, at 5 % for all pairs together."""
    others = list(others)
    scaled, logs = on_scale(values, others)
    unit = resolution([*others, *(value for seeds in values.values() for value in seeds.values())])
    pairs = list(combinations(scaled, 2))
    corrected = holm([differs(scaled[a], scaled[b], unit, logs) for a, b in pairs])
    return {frozenset(pair) for pair, p in zip(pairs, corrected, strict=True) if p < LEVEL}


def tiers(
    values: Values, others: Iterable[float] = (), apart: Iterable[frozenset[str]] | None = None
) -> dict[str, str]:
    """Letters by contestant, best first: two that share a letter are not told apart, and two that don't are.

    Args:
        apart: what `told_apart` says, if it is known.
    """
    scaled, _ = on_scale(values, others)
    order = sorted(scaled, key=lambda name: float(np.median(list(scaled[name].values()) or [math.inf])))
    groups = {frozenset(order)}
    for pair in told_apart(values, others) if apart is None else apart:
        both = [group for group in groups if pair <= group]
        kept = groups.difference(both)
        split = {group - {name} for group in both for name in pair}
        rivals = kept | split
        groups = kept | {part for part in split if not any(part < other for other in rivals)}
    ranked = sorted(groups, key=lambda group: sorted(order.index(name) for name in group))
    return {name: "".join(_letter(i) for i, group in enumerate(ranked) if name in group) for name in order}


def _letter(i: int) -> str:
    """a ... z, then a1 ... z1 and so on."""
    return ascii_lowercase[i % 26] + (str(i // 26) if i >= 26 else "")


def detectable(values: Values, others: Iterable[float] = ()) -> tuple[float, bool]:
    """The smallest difference of two methods that such a board sees in 80 % of cases, with Holm's first level for all
    of its pairs, and whether it is a factor (of logarithms) or a difference; nan where no two methods share two seeds,
    or none differ by more than a constant.

    The median over pairs, by the spread of their differences and the seeds that both have.
    """
    scaled, logs = on_scale(values, others)
    pairs = list(combinations(scaled.values(), 2))
    found = []
    for a, b in pairs:
        gaps = [a[seed] - b[seed] for seed in a.keys() & b.keys()]
        found.append(_needed(len(gaps), len(pairs)) * float(np.std(gaps, ddof=1)) if len(gaps) >= 2 else math.inf)
    gap = float(np.median(found)) if found else 0.0
    if not 0 < gap < math.inf:
        return math.nan, logs
    return (math.exp(gap) if gap < 700 else math.inf) if logs else gap, logs


@cache
def _needed(seeds: int, pairs: int) -> float:
    """The detectable difference, in units of the median spread of its values over so many seeds."""
    from scipy.special import chdtri, nctdtr, stdtrit

    bar = float(stdtrit(seeds - 1, 1 - LEVEL / pairs / 2))
    low, needed = 0.0, 3 * bar + 10
    while low < (middle := (low + needed) / 2) < needed:  # scipy.stats has this too, and takes half a second to load
        low, needed = (middle, needed) if nctdtr(seeds - 1, middle, bar) > 1 - POWER else (low, middle)
    spread = math.sqrt(float(chdtri(seeds - 1, 0.5)) / (seeds - 1))  # the median of so few, in standard deviations
    return needed / spread / math.sqrt(seeds)


def score(value: float, exact: float, still: float) -> float:
    """Where a value stands between the truth's, 0, and that of not moving, 1; held to [0, 1], a failure is 1."""
    if not math.isfinite(value):
        return 1.0
    if still == exact:
        return math.nan
    return min(1.0, max(0.0, (value - exact) / (still - exact)))


def profile(costs: Mapping[str, Sequence[float]], factors: Iterable[float]) -> dict[str, list[float]]:
    """Performance profiles (Dolan and More 2002): share of its problems that each solves within a factor of the best.

    Args:
        costs: by contestant, one a problem in the same order; inf where it does not solve it, nan where it was not run.
        factors: at which the share is taken, from 1.
    """
    factors = list(factors)
    best = [
        min((c for c in column if not math.isnan(c)), default=math.nan) for column in zip(*costs.values(), strict=True)
    ]
    found = {}
    for name, row in costs.items():
        ran = [(c, b) for c, b in zip(row, best, strict=True) if not math.isnan(c)]
        found[name] = [
            sum(math.isfinite(c) and c <= factor * b for c, b in ran) / len(ran) if ran else math.nan
            for factor in factors
        ]
    return found


def to_target(curve: Sequence[tuple[float, float]], target: float) -> float:
    """The least cost at which a curve of (cost, value), lower better, is at the target; inf if never."""
    return min((cost for cost, value in curve if value <= target), default=math.inf)


def interval(values: Sequence[float], logs: bool = False) -> tuple[float, float]:
    """The interval of the median of sorted values, by the rules on top; nan for one value, the range of two.

    Args:
        values: an infinite one is worse or better than all others.
        logs: whether values of this kind are always positive.
    """
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    if count == 2 or values[0] == values[-1]:
        return values[0], values[-1]
    if count >= 6:
        k = _inward(count)
        return values[k], values[-1 - k]
    if not (math.isfinite(values[0]) and math.isfinite(values[-1])):
        return 0.0 if logs and values[0] > 0 else -math.inf, math.inf
    from scipy.special import stdtrit

    x = np.log(values) if logs else np.array(values)
    half = float(stdtrit(count - 1, 1 - LEVEL / 2)) * float(x.std(ddof=1)) / math.sqrt(count)
    low, high = (_exp(end) if logs else end for end in (float(x.mean()) - half, float(x.mean()) + half))
    middle = values[count // 2 - (count % 2 == 0)], values[count // 2]  # of rounding: they are always inside
    return min(low, middle[0]), max(high, middle[1])


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@cache
def _inward(count: int) -> int:
    """By how many values from both ends the interval of the median begins."""
    k, ways, below, whole = 0, 1, 0, 2**count  # in how many of all ways have at most k values fallen on one side
    while (below := below + ways) / whole < LEVEL / 2:
        k, ways = k + 1, ways * (count - k) // (k + 1)
    return k - 1


def rounded(value: float, way: str = ROUND_HALF_EVEN) -> str:
    """Three significant digits, of the shortest decimal that is this number."""
    if not math.isfinite(value):
        return f"{value:g}"
    return f"{float(Context(prec=DIGITS, rounding=way).create_decimal(repr(value))) + 0.0:.{DIGITS}g}"


def outwards(low: float, high: float) -> tuple[str, str]:
    """The ends of an interval with the digits of `rounded`, rounded so that it holds what it held."""
    return rounded(low, ROUND_FLOOR), rounded(high, ROUND_CEILING)
