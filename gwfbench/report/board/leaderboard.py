"""The leaderboard: tidy points in, one row for each (task, method) out.

The interval is the percentile bootstrap of the median over S seeds, exactly and not by drawing: the sorted resample has
    P(x*_(k) <= x_i) = P(Bin(S, i/S) >= k)
and for even S = 2 m, where the median is the mean of the two in the middle,
    P(x*_(m) <= x_i, x*_(m+1) <= x_j) = P(Bin(S, i/S) > m) + C(S, m) (i/S)^m [(1 - i/S)^m - (1 - j/S)^m],   i <= j
(Efron 1979; Hutson and Ernst 2000).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd

from gwfbench.report import stats

LEVEL = 0.95  # of the intervals
ALARM = 4.0  # standard errors by which a method must beat the floor to be suspected
AT_FLOOR = 2.0  # standard errors from the floor within which a method is at it
PLACE = {"floor": 0, "method": 1, "control": 2}  # on the board
ROLES = ("method", "floor", "control")  # what a contestant with several, by metric, is first
FINISHED = ("ok", "budget")  # a spent budget is an end, not a failure
COSTS = ["seconds", "score_calls", "sample_seconds", "sample_calls"]


@dataclass(frozen=True)
class Final:
    """One metric of one contestant at the last judged time: values of one version and one number of points."""

    role: str = ""
    better: str = "lower"
    n: float = math.nan
    left: int = 0  # values of an older version or another n: they stay out
    values: dict[int, tuple[float, float]] = field(default_factory=dict)  # by seed, with its standard error


def leaderboard(points: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Medians over seeds at each task's last judged time, with bootstrap intervals, floors and failures.

    Args:
        points: as `gwfbench.run` returns them, or as collected from records.
        metrics: which, and in which order; None: all, as the rows have them.

    Returns:
        One row a (task, method): task, method, role, information, t, seeds ("finished/total" and why the others
        did not), tier by the first metric among methods of the same information (letters: `stats.tiers`), detectable
        (`stats.detectable`, in words), the median of each metric with <metric>_low, <metric>_high (95 % bootstrap
        interval of the median over seeds; none for one seed), <metric>_n (points used), <metric>_left (values left out
        of the cell: of an older version of the metric than others on that task, or at another n than most seeds) and
        <metric>_verdict ("", "floor": not distinguishable from the noise floor at the same n, or "alarm": better than
        the floor by more than sampling error), and the median costs. Floors first, then methods by information used and
        first metric, failures last, then the other controls.
    """
    if not len(points):
        return pd.DataFrame(columns=["task", "method"])
    final = last_laws(points)
    cells = finals(final)
    floors = {(task, metric): cell for (task, _, metric), cell in cells.items() if cell.role == "floor"}
    listed = _distinct(points[points["metric"].notna()], ["task", "method", "metric", "better"])
    times = pd.to_numeric(final["t"]).groupby(final["task"]).max()
    tasks: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    used, failed = _information(points), failures(points, final)
    seeds, costs = _seeds(points, failed), _costs(points)
    for task, method, role in _distinct(points, ["task", "method", "role"]):
        before = tasks[task].get(method)
        if before is None or ROLES.index(role) < ROLES.index(before["role"]):  # one has several roles by metric
            tasks[task][method] = {
                "task": task, "method": method, "role": role,
                "information": used[task, method],
                "t": times.get(task, math.nan), "seeds": seeds[task, method], "tier": "", "detectable": "",
            }  # fmt: skip
    board = []
    for task, lines in tasks.items():
        better = {metric: better for where, _, metric, better in listed if where == task}
        known = _order([(method, metric) for where, method, metric, _ in listed if where == task])
        names = [name for name in metrics if name in known] if metrics else known
        for method, line in lines.items():
            for name in names:
                line |= _summary(name, cells.get((task, method, name), Final()), floors.get((task, name), Final()))
            line |= costs[task, method]
        if names:
            of_first = {m: cells[task, m, names[0]] for m in lines if (task, m, names[0]) in cells}
            graded = grades(lines.values(), of_first, {m: failed[task, m] for m in lines})
            for method, (tier, gap) in graded.items():
                lines[method] |= {"tier": tier, "detectable": gap}
        board += sorted(lines.values(), key=partial(_rank, names[0] if names else "", better))
    return pd.DataFrame(board)


