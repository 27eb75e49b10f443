"""What a board of a few seeds can tell: intervals, pairwise tests, tiers, detectable differences, scores, profiles.

A replicate is a seed, and seeds are paired: methods see the same problem and the same evaluation noise under one seed.

    test       paired t on the differences over the seeds that both have, of logarithms where all values are positive.
               A permutation test's p is at least 2^(1 - S), 0.06 for five seeds: it could never tell two methods apart
    Holm       of all pairs on a board at once (Holm 1979), level 5 %
    tiers      letters: methods that share one are not told apart (compact letter display, Piepho 2004); all others are
    failures   a failed seed counts as the worst value on its board, `still` included
    interval   percentile bootstrap of the median over S seeds, exactly and not by drawing: the sorted resample has
                   P(x*_(k) <= x_i) = P(Bin(S, i/S) >= k)
               and for even S = 2 m, where the median is the mean of the two in the middle,
                   P(x*_(m) <= x_i, x*_(m+1) <= x_j)
                       = P(Bin(S, i/S) > m) + C(S, m) (i/S)^m [(1 - i/S)^m - (1 - j/S)^m],   i <= j
               (Efron 1979; Hutson and Ernst 2000)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from string import ascii_lowercase

import numpy as np

LEVEL = 0.05
POWER = 0.8  # of a detectable difference

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


def differs(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Two-sided p of the paired t test of equal means, over the seeds that both have; 1 where there are not two."""
    from scipy.special import stdtr

    gaps = np.array([a[seed] - b[seed] for seed in a.keys() & b.keys()])
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    spread = gaps.std(ddof=1) / math.sqrt(len(gaps))
    if spread <= 1e-12 * abs(gaps.mean()):
        return 0.0
    return float(2 * stdtr(len(gaps) - 1, -abs(gaps.mean()) / spread))


def paired(gaps: Mapping[int, float]) -> tuple[float, float]:
    """Mean of differences over seeds, and half the width of its 95 % t interval; nan where there are not two."""
    from scipy.special import stdtrit

    values = np.array(list(gaps.values()))
    if len(values) < 2:
        return float(values.mean()) if len(values) else math.nan, math.nan
    half = float(stdtrit(len(values) - 1, 1 - LEVEL / 2)) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(half)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the order given."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def told_apart(values: Values, others: Iterable[float] = ()) -> set[frozenset[str]]:
    """The pairs of contestants whose difference is no noise, at 5 % for all pairs together."""
    scaled, _ = on_scale(values, others)
    pairs = list(combinations(scaled, 2))
    corrected = holm([differs(scaled[a], scaled[b]) for a, b in pairs])
    return {frozenset(pair) for pair, p in zip(pairs, corrected, strict=True) if p < LEVEL}


def tiers(values: Values, others: Iterable[float] = ()) -> dict[str, str]:
    """Letters by contestant, best first: two that share a letter are not told apart, and two that don't are."""
    scaled, _ = on_scale(values, others)
    order = sorted(scaled, key=lambda name: float(np.median(list(scaled[name].values()) or [math.inf])))
    groups = {frozenset(order)}
    for pair in told_apart(values, others):
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
    """The smallest difference of two methods on such a board that one test at 5 % sees in 80 % of cases, and whether it
    is a factor (of logarithms) or a difference; nan where no two methods share two seeds.

    By the median over pairs of the spread of their differences.
    """
    from scipy.optimize import root_scalar
    from scipy.stats import chi2, nct, t

    scaled, logs = on_scale(values, others)
    found = []
    for a, b in combinations(scaled.values(), 2):
        gaps = [a[seed] - b[seed] for seed in a.keys() & b.keys()]
        if len(gaps) >= 2:
            found.append((float(np.std(gaps, ddof=1)), len(gaps)))
    if not found:
        return math.nan, logs
    seeds = min(count for _, count in found)
    bar = float(t.isf(LEVEL / 2, seeds - 1))
    needed = root_scalar(lambda shift: float(nct.sf(bar, seeds - 1, shift)) - POWER, bracket=(0.0, 1e4)).root
    middle = math.sqrt(float(chi2.median(seeds - 1)) / (seeds - 1))  # of a spread of so few, in standard deviations
    gap = needed * float(np.median([spread for spread, _ in found])) / middle / math.sqrt(seeds)
    return (math.exp(gap) if gap < 700 else math.inf) if logs else gap, logs


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


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the median of sorted values, exact; none for one value."""
    if len(values) < 2:
        return math.nan, math.nan
    if len(values) % 2:
        medians, chances = values, _odd(len(values))
    else:
        x = np.array(values)
        medians, chances = ((x[:, None] + x) / 2).ravel().tolist(), _even(len(values))
    ordered = sorted(zip(medians, chances, strict=True))
    return _quantile(ordered, LEVEL / 2), _quantile(ordered, 1 - LEVEL / 2)


def _quantile(ordered: Iterable[tuple[float, float]], share: float) -> float:
    """The least value up to which the probabilities of ordered (value, probability) add up to this share."""
    below = 0.0
    for value, chance in ordered:
        below += chance
        if below >= share - 1e-9:
            return value
    raise ValueError(f"probabilities that add up to {below}, which is less than {share}")


@cache
def _odd(size: int) -> list[float]:
    """P(the median of a resample is the i-th smallest), (S,)."""
    return np.diff([_tail(size, (size + 1) // 2, i / size) for i in range(size + 1)]).tolist()


@cache
def _even(size: int) -> list[float]:
    """P(the two in the middle of a resample are the i-th and the j-th smallest), (S * S,)."""
    m = size // 2
    both = np.zeros((size + 1, size + 1))
    for i in range(size + 1):
        for j in range(size + 1):
            p, q = min(i, j) / size, j / size
            both[i, j] = _tail(size, m + 1, p) + math.comb(size, m) * p**m * ((1 - p) ** m - (1 - q) ** m)
    return np.diff(np.diff(both, axis=0), axis=1).ravel().tolist()


def _tail(size: int, least: int, p: float) -> float:
    """P(Bin(size, p) >= least)."""
    return math.fsum(math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(least, size + 1))