def alarms(board: pd.DataFrame) -> list[str]:
    """A line for each value that is better than its noise floor by more than sampling error."""
    lines = []
    for column in board.columns[board.columns.str.endswith("_verdict")]:
        metric = column.removesuffix("_verdict")
        for row in board[board[column] == "alarm"].to_dict("records"):
            lines.append(
                f"ALARM: {row['method']} on {row['task']}: {metric} {row[metric]:.3g} is better than exact "
                f"draws of the truth by more than sampling error. Look for a leak, training points among the judged, "
                f"or a wrong metric."
            )
    return lines


def left_out(board: pd.DataFrame) -> list[str]:
    """A line for each cell from which values stay out because they can't be compared with the others."""
    lines = []
    for column in board.columns[board.columns.str.endswith("_left")]:
        metric = column.removesuffix("_left")
        for row in board[board[column] > 0].to_dict("records"):
            lines.append(
                f"left out: {row[column]:g} values of {metric} for {row['method']} on {row['task']}: an older version "
                f"of the metric, or at another number of points; python -m gwfbench score --metric {metric} mends that"
            )
    return lines


def last_laws(points: pd.DataFrame) -> pd.DataFrame:
    """Rows of each finished run's last judged law, where that is at the task's last judged time (null t: the limit).

    A run that diverged on the way to a limit has judged laws too, and none that counts.
    """
    judged = points[points["metric"].notna() & points["status"].isin(FINISHED)]
    last = judged[judged["step"] == judged.groupby(["run_key", "attempt"])["step"].transform("max")]
    t = pd.to_numeric(last["t"])
    return last[t.isna() | (t >= t.groupby(last["task"]).transform("max") * (1 - 1e-9))]


def finals(final: pd.DataFrame) -> dict[tuple[str, str, str], Final]:
    """What may be compared, by task, method and metric: values of the newest version, at the n that most seeds have."""
    columns = ["task", "method", "metric", "role", "better", "metric_version", "n", "seed"]
    numbers = (pd.to_numeric(final[name]).to_numpy(float) for name in ("value", "se"))
    groups: dict[tuple[str, str, str], list[tuple[Any, ...]]] = defaultdict(list)
    newest: dict[tuple[str, str], int] = defaultdict(int)
    for row in zip(*(final[name].to_list() for name in columns), *numbers, strict=True):
        groups[row[:3]].append(row[3:])
        newest[row[0], row[2]] = max(newest[row[0], row[2]], row[5])
    found = {}
    for (task, method, metric), rows in groups.items():
        known = [row for row in rows if not math.isnan(row[5])]  # a null is no value
        at = [row for row in known if row[2] == newest[task, metric]]
        counts = Counter(row[3] for row in at)
        n = max(counts, key=lambda n: (counts[n], n), default=math.nan)
        values = {row[4]: (row[5], row[6]) for row in at if row[3] == n}
        found[task, method, metric] = Final(rows[0][0], rows[0][1], n, len(known) - len(values), values)
    return found


def _summary(name: str, cell: Final, floor: Final) -> dict[str, Any]:
    values = sorted(value for value, _ in cell.values.values())
    low, high = interval(values)
    return {
        name: statistics.median(values) if len(values) else math.nan,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_n": cell.n,
        f"{name}_left": cell.left,
        f"{name}_verdict": _verdict(cell, floor),
    }


def _seeds(points: pd.DataFrame, failed: Mapping[tuple[str, str], set[int]]) -> dict[tuple[str, str], str]:
    """Finished of all, and why the others did not, by task and method."""
    ends_of: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for task, method, seed, status in _distinct(points, ["task", "method", "seed", "status"]):
        ends_of[task, method].setdefault(seed, status if seed in failed.get((task, method), ()) else "")
    text = {}
    for key, by_seed in ends_of.items():
        ends = list(by_seed.values())
        other = Counter(filter(None, ends)).most_common()
        text[key] = f"{ends.count('')}/{len(ends)}" + "".join(f", {count} {status}" for status, count in other)
    return text


def _costs(points: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Medians over runs of what each had cost in the end, by task and method."""
    numbers = points[COSTS].apply(pd.to_numeric)
    runs = numbers.groupby([points["task"], points["method"], points["run_key"]], sort=False).max()
    medians = runs.groupby(level=[0, 1], sort=False).median()
    return dict(zip(medians.index.to_list(), medians.to_dict("records"), strict=True))  # type: ignore[arg-type]


def _distinct(rows: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """The different values of these columns together, in the order of the rows."""
    return list(dict.fromkeys(zip(*(rows[name].to_list() for name in columns), strict=True)))


def _information(points: pd.DataFrame) -> dict[tuple[str, str], str]:
    """What each (task, method) has used: of all its runs, for one that failed early may have asked for less."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task, method, value in _distinct(points, ["task", "method", "information"]):
        found[task, method].append(value)
    return {who: " ".join(sorted(set(" ".join(parts).split()))) for who, parts in found.items()}


def failures(points: pd.DataFrame, final: pd.DataFrame) -> dict[tuple[str, str], set[int]]:
    """The seeds of each (task, method) that have no last law."""
    who = ["task", "method", "seed"]
    done = set(_distinct(final, who))
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for task, method, seed in _distinct(points, who):
        if (task, method, seed) not in done:
            found[task, method].add(seed)
    return found


def grades(
    lines: Iterable[Mapping[Any, Any]], finals: Mapping[str, Final], failed: Mapping[str, set[int]]
) -> dict[str, tuple[str, str]]:
    """Tier by one metric, and the difference that its seeds would show, in words; by method.

    Methods are compared with those of the same information alone.

    Args:
        lines: a task's contestants, with method, role and information.
        finals: of the metric, by contestant.
        failed: seeds, by contestant.
    """
    groups: dict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    sign = -1 if any(final.better == "higher" for final in finals.values()) else 1
    everybody = [sign * value for final in finals.values() for value, _ in final.values.values()]
    for line in lines:
        method = line["method"]
        if line["role"] == "method" and (method in finals or failed.get(method)):
            values = finals.get(method, Final()).values.items()
            known = {seed: sign * value for seed, (value, _) in values}
            groups[line["information"]][method] = dict.fromkeys(failed.get(method, ()), math.nan) | known
    found = {}
    for values in groups.values():
        letters, (gap, is_factor) = stats.tiers(values, everybody), stats.detectable(values, everybody)
        words = "" if math.isnan(gap) else f"a factor of {gap:.3g}" if is_factor else f"{gap:.2g}"
        found |= {method: (letters[method], words) for method in values}
    return found


def _order(listed: list[tuple[str, str]]) -> list[str]:
    """The metrics in the order in which a contestant that has most of them lists them."""
    lists: dict[str, list[str]] = defaultdict(list)
    for method, metric in listed:
        lists[method].append(metric)
    longest = max(lists.values(), key=len, default=[])
    return list(dict.fromkeys([*longest, *(metric for _, metric in listed)]))


def _rank(first: str, better: dict[str, str], line: dict[str, Any]) -> tuple[int, str, bool, float]:
    """Floors, methods by information and first metric, failures, other controls."""
    value = line.get(first, math.nan) * (-1 if better.get(first) == "higher" else 1)
    return PLACE[line["role"]], line["information"], math.isnan(value), 0.0 if math.isnan(value) else value


def _verdict(mine: Final, floor: Final) -> str:
    """Compare a method with the noise floor at the same n, seed by seed, in the difference's standard errors."""
    both = [(mine.values[seed], floor.values[seed]) for seed in mine.values if seed in floor.values]
    if mine.role != "method" or not both or mine.n != floor.n:
        return ""
    sign = -1 if mine.better == "higher" else 1
    gain = sign * sum(bound[0] - value[0] for value, bound in both) / len(both)
    errors = (one[1] for pair in both for one in pair)
    se = math.sqrt(sum(error**2 for error in errors if not math.isnan(error))) / len(both)
    if gain > ALARM * se:
        return "alarm"
    return "floor" if gain >= -AT_FLOOR * se else ""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the median of sorted values, exact; none for one value."""
    if len(values) < 2:
        return math.nan, math.nan
    if len(values) % 2:
        medians, chances = values, _odd(len(values))
    else:
        x = np.array(values)
        medians, chances = ((x[:, None] + x) / 2).ravel().tolist(), _even(len(values))
    ends, below = [], 0.0
    for median, chance in sorted(zip(medians, chances, strict=True)):
        below += chance
        while len(ends) < 2 and below >= (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)[len(ends)] - 1e-9:
            ends.append(median)
    return ends[0], ends[1]


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
